"""NCSNv2 on CIFAR-10: all techniques of Song & Ermon 2020."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """232 noise levels, a network blind to them, and averaged parameters."""
    return published.ncsnv2(published.cifar10(), 64, sigma_max=50.0, num_scales=232, snr=0.176, num_corrections=5)
