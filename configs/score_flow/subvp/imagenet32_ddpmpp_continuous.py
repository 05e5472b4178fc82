"""DDPM++ on ImageNet 32x32 under the sub-VP SDE: 3.87 bits/dim, row "Baseline" of Song et al. 2021 (2101.09258)."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Four residual blocks per level, 1.3 million steps."""
    return published.score_flow(published.ddpmpp(published.subvp(published.imagenet32())))
