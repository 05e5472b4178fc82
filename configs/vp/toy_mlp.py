"""A residual MLP on a two-dimensional density under the VP SDE, with the exact likelihood: a minute on a CPU.

python -m score_sde --config=configs/vp/toy_mlp.py --workdir=runs/toy --mode=demo
"""

from score_sde.config import ConfigDict, default_config


def get_config() -> ConfigDict:
    """Eight Gaussians; any other toy with --config.data.name=toy:NAME."""
    config = default_config()
    config.data.name = "toy:gaussians"

    config.model.name = "mlp"
    config.model.features = 128
    config.model.num_blocks = 3
    config.model.dropout = 0.0

    config.objective.times = "low_discrepancy"
    config.optim.lr = 1e-3
    config.optim.warmup = 200
    config.optim.ema_rate = 0.999
    config.optim.ema_warmup = True

    config.training.num_steps = 6000
    config.training.batch_size = 512
    config.training.log_every = 100
    config.training.eval_every = 1000
    config.training.sample_every = 1000
    config.training.checkpoint_every = 1000

    config.sampling.num_samples = 2000
    config.sampling.batch_size = 2000
    config.sampling.num_steps = 500
    config.likelihood.num_probes = 0
    config.likelihood.num_examples = 1000
    config.likelihood.batch_size = 500
    return config
