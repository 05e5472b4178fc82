"""Deep DDPM++ on CIFAR-10 under the VP SDE: 3.13 bits/dim (table 2), FID 2.41 (table 3) in Song et al. 2021."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Eight residual blocks per level, 0.95 million steps."""
    return published.deep(published.ddpmpp(published.vp(published.cifar10())))
