"""Flow matching on scikit-learn's handwritten digits (8x8, 17 gray levels): minutes on a laptop's CPU.

python -m score_sde --config=configs/flow/digits.py --workdir=runs/flow_digits --mode=demo
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The network and the run of ``vp/digits_ddpmpp.py`` on the straight path, for its velocity."""
    config = from_file(Path(__file__).parents[1] / "vp" / "digits_ddpmpp.py")
    config.sde.name = "rectified_flow"
    config.parameterization.output = "velocity"
    config.objective.weighting = "flow"
    config.objective.t_min = 1e-3  # where the noise of the path is that of VP at 1e-5
    config.likelihood.t_min = 1e-3
    config.sampling.predictor = "heun"
    config.sampling.num_steps = 25
    return config
