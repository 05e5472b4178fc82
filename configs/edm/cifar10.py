"""EDM on CIFAR-10 (Karras et al. 2022): FID 1.97 with 35 evaluations there, unconditional.

Not the paper's in two points: data are not augmented, and the average is one exponential, of the paper's half-life.
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file
from score_sde.published import edm


def get_config() -> ConfigDict:
    """DDPM++ with preconditioning, lognormal noise levels and Adam at 1e-3, for 200 million images."""
    config = edm(from_file(Path(__file__).parents[1] / "vp" / "cifar10_ddpmpp_continuous.py"))
    config.model.dropout = 0.13
    config.optim.lr = 1e-3
    config.optim.warmup = 19_531  # 10 million images
    config.optim.ema_rate = 0.5 ** (512 / 500_000)  # a half-life of half a million images
    config.optim.grad_clip = 0.0
    config.training.batch_size = 512
    config.training.num_steps = 390_625
    return config
