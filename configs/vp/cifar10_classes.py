"""DDPM++ on the classes of CIFAR-10 under the VP SDE: the network of Song et al. 2021, told the class; not published.

python -m score_sde --config=configs/vp/cifar10_classes.py --workdir=runs/cifar10 --mode=train
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The run without labels, and a network that is told the class in nine of ten training examples."""
    config = from_file(Path(__file__).with_name("cifar10_ddpmpp_continuous.py"))
    config.conditioning.classes = True
    return config
