"""The digits demo under the VE SDE.

python -m score_sde --config=configs/ve/digits_ddpmpp.py --workdir=runs/digits_ve --mode=demo
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The VP run with another process, preconditioned for its large noise, and its own end of sampling."""
    config = from_file(Path(__file__).parents[1] / "vp" / "digits_ddpmpp.py")
    config.sde.name = "ve"
    config.sde.sigma_max = 10.0  # about the largest distance between two digits
    config.parameterization.output = "edm"
    config.parameterization.data_std = 0.75
    config.sampling.predictor = "reverse_diffusion"
    config.sampling.t_min = 1e-5
    return config
