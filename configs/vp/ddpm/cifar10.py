"""DDPM on CIFAR-10.

3.28 bits/dim (table 2) and, with other samplers, the VP columns of tables 1 and 4 in Song et al. 2021.
"""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Two residual blocks per level, on 1000 noise levels."""
    return published.ddpm(published.vp_levels(published.cifar10()))
