"""MeanFlow on scikit-learn's handwritten digits: five minutes on a laptop's CPU.

python -m score_sde --config=configs/few_steps/mean_flow_digits.py --workdir=runs/mean_flow_digits --mode=train
python -m score_sde --workdir=runs/mean_flow_digits --mode=sample --config.sampling.num_steps=1
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file
from score_sde.published import mean_flow


def get_config() -> ConfigDict:
    """The network and the data of ``flow/digits.py`` with the loss of Geng et al. 2025 (arXiv 2505.13447).

    The run is as short as the others of the digits: on CIFAR-10 there are 800,000 steps of 1024 images, with a dropout
    of 0.2.
    """
    return mean_flow(from_file(Path(__file__).parents[1] / "flow" / "digits.py"))
