"""The loss of given parameters on a whole split."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array

from score_sde.data import Source
from score_sde.distributed import everywhere, gathered, jit
from score_sde.evaluation.base import Purpose, examples, mean_and_std_error, root_key
from score_sde.experiment import Experiment
from score_sde.typing import Params, PRNGKey, Times

Losses = Callable[[Params, PRNGKey, Array], Times]  # for a batch of examples as stored by the source


def model_losses(experiment: Experiment) -> Losses:
    """The training loss of the score network, without dropout."""

    def losses(params: Params, key: PRNGKey, levels: Array) -> Times:
        prepare_key, loss_key = jax.random.split(key)
        x = experiment.quantization.dequantize(prepare_key, levels)
        return experiment.loss(params, loss_key, x, train=False)

    return losses


class LossEvaluator:
    """The loss of given parameters on a whole split, with the same times and noise at every call."""

    def __init__(self, experiment: Experiment, source: Source, losses: Losses | None = None) -> None:
        """Fix the data and the loss (by default the model's), which is compiled once, at the first call."""
        self._experiment, self._source = experiment, source
        self._losses = jit(model_losses(experiment) if losses is None else losses)

    def __call__(self, params: Params) -> tuple[float, float]:
        """Mean loss and its standard error over the examples."""
        return mean_and_std_error(self.per_example(params))

    def per_example(self, params: Params) -> np.ndarray:
        """The loss of every example."""
        values, experiment = [], self._experiment
        params = everywhere(experiment.mesh, params)
        for batch in examples(experiment, self._source, batch_size=experiment.settings.likelihood.batch_size):
            key = jax.random.fold_in(root_key(experiment, Purpose.LOSS), batch.number)
            values.append(gathered(self._losses(params, key, batch.data))[batch.mask])
        return np.concatenate(values)
