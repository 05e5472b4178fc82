"""ScoreFlow (Song et al. 2021b): likelihood weighting, importance-sampled times, variational dequantization.

C="--config=experiments/lineage/configs/scoreflow.py --workdir=runs/lineage/scoreflow"
python -m score_sde $C --mode=train
python -m score_sde $C --mode=train_dequantizer
python -m score_sde $C --mode=likelihood
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The repository's own ScoreFlow on the digits, with as many samples as the others draw."""
    config = from_file(Path(__file__).parents[3] / "configs" / "vp" / "digits_scoreflow.py")
    config.training.sample_every = 0
    config.sampling.num_samples = 1000
    config.sampling.batch_size = 250
    return config
