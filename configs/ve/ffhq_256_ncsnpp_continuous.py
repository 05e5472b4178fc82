"""NCSN++ on FFHQ at 256x256 under the continuous VE SDE, without a published result."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Seven resolutions and 2000 sampling steps."""
    return published.ncsnpp_256(
        published.ve(published.large_images("ffhq", 256), sigma_max=348.0, num_scales=2000, snr=0.075)
    )
