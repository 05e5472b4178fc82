"""NCSN++ on CIFAR-10, trained on the 1000 noise levels of DDPM: a cross-check without a published result."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Four residual blocks per level, sampled with reverse diffusion."""
    config = published.ncsnpp(published.vp_levels(published.cifar10()))
    config.sampling.predictor = "reverse_diffusion"
    return config
