"""Samples of a model during training, always from the same noise."""

from collections.abc import Callable

import numpy as np

from score_sde.distributed import batch_sharding, everywhere, gathered, jit, shared_size
from score_sde.evaluation.base import Purpose, root_key
from score_sde.experiment import Experiment
from score_sde.typing import Params

NUM_STEPS = 24  # of a second-order probability-flow solver: enough to see progress, cheap beside training


def sketch(experiment: Experiment, count: int) -> Callable[[Params], np.ndarray]:
    """A function from parameters to ``count`` samples as levels, always from the same initial noise and no other.

    It takes a few steps of DPM-Solver++ (2M), whatever solver ``config.sampling`` names, and is compiled once.
    """
    mesh, size = experiment.mesh, shared_size(experiment.mesh, count)
    steps = {"predictor": "dpm_solver_2m", "corrector": "none", "grid": "log_snr", "num_steps": NUM_STEPS}
    sampler = experiment.with_sampling(**steps).sampler
    draw = jit(
        lambda params, key: sampler(params, key, (size, *experiment.event_shape), 0)[0],
        out_shardings=batch_sharding(mesh),
    )

    def samples(params: Params) -> np.ndarray:
        x = gathered(draw(everywhere(mesh, params), root_key(experiment, Purpose.PROGRESS)))
        return experiment.quantization.quantize(x[:count])

    return samples
