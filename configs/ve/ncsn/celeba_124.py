"""NCSN on CelebA at 64x64 with techniques 1, 2 and 4 of Song & Ermon 2020."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """500 noise levels from the largest distance in the data, with Langevin steps to match."""
    return published.ncsn(published.celeba(), sigma_max=90.0, num_scales=500, snr=0.128, num_corrections=5)
