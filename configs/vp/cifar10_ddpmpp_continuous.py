"""DDPM++ on CIFAR-10 under the VP SDE: 3.16 bits/dim (table 2), FID 2.55 (table 3) in Song et al. 2021."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Four residual blocks per level, 1.3 million steps."""
    return published.ddpmpp(published.vp(published.cifar10()))
