"""DDPM++ on MNIST (28x28, 256 gray levels) under the VP SDE: a GPU in an hour, a CPU overnight.

python -m score_sde --config=configs/vp/mnist_ddpmpp.py --workdir=runs/mnist --mode=demo --config.data.data_dir=DIR
"""

from score_sde.config import ConfigDict, default_config


def get_config() -> ConfigDict:
    """A U-Net of three levels with attention at 7x7."""
    config = default_config()
    config.data.name = "mnist"

    config.model.features = 32
    config.model.channel_multipliers = (1, 2, 2)
    config.model.num_blocks = 2
    config.model.attention_resolutions = (7,)

    config.objective.times = "low_discrepancy"
    config.optim.lr = 1e-3
    config.optim.warmup = 1000
    config.optim.ema_rate = 0.999
    config.optim.ema_warmup = True

    config.training.num_steps = 50_000
    config.training.eval_every = 1000
    config.training.checkpoint_every = 1000
    return config
