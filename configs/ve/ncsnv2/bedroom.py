"""NCSNv2 on LSUN bedrooms at 128x128, after Song & Ermon 2020."""

from score_sde import published


def get_config() -> published.ConfigDict:
    """1086 noise levels, larger batches and a slower average."""
    config = published.ncsnv2(
        published.large_images("bedroom", 128), 128, sigma_max=190.0, num_scales=1086, snr=0.095, num_corrections=3
    )
    config.optim.ema_rate = 0.9999
    config.training.batch_size = 128
    return config
