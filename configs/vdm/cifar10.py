"""Variational diffusion on CIFAR-10 (32x32x3, 256 gray levels): the recipe of MNIST with more features and two blocks.

python -m score_sde --config=configs/vdm/cifar10.py --workdir=runs/vdm_cifar10 --mode=train
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """A network for one GPU: logits of 256 levels for each of three channels."""
    config = from_file(Path(__file__).with_name("mnist.py"))
    config.data.name = "cifar10"
    config.conditioning.classes = False  # as the published bounds of CIFAR-10 are
    config.model.features = 64
    config.model.num_blocks = 2
    config.model.dropout = 0.1
    config.optim.lr = 2e-3
    config.optim.warmup = 1000
    config.optim.ema_rate = 0.9999
    config.training.num_steps = 200_000
    config.training.batch_size = 128
    config.training.log_every = 100
    config.training.eval_every = 5000
    config.training.checkpoint_every = 1000
    return config
