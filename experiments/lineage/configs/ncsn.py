"""NCSN (Song & Ermon 2019, 2020): denoising score matching at 25 noise levels, and annealed Langevin dynamics.

python -m score_sde --config=experiments/lineage/configs/ncsn.py --workdir=runs/lineage/ncsn --mode=demo
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The chain that the VE run is the limit of, with levels and steps as the techniques of NCSNv2 have them."""
    config = from_file(Path(__file__).parent / "ve.py")
    config.sde.schedule = "geometric"
    config.parameterization.num_scales = 25  # chains.num_noise_levels(64, 0.01, 10)
    config.parameterization.output = "score"  # times sigma
    config.parameterization.scale_input = True
    config.parameterization.condition_on = "log_noise"
    config.objective.times = "levels"
    config.objective.t_min = 1e-12  # the first of its levels is at 0
    config.sampling.predictor = "none"
    config.sampling.corrector = "annealed_langevin"
    config.sampling.num_corrections = 5
    config.sampling.snr = 0.3426  # sqrt(e / 2) / sigma_min of chains.langevin_step(1.3406, 5)
    config.sampling.num_steps = 24
    return config
