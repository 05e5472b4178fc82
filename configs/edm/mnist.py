"""EDM on MNIST (28x28, 256 gray levels): under an hour on two cores.

python -m score_sde --config=configs/edm/mnist.py --workdir=runs/edm_mnist --mode=demo --config.data.data_dir=D
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file
from score_sde.published import edm


def get_config() -> ConfigDict:
    """The network and the run of ``vp/mnist_ddpmpp_small.py`` with the training of Karras et al. 2022."""
    config = edm(from_file(Path(__file__).parents[1] / "vp" / "mnist_ddpmpp_small.py"))
    config.objective.even_times = True
    return config
