"""DDPM's network on CIFAR-10 under the VE SDE: the VE columns of tables 1 and 4 in Song et al. 2021, by sampler."""

from score_sde import published
from score_sde.config import ConfigDict


def get_config() -> ConfigDict:
    """Two residual blocks per level, on 1000 noise levels."""
    config = published.cifar10()
    published.ve_levels(config, sigma_max=50.0)
    published.ddpm(config)
    return config
