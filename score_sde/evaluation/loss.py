"""The loss of given parameters on a whole split."""

import jax
import numpy as np
from jaxtyping import Array

from score_sde.data import Source, eval_batches
from score_sde.distributed import jit
from score_sde.evaluation.base import Purpose, mean_and_std_error, root_key
from score_sde.experiment import Experiment
from score_sde.typing import Params, PRNGKey, Times


class LossEvaluator:
    """The loss of given parameters on a whole split, with the same times and noise at every call."""

    def __init__(self, experiment: Experiment, source: Source) -> None:
        """Fix the data; the program is compiled once, at the first call."""
        self._experiment, self._source = experiment, source

        def losses(params: Params, key: PRNGKey, levels: Array) -> Times:
            prepare_key, loss_key = jax.random.split(key)
            x = experiment.quantization.dequantize(prepare_key, levels)
            return experiment.loss_fn(params, loss_key, x, train=False)

        self._losses = jit(losses)

    def __call__(self, params: Params) -> tuple[float, float]:
        """Mean loss and its standard error over the examples."""
        values = []
        batch_size = min(self._experiment.config.likelihood.batch_size, len(self._source))
        for index, batch in enumerate(eval_batches(self._source, batch_size=batch_size)):
            key = jax.random.fold_in(root_key(self._experiment, Purpose.LOSS), index)
            values.append(np.asarray(self._losses(params, key, batch.data))[batch.mask])
        return mean_and_std_error(np.concatenate(values))
