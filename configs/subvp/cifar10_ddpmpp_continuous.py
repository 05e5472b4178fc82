"""DDPM++ on CIFAR-10 under the sub-VP SDE: 3.02 bits/dim (table 2), FID 2.61 (table 3) in Song et al. 2021."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Four residual blocks per level, 1.3 million steps."""
    return published.ddpmpp(published.subvp(published.cifar10()))
