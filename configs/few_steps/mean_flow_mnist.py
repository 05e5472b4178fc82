"""MeanFlow on MNIST (28x28, 256 gray levels): about an hour on two cores.

python -m score_sde --config=configs/few_steps/mean_flow_mnist.py --workdir=runs/mean_flow_mnist --mode=train \
    --config.data.data_dir=D
python -m score_sde --workdir=runs/mean_flow_mnist --mode=sample --config.sampling.num_steps=1
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file
from score_sde.published import mean_flow


def get_config() -> ConfigDict:
    """The network and the data of ``flow/mnist.py`` with the loss of Geng et al. 2025 (arXiv 2505.13447).

    The run is as short as the others of MNIST: on CIFAR-10 there are 800,000 steps of 1024 images, with a dropout of
    0.2.
    """
    return mean_flow(from_file(Path(__file__).parents[1] / "flow" / "mnist.py"))
