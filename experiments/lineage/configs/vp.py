"""Score SDE, variance preserving (Song et al. 2021): denoising in continuous time. The others change this one.

python -m score_sde --config=experiments/lineage/configs/vp.py --workdir=runs/lineage/vp --mode=demo
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The digits' own configuration, with enough samples to compare and the likelihood on a fixed grid."""
    config = from_file(Path(__file__).parents[3] / "configs" / "vp" / "digits_ddpmpp.py")
    config.training.sample_every = 0
    config.sampling.num_samples = 1000
    config.sampling.batch_size = 250
    config.likelihood.num_steps = 48
    return config
