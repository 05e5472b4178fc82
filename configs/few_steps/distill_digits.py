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


def get_config() -> ConfigDict:
    """The network and the data of ``edm/digits.py`` with the loss of Salimans & Ho 2022 (arXiv 2202.00512).

    Theirs are the start of each student from its teacher, the halving, the learning rate that falls to 0, and the
    weights SNR + 1 of the data, which ``edm`` has in units of their deviation. EDM's output is their target ``v`` for
    data of unit variance. They halve from 8192 steps, with 50,000 steps of training each, evenly spaced on the cosine
    path; here the times are those of EDM, and a run has 1,000 steps.
    """
    config = from_file(Path(__file__).parents[1] / "edm" / "digits.py")
    config.objective.kind = "distillation"
    config.objective.times = "uniform"  # not read: the student has its own
    config.objective.even_times = False
    config.objective.student_steps = 8
    config.objective.student_grid = "edm"
    config.objective.t_min = 2.5e-5  # a noise of 0.002
    config.optim.lr = 1e-3
    config.optim.warmup = 0
    config.training.num_steps = 1000
    config.sampling.predictor = "ddim"
    config.sampling.num_steps = 8  # as many as the student has
    config.sampling.denoising = "none"
    return config
