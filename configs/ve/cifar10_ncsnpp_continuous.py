"""NCSN++ on CIFAR-10 under the continuous VE SDE: FID 2.38 (table 3) in Song et al. 2021."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Four residual blocks per level, 1.3 million steps (0.95 million in the paper)."""
    return published.ncsnpp(published.ve(published.cifar10(), sigma_max=50.0))
