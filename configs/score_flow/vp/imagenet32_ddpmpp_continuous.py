"""DDPM++ on ImageNet 32x32 under the VP SDE: 3.90 bits/dim, row "Baseline" of Song et al. 2021 (2101.09258)."""

from score_sde import published
from score_sde.config import ConfigDict


def get_config() -> ConfigDict:
    """Four residual blocks per level, 1.3 million steps."""
    config = published.imagenet32()
    published.vp(config)
    published.ddpmpp(config)
    published.score_flow(config)
    return config
