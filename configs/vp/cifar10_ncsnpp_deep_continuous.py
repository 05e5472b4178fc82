"""Deep NCSN++ on CIFAR-10 under the VP SDE: a cross-check without a published result."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Eight residual blocks per level, 0.95 million steps."""
    return published.deep(published.ncsnpp(published.vp(published.cifar10())))
