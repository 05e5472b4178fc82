"""DDPM++ on the classes of MNIST (28x28, 256 gray levels) under the VP SDE: a GPU in an hour, a CPU overnight.

python -m score_sde --config=configs/vp/mnist_classes.py --workdir=runs/mnist --mode=demo --config.data.data_dir=DIR
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The run without labels, and a network that is told the digit in nine of ten training examples."""
    config = from_file(Path(__file__).with_name("mnist_ddpmpp.py"))
    config.conditioning.classes = True
    return config
