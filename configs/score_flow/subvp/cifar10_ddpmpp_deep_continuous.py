"""Deep DDPM++ on CIFAR-10 under the sub-VP SDE: 2.96 bits/dim, row "Deep" of Song et al. 2021 (2101.09258)."""

from score_sde import published
from score_sde.config import ConfigDict


def get_config() -> ConfigDict:
    """Eight residual blocks per level, 0.95 million steps."""
    config = published.cifar10()
    published.subvp(config)
    published.ddpmpp(config)
    published.deep(config)
    published.score_flow(config)
    return config
