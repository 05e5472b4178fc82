"""NCSN++ on LSUN churches at 256x256 under the continuous VE SDE: figure 9 in Song et al. 2021."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Seven resolutions and 2000 sampling steps."""
    return published.ncsnpp_256(
        published.ve(published.large_images("church", 256), sigma_max=380.0, num_scales=2000, snr=0.075)
    )
