"""A small DDPM++ on MNIST (28x28, 256 gray levels) under the VP SDE: under an hour on two cores.

python -m score_sde --config=configs/vp/mnist_ddpmpp_small.py --workdir=runs/mnist --mode=demo --config.data.data_dir=D
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The networks of ``mnist_ddpmpp.py`` with half the channels and blocks, and a fifteenth of the steps."""
    config = from_file(Path(__file__).parent / "mnist_ddpmpp.py")
    config.model.features = 16
    config.model.num_blocks = 1

    config.optim.lr = 2e-3
    config.optim.warmup = 300
    config.optim.schedule = "cosine"

    config.training.num_steps = 3500
    config.training.batch_size = 64
    config.training.eval_every = 500
    config.training.checkpoint_every = 500

    config.sampling.num_steps = 500
    config.likelihood.num_steps = 48
    config.likelihood.bound_times = 32
    return config
