"""Flow matching on scikit-learn's handwritten digits (8x8, 17 gray levels): minutes on a laptop's CPU.

python -m score_sde --config=configs/flow/digits.py --workdir=runs/flow_digits --mode=demo
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file
from score_sde.published import flow_matching


def get_config() -> ConfigDict:
    """The network and the run of ``vp/digits_ddpmpp.py`` on the straight path, for its velocity."""
    return flow_matching(from_file(Path(__file__).parents[1] / "vp" / "digits_ddpmpp.py"))
