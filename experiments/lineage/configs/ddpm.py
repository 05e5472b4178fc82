"""DDPM (Ho et al. 2020): the simple loss on a chain of 500 steps with linear betas, and ancestral sampling.

python -m score_sde --config=experiments/lineage/configs/ddpm.py --workdir=runs/lineage/ddpm --mode=demo
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The VP run on the chain that it is the limit of."""
    config = from_file(Path(__file__).parent / "vp.py")
    config.sde.schedule = "linear"
    config.parameterization.num_scales = 500
    config.objective.times = "levels"
    config.objective.t_min = 1.0 / 500
    config.sampling.predictor = "ancestral"
    config.sampling.num_steps = 499  # all levels
    config.sampling.t_min = 1.0 / 500
    return config
