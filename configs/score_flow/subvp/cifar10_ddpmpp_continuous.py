"""DDPM++ on CIFAR-10 under the sub-VP SDE: 2.99 bits/dim, row "Baseline" of Song et al. 2021 (2101.09258)."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Four residual blocks per level, 1.3 million steps."""
    return published.score_flow(published.ddpmpp(published.subvp(published.cifar10())))
