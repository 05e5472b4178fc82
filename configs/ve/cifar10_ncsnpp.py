"""NCSN++ on CIFAR-10, trained on 1000 noise levels: FID 2.45 (table 3) in Song et al. 2021."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Four residual blocks per level, 1.3 million steps."""
    return published.ncsnpp(published.ve_levels(published.cifar10(), sigma_max=50.0))
