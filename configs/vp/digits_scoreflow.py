"""ScoreFlow on the digits: likelihood weighting, importance-sampled times, variational dequantization.

python -m score_sde --config=configs/vp/digits_scoreflow.py --workdir=runs/scoreflow --mode=train
python -m score_sde --config=configs/vp/digits_scoreflow.py --workdir=runs/scoreflow --mode=train_dequantizer
python -m score_sde --config=configs/vp/digits_scoreflow.py --workdir=runs/scoreflow --mode=likelihood
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file
from score_sde.fields import DEFAULTS


def get_config() -> ConfigDict:
    """``digits_ddpmpp.py`` trained for likelihood (Song et al. 2021b), and a small Flow++."""
    config = from_file(Path(__file__).parent / "digits_ddpmpp.py")
    config.objective.weighting = "likelihood"
    config.objective.times = "importance"

    config.dequantizer.name = "flowpp"
    config.dequantizer.filters = 32
    config.dequantizer.components = 8
    config.dequantizer.blocks = 1
    config.dequantizer.num_flows = 2
    config.dequantizer.context_features = 16
    config.dequantizer.batch_size = 64
    config.dequantizer.num_steps = 1000
    config.dequantizer.lr = 2e-3
    config.dequantizer.warmup = 100
    config.dequantizer.eval_every = 500
    config.dequantizer.checkpoint_every = 500

    config.likelihood.num_steps = 48
    config.likelihood.tolerance = DEFAULTS.likelihood.tolerance  # of the adaptive solver, which is not used here
    config.likelihood.bound_times = 128
    config.likelihood.dequantization = "variational"
    return config
