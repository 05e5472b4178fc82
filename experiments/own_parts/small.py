"""What the examples have in common: a run of a minute on points of the plane."""

from score_sde.config import ConfigDict, default_config


def small() -> ConfigDict:
    """Two moons, a small network, 1000 steps."""
    config = default_config()
    config.data.name = "toy:moons"
    config.model.name = "mlp"
    config.model.features = 64
    config.model.num_blocks = 2
    config.parameterization.condition_on = "log_noise"
    config.optim.lr = 1e-3
    config.optim.warmup = 100
    config.optim.ema_warmup = True
    config.training.num_steps = 1000
    config.training.eval_every = 500
    config.training.checkpoint_every = 500
    config.sampling.num_steps = 100
    config.sampling.num_samples = 500
    config.likelihood.num_examples = 200
    return config
