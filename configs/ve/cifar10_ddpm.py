"""DDPM's network on CIFAR-10 under the VE SDE: the VE columns of tables 1 and 4 in Song et al. 2021, by sampler."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Two residual blocks per level, on 1000 noise levels."""
    return published.ddpm(published.ve_levels(published.cifar10(), sigma_max=50.0))
