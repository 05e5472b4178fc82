"""DDPM++ on scikit-learn's handwritten digits (8x8, 17 gray levels) under the VP SDE: minutes on a laptop's CPU.

python -m score_sde --config=configs/vp/digits_ddpmpp.py --workdir=runs/digits --mode=demo
"""

from score_sde.config import ConfigDict, default_config


def get_config() -> ConfigDict:
    """A U-Net of 189 thousand parameters and a run that ends within minutes."""
    config = default_config()
    config.data.name = "digits"

    config.model.features = 16
    config.model.channel_multipliers = (1, 2)
    config.model.num_blocks = 1
    config.model.attention_resolutions = (4,)

    config.objective.times = "low_discrepancy"
    config.optim.lr = 3e-3
    config.optim.warmup = 200
    config.optim.schedule = "cosine"
    config.optim.ema_rate = 0.999
    config.optim.ema_warmup = True

    config.training.num_steps = 3000
    config.training.batch_size = 64
    config.training.log_every = 50
    config.training.eval_every = 500
    config.training.sample_every = 500
    config.training.checkpoint_every = 500

    config.sampling.num_steps = 500
    config.sampling.num_samples = 100
    config.sampling.batch_size = 100
    config.likelihood.tolerance = 1e-3  # see README.md for what it costs in accuracy
    config.likelihood.batch_size = 297
    config.likelihood.bound_times = 128
    return config
