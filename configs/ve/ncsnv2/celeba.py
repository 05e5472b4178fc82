"""NCSNv2 on CelebA at 64x64: all techniques of Song & Ermon 2020."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """500 noise levels, a network blind to them, and averaged parameters."""
    return published.ncsnv2(published.celeba(), 64, sigma_max=90.0, num_scales=500, snr=0.128, num_corrections=5)
