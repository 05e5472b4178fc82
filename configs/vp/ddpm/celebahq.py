"""DDPM on CelebA-HQ at 256x256, after Ho et al. 2020."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Six resolutions and 112 million parameters."""
    return published.ddpm_256(published.vp_levels(published.large_images("celebahq", 256)))
