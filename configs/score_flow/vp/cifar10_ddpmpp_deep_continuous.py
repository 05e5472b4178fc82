"""Deep DDPM++ on CIFAR-10 under the VP SDE: 3.13 bits/dim, row "Deep" of Song et al. 2021 (2101.09258)."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Eight residual blocks per level, 0.95 million steps."""
    return published.score_flow(published.deep(published.ddpmpp(published.vp(published.cifar10()))))
