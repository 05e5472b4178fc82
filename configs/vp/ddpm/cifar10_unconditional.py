"""DDPM on CIFAR-10 by a network blind to the noise level.

Technique 3 of Song & Ermon 2020, without a published result.
"""

from score_sde import published


def get_config() -> published.ConfigDict:
    """As DDPM, without the embedding of the level."""
    config = published.ddpm(published.vp_levels(published.cifar10()))
    config.model.embedding = "none"
    return config
