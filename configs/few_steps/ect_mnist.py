"""Easy consistency tuning of EDM on MNIST (28x28, 256 gray levels): about an hour on two cores.

python -m score_sde --config=configs/edm/mnist.py --workdir=runs/edm_mnist --mode=train --config.data.data_dir=D
python -m score_sde --config=configs/few_steps/ect_mnist.py --workdir=runs/ect_mnist --mode=train \
    --config.data.data_dir=D --config.training.init_from=runs/edm_mnist
python -m score_sde --workdir=runs/ect_mnist --mode=sample --config.sampling.num_steps=1

Without ``training.init_from`` it is consistency training from scratch.
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file
from score_sde.published import consistency


def get_config() -> ConfigDict:
    """The network and the data of ``edm/mnist.py`` with the loss of Geng et al. 2024 (arXiv 2406.14548).

    The stages are as short as the run, in which the learning rate falls and dropout stays as it was: on CIFAR-10 there
    are 400,000 steps of RAdam at 1e-4 with a dropout of 0.2.
    """
    config = consistency(from_file(Path(__file__).parents[1] / "edm" / "mnist.py"))
    config.objective.gap_every = 500
    config.optim.lr = 1e-3
    return config
