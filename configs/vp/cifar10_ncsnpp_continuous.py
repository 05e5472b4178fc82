"""NCSN++, made for the VE SDE, on CIFAR-10 under the VP SDE: a cross-check without a published result."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Four residual blocks per level, 1.3 million steps."""
    return published.ncsnpp(published.vp(published.cifar10()))
