"""The loss of given parameters on a whole split, and by noise level."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from score_sde.data import Source
from score_sde.distributed import everywhere, gathered, jit, kept
from score_sde.evaluation.base import Purpose, examples, mean_and_std_error, root_key
from score_sde.evaluation.likelihood import BinNoise, dequantized
from score_sde.experiment import Experiment
from score_sde.labels import conditioned, on_data
from score_sde.objectives import likelihood_weighting, loss_by_noise_level, score_matching_loss
from score_sde.typing import Params, PRNGKey, Times

_EXAMPLES = 256  # of the report by noise level

Losses = Callable[[Params, PRNGKey, Any], Times]  # for a batch of examples as stored by the source


def model_losses(experiment: Experiment) -> Losses:
    """The training loss of the score network, without dropout."""

    def losses(params: Params, key: PRNGKey, batch: Any) -> Times:
        prepare_key, loss_key = jax.random.split(key)
        x = on_data(lambda levels: experiment.prepare(prepare_key, levels), batch)
        return experiment.loss(params, loss_key, x, train=False)

    return losses


class LossEvaluator:
    """The loss of given parameters on a whole split, with the same times and noise at every call."""

    def __init__(self, experiment: Experiment, source: Source, losses: Losses | None = None) -> None:
        """Fix the data and the loss (by default the model's), which is compiled once, at the first call."""
        self._experiment, self._source = experiment, source
        if losses is None:
            self._losses = kept((LossEvaluator, experiment.train_step), lambda: jit(model_losses(experiment)))
        else:
            self._losses = jit(losses)

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


class NoiseLevelReport(NamedTuple):
    """The likelihood-weighted loss by noise level, as part of the bound: bits per dimension, or nats if continuous.

    Levels are equally wide in log-SNR; entry ``i`` lies between edges ``i`` and ``i + 1``, starting at the data.
    """

    log_snr: np.ndarray  # edges
    t: np.ndarray  # edges
    bits: np.ndarray  # part of the bound by level: half the integral of g^2/s^2 E|n - z|^2
    uniform_std: np.ndarray  # of the single-draw loss within each level, under uniform times
    importance_std: np.ndarray  # under times uniform in log-SNR
    total: float  # sum of the bits
    variance_ratio: float  # single-draw variance, uniform over importance-sampled times
    num_examples: int


def noise_level_report(
    experiment: Experiment, params: Params, source: Source, *, noise: BinNoise | None = None
) -> NoiseLevelReport:
    """The report for the first 256 examples (Song et al. 2021b, arXiv 2101.09258, section 5).

    The distribution of the times changes the variance of the loss, not its mean: a ratio of 9 means that one batch with
    importance-sampled times is as good as nine with uniform times.
    """
    settings = experiment.settings.likelihood
    make_loss = functools.partial(
        score_matching_loss,
        experiment.sde,
        experiment.network,
        experiment.parameterization,
        weighting=likelihood_weighting,
        reduce_mean=False,
    )

    @jit
    def measure(params: Params, noise_params: Params, key: PRNGKey, batch: Any):  # noqa: ANN202
        params, levels = conditioned(params, batch)
        noise_key, loss_key = jax.random.split(key)
        x, _ = dequantized(experiment, noise or BinNoise(), noise_params, noise_key, levels)
        options = {"t0": settings.t_min, "num_levels": settings.noise_levels}
        return loss_by_noise_level(params, loss_key, x, sde=experiment.sde, make_loss=make_loss, **options)

    count = min(_EXAMPLES, settings.num_examples or len(source), len(source))
    key = root_key(experiment, Purpose.NOISE_LEVELS)
    count = max(count // experiment.mesh.size, 1) * experiment.mesh.size  # statistics by level take no mask
    batch = next(examples(experiment, source, batch_size=count, limit=count)).data
    levels = gathered(measure(params, {} if noise is None else noise.params, key, batch))
    unit = 1.0
    if experiment.quantization.num_grey_levels is not None:
        unit = 1.0 / (float(np.prod(experiment.event_shape)) * np.log(2.0))
    share, scale = np.asarray(levels.uniform.share, np.float64), unit * (1.0 - settings.t_min)
    # Importance-sampled draws within a level have nearly equal weights, which makes their means more accurate.
    bits = scale * np.asarray(levels.importance.share * levels.importance.mean, np.float64)
    (_, uniform), (_, importance) = levels.uniform.total, levels.importance.total
    return NoiseLevelReport(
        log_snr=np.asarray(levels.log_snr),
        t=np.asarray(levels.t),
        bits=bits,
        uniform_std=scale * np.asarray(levels.uniform.std) * share,
        importance_std=scale * np.asarray(levels.importance.std * levels.importance.share),
        total=float(bits.sum()),
        variance_ratio=float((uniform / importance) ** 2),
        num_examples=count,
    )
