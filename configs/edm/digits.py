"""EDM on scikit-learn's handwritten digits (8x8, 17 gray levels): minutes on a laptop's CPU.

python -m score_sde --config=configs/edm/digits.py --workdir=runs/edm_digits --mode=demo
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file
from score_sde.published import edm


def get_config() -> ConfigDict:
    """The network and the run of ``vp/digits_ddpmpp.py`` with the training of Karras et al. 2022."""
    config = edm(from_file(Path(__file__).parents[1] / "vp" / "digits_ddpmpp.py"))
    config.objective.even_times = True
    config.likelihood.t_min = 1e-5  # a noise of 8e-4
    return config
