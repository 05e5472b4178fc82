"""Flow matching on MNIST (28x28, 256 gray levels): under an hour on two cores.

python -m score_sde --config=configs/flow/mnist.py --workdir=runs/flow_mnist --mode=demo --config.data.data_dir=D
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file
from score_sde.published import flow_matching


def get_config() -> ConfigDict:
    """The network and the run of ``vp/mnist_ddpmpp_small.py`` on the straight path, for its velocity."""
    return flow_matching(from_file(Path(__file__).parents[1] / "vp" / "mnist_ddpmpp_small.py"))
