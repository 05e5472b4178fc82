"""DDPM++ on CIFAR-10, trained on the 1000 noise levels of DDPM: FID 2.78 (table 3) in Song et al. 2021."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Four residual blocks per level, 1.3 million steps."""
    return published.ddpmpp(published.vp_levels(published.cifar10()))
