"""NCSN++ on FFHQ at 1024x1024 under the continuous VE SDE: the samples of appendix H.3 in Song et al. 2021."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """Eight resolutions and 2000 sampling steps, with the loss averaged over pixels."""
    config = published.ncsnpp_1024(
        published.ve(published.large_images("ffhq", 1024), sigma_max=1348.0, num_scales=2000, snr=0.15)
    )
    config.objective.reduce_mean = True
    return config
