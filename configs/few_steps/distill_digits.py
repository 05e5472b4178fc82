"""Progressive distillation of EDM on scikit-learn's handwritten digits: a minute per halving on a laptop's CPU.

python -m score_sde --config=configs/edm/digits.py --workdir=runs/edm_digits --mode=train
python -m score_sde --config=configs/few_steps/distill_digits.py --workdir=runs/student_8 --mode=train \
    --config.training.init_from=runs/edm_digits
python -m score_sde --config=configs/few_steps/distill_digits.py --workdir=runs/student_4 --mode=train \
    --config.training.init_from=runs/student_8 --config.objective.student_steps=4 --config.sampling.num_steps=4
python -m score_sde --workdir=runs/student_4 --mode=sample
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file
from score_sde.published import distillation


def get_config() -> ConfigDict:
    """The network and the data of ``edm/digits.py`` with the loss of Salimans & Ho 2022 (arXiv 2202.00512).

    They halve from 8192 steps, with 50,000 steps of training each, evenly spaced on the cosine path; here a run has
    1,000 steps.
    """
    config = distillation(from_file(Path(__file__).parents[1] / "edm" / "digits.py"))
    config.optim.lr = 1e-3
    config.training.num_steps = 1000
    return config
