"""Deep NCSN++ on CIFAR-10 under the VP SDE: a cross-check without a published result."""

from score_sde import published
from score_sde.config import ConfigDict


def get_config() -> ConfigDict:
    """Eight residual blocks per level, 0.95 million steps."""
    config = published.cifar10()
    published.vp(config)
    published.ncsnpp(config)
    published.deep(config)
    return config
