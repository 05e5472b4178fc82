"""Easy consistency tuning of EDM on scikit-learn's handwritten digits: two minutes on a laptop's CPU.

python -m score_sde --config=configs/edm/digits.py --workdir=runs/edm_digits --mode=train
python -m score_sde --config=configs/few_steps/ect_digits.py --workdir=runs/ect_digits --mode=train \
    --config.training.init_from=runs/edm_digits
python -m score_sde --workdir=runs/ect_digits --mode=sample --config.sampling.num_steps=1

Without ``training.init_from`` it is consistency training from scratch.
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file
from score_sde.published import consistency


def get_config() -> ConfigDict:
    """The network and the data of ``edm/digits.py`` with the loss of Geng et al. 2024 (arXiv 2406.14548).

    The stages are as short as the run, in which the learning rate falls and dropout stays as it was: on CIFAR-10 there
    are 400,000 steps of RAdam at 1e-4 with a dropout of 0.2.
    """
    config = consistency(from_file(Path(__file__).parents[1] / "edm" / "digits.py"))
    config.objective.gap_every = 500
    config.optim.lr = 1e-3
    return config
