"""NCSN++ on CIFAR-10, trained on 1000 noise levels: FID 2.45 (table 3) in Song et al. 2021."""

from score_sde import published
from score_sde.config import ConfigDict


def get_config() -> ConfigDict:
    """Four residual blocks per level, 1.3 million steps."""
    config = published.cifar10()
    published.ve_levels(config, sigma_max=50.0)
    published.ncsnpp(config)
    return config
