"""NCSN on CIFAR-10 with techniques 1, 2 and 4 of Song & Ermon 2020."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """232 noise levels from the largest distance in the data, with Langevin steps to match."""
    return published.ncsn(published.cifar10(), sigma_max=50.0, num_scales=232, snr=0.176, num_corrections=5)
