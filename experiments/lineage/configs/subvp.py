"""Score SDE, sub-variance preserving (Song et al. 2021): less noise at the same signal.

python -m score_sde --config=experiments/lineage/configs/subvp.py --workdir=runs/lineage/subvp --mode=demo
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The VP run with another process."""
    config = from_file(Path(__file__).parent / "vp.py")
    config.sde.name = "subvp"
    return config
