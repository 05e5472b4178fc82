"""NCSN on CIFAR-10 with the 10 noise levels of its first paper, as Song & Ermon 2020 compare with it."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """None of the techniques of NCSNv2."""
    return published.ncsn(published.cifar10(), sigma_max=1.0, num_scales=10, snr=0.316, num_corrections=100)
