"""Score SDE, variance exploding (Song et al. 2021): the limit of NCSN's noise levels.

python -m score_sde --config=experiments/lineage/configs/ve.py --workdir=runs/lineage/ve --mode=demo
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The VP run with another process, preconditioned for its large noise."""
    config = from_file(Path(__file__).parent / "vp.py")
    config.sde.name = "ve"
    config.sde.sigma_max = 10.0  # about the largest distance between two digits
    config.parameterization.output = "edm"
    config.parameterization.data_std = 0.75
    config.sampling.predictor = "reverse_diffusion"
    config.sampling.t_min = 1e-5
    return config
