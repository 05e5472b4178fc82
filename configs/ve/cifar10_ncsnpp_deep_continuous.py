"""Deep NCSN++ on CIFAR-10 under the continuous VE SDE: FID 2.20 (table 3) in Song et al. 2021."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Eight residual blocks per level, 0.95 million steps."""
    return published.deep(published.ncsnpp(published.ve(published.cifar10(), sigma_max=50.0)))
