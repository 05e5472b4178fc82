"""DDPM's network on CIFAR-10 under the continuous VP SDE: 3.21 bits/dim (table 2) in Song et al. 2021."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Two residual blocks per level, on continuous times."""
    return published.ddpm(published.vp(published.cifar10()))
