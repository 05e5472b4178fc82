"""EDM on MNIST (28x28, 256 gray levels): under an hour on two cores.

python -m score_sde --config=configs/edm/mnist.py --workdir=runs/edm_mnist --mode=demo --config.data.data_dir=D
"""

from pathlib import Path

from score_sde.config import ConfigDict, from_file


def get_config() -> ConfigDict:
    """The network and the run of ``vp/mnist_ddpmpp_small.py`` with the training of Karras et al. 2022."""
    config = from_file(Path(__file__).parents[1] / "vp" / "mnist_ddpmpp_small.py")
    config.sde.name = "edm"
    config.sde.sigma_max = 80.0
    config.parameterization.output = "edm"
    config.objective.weighting = "edm"
    config.objective.times = "lognormal"
    config.objective.even_times = True
    config.sampling.predictor = "edm_heun"
    config.sampling.grid = "edm"
    config.sampling.num_steps = 18
    config.sampling.t_min = 2.5e-5  # a noise of 0.002
    return config
