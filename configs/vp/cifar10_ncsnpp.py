"""NCSN++ on CIFAR-10, trained on the 1000 noise levels of DDPM: a cross-check without a published result."""

from score_sde import published
from score_sde.config import ConfigDict


def get_config() -> ConfigDict:
    """Four residual blocks per level, sampled with reverse diffusion."""
    config = published.cifar10()
    published.vp_levels(config)
    published.ncsnpp(config)
    config.sampling.predictor = "reverse_diffusion"
    return config
