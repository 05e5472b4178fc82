"""MeanFlow on scikit-learn's handwritten digits: five minutes on a laptop's CPU.

python -m score_sde --config=configs/few_steps/mean_flow_digits.py --workdir=runs/mean_flow_digits --mode=train
python -m score_sde --workdir=runs/mean_flow_digits --mode=sample --config.sampling.num_steps=1
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The network and the data of ``flow/digits.py`` with the loss of Geng et al. 2025 (arXiv 2505.13447).

    Theirs for CIFAR-10 are the share of examples with two times, the adaptive weight and its offset. The times are
    around the middle of the path, and the run is as short as the others of the digits: on CIFAR-10 there are 800,000
    steps of 1024 images with a dropout of 0.2. The network is told ``log(s / m)``, whose embedding changes slowly: the
    loss has its derivative by time, and with ``999 t`` little is learned.
    """
    config = from_file(Path(__file__).parents[1] / "flow" / "digits.py")
    config.parameterization.condition_on = "log_noise"
    config.objective.kind = "mean_flow"
    config.objective.weighting = "variance"
    config.objective.times = "logit_normal"
    config.objective.time_mean = -0.4
    config.objective.time_std = 1.0
    config.objective.apart = 0.75
    config.objective.adaptive_power = 0.75
    config.objective.adaptive_offset = 1e-3
    config.sampling.predictor = "mean_flow"
    config.sampling.num_steps = 1
    config.sampling.t_min = 1e-5
    config.sampling.denoising = "mean"
    return config
