"""DDPM's network on CIFAR-10 under the sub-VP SDE: 3.05 bits/dim (table 2) in Song et al. 2021."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Two residual blocks per level, on continuous times."""
    return published.ddpm(published.subvp(published.cifar10()))
