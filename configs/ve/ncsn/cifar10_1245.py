"""NCSN on CIFAR-10 with techniques 1, 2, 4 and 5 of Song & Ermon 2020."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """232 noise levels from the largest distance in the data, and averaged parameters."""
    config = published.ncsn(published.cifar10(), sigma_max=50.0, num_scales=232, snr=0.176, num_corrections=5)
    config.optim.ema_rate = 0.999
    return config
