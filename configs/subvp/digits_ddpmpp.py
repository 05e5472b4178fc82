"""The digits demo under the sub-VP SDE.

python -m score_sde --config=configs/subvp/digits_ddpmpp.py --workdir=runs/digits_subvp --mode=demo
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The VP run with another process."""
    config = from_file(Path(__file__).parents[1] / "vp" / "digits_ddpmpp.py")
    config.sde.name = "subvp"
    return config
