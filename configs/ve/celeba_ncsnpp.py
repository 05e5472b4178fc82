"""NCSN++ on CelebA at 64x64, trained on 1000 noise levels: the architecture study of Song et al. 2021, appendix H."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Four residual blocks per level, 1.3 million steps."""
    return published.ncsnpp(published.ve_levels(published.celeba(), sigma_max=90.0, snr=0.17))
