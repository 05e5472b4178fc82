"""EDM2 on scikit-learn's handwritten digits (8x8, 17 gray levels): minutes on a laptop's CPU.

python -m score_sde --config=configs/edm2/digits.py --workdir=runs/edm2_digits --mode=demo
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file
from score_sde.published import edm2


def get_config() -> ConfigDict:
    """The run of ``edm/digits.py`` with the network and the training of Karras et al. 2024 (arXiv 2312.02696).

    The learning rate falls from the 500th step on; on ImageNet-64 it does so after 35,000 batches of 2048 images.
    """
    config = edm2(from_file(Path(__file__).parents[1] / "edm" / "digits.py"))
    config.optim.decay_after = 500
    return config
