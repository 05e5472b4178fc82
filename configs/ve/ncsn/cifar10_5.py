"""NCSN on CIFAR-10 with technique 5 of Song & Ermon 2020."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Averaged parameters."""
    config = published.ncsn(published.cifar10(), sigma_max=1.0, num_scales=10, snr=0.316, num_corrections=100)
    config.optim.ema_rate = 0.999
    return config
