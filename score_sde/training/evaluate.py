"""What a trained model is worth: test loss, likelihood of a data set, samples.

Every function takes the parameters to be judged (usually the moving average) and covers all examples it is given: the
last batch is padded and masked, never dropped.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.data import Source, eval_batches
from score_sde.distributed import jit
from score_sde.errors import UserError
from score_sde.experiment import Experiment
from score_sde.likelihood.flow import log_likelihood, transport
from score_sde.parameterization import denoise
from score_sde.sampling import make_sampler, prior_samples, sample_keys, trajectory
from score_sde.solvers import EulerMaruyama
from score_sde.typing import Params, PRNGKey, Times

Progress = Callable[[int], Any]  # told how many more examples are done

# Purposes of the keys derived from the root seed; `create_state` splits the same root into numbers 0 and 1.
_LOSS, _LIKELIHOOD, _SAMPLES = 2, 3, 4


def _root(experiment: Experiment, purpose: int) -> PRNGKey:
    return jax.random.fold_in(jax.random.key(experiment.config.seed), purpose)


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
            key = jax.random.fold_in(_root(self._experiment, _LOSS), index)
            values.append(np.asarray(self._losses(params, key, batch.data))[batch.mask])
        return mean_and_std_error(np.concatenate(values))


class DatasetLikelihood(NamedTuple):
    """Likelihoods of a data set, one entry per example."""

    bits_per_dim: np.ndarray  # nan for continuous data
    nats: np.ndarray
    num_evals: np.ndarray
    success: np.ndarray
    probe_std_error: np.ndarray  # nats
    seconds: float


def dataset_likelihood(
    experiment: Experiment, params: Params, source: Source, *, progress: Progress = lambda n: None
) -> DatasetLikelihood:
    """The probability-flow likelihood of every example (or of the first ``likelihood.num_examples``).

    With several dequantisations the log-likelihoods of one image are averaged, which estimates the variational bound
    with less noise; see :mod:`score_sde.likelihood.dequantization`.
    """
    settings = experiment.config.likelihood
    quantization = experiment.quantization

    @jit
    def measure(params: Params, key: PRNGKey, levels: Array) -> Any:
        noise_key, probe_key = jax.random.split(key)
        return log_likelihood(
            probe_key,
            experiment.sde,
            experiment.score_fn(params),
            quantization.dequantize(noise_key, levels),
            t0=settings.t_min,
            rtol=settings.tolerance,
            atol=settings.tolerance,
            num_probes=settings.num_probes or None,
            probe_kind=settings.probe_kind,
        )

    start = time.perf_counter()
    limit = settings.num_examples or None
    total = min(limit or len(source), len(source))
    rows: list[tuple[np.ndarray, ...]] = []
    for index, batch in enumerate(eval_batches(source, batch_size=min(settings.batch_size, total), limit=limit)):
        draws = []
        for draw in range(settings.num_dequantizations):
            key = jax.random.fold_in(jax.random.fold_in(_root(experiment, _LIKELIHOOD), draw), index)
            result = measure(params, key, batch.data)
            fields = (result.logp, result.num_evals, result.success, result.probe_std_error)
            draws.append([np.asarray(field)[batch.mask] for field in fields])
        logp, num_evals, success, error = (np.stack(column) for column in zip(*draws, strict=True))
        error = np.sqrt(np.sum(error**2, axis=0)) / len(draws)
        rows.append(tuple(map(np.asarray, (logp.mean(axis=0), num_evals.mean(axis=0), success.all(axis=0), error))))
        progress(int(batch.mask.sum()))
    nats, num_evals, success, error = (np.concatenate(column) for column in zip(*rows, strict=True))
    dim = int(np.prod(experiment.event_shape))
    bits = np.asarray(quantization.bits_per_dim(jnp.asarray(nats), dim))
    if quantization.num_levels is None:
        bits = np.full_like(nats, np.nan)
    return DatasetLikelihood(bits, nats, num_evals, success, error, time.perf_counter() - start)


class DrawnSamples(NamedTuple):
    """Samples in the scale of the model and what they cost."""

    x: np.ndarray
    num_evals: int
    seconds: float


def draw_samples(experiment: Experiment, params: Params, *, progress: Progress = lambda n: None) -> DrawnSamples:
    """``sampling.num_samples`` samples with the configured solver; sample ``i`` does not depend on the batch size."""
    settings, shape = experiment.config.sampling, experiment.event_shape
    batch_size = min(settings.batch_size, settings.num_samples)
    draw = _adaptive_sampler(experiment) if experiment.solver is None else _stepping_sampler(experiment)
    start = time.perf_counter()
    batches, num_evals = [], 0
    for first in range(0, settings.num_samples, batch_size):
        x, evals = draw(params, _root(experiment, _SAMPLES), (batch_size, *shape), first)
        batches.append(np.asarray(x))
        num_evals = max(num_evals, int(evals))
        progress(min(batch_size, settings.num_samples - first))
    x = np.concatenate(batches)[: settings.num_samples]
    if not np.isfinite(x).all():
        raise UserError(
            f"{int((~np.isfinite(x)).reshape(len(x), -1).any(axis=1).sum())} of {len(x)} samples are not finite: the "
            "steps are too large for this process. Raise config.sampling.num_steps or lower config.sampling.snr."
        )
    return DrawnSamples(x, num_evals, time.perf_counter() - start)


def draw_trajectory(
    experiment: Experiment, params: Params, *, count: int, frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Samples of the reverse SDE at ``frames`` times from the prior to the data, and these times."""

    @jit
    def run(params: Params, key: PRNGKey) -> Array:
        keys = sample_keys(key, 0, count)
        start = prior_samples(keys, experiment.process, experiment.event_shape)
        process = experiment.reverse(params)
        return trajectory(keys, experiment.solver or EulerMaruyama(), process, start, experiment.times)

    path = np.asarray(run(params, _root(experiment, _SAMPLES)))
    times = np.asarray(experiment.times)
    # Even in sqrt(t): most of what can be seen happens late, at small times.
    wanted = np.linspace(1.0, np.sqrt(times[-1]), frames) ** 2
    chosen = [int(np.abs(times - t).argmin()) for t in wanted]
    return path[chosen], times[chosen]


def mean_and_std_error(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error; the latter is nan for a single value.

    >>> mean_and_std_error(np.array([1.0, 3.0]))
    (2.0, 1.0)
    """
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(values.mean()), float(error)


def _stepping_sampler(experiment: Experiment) -> Callable[..., Any]:
    assert experiment.solver is not None
    sampler = make_sampler(
        experiment.network,
        experiment.parameterization,
        experiment.process,
        experiment.solver,
        times=experiment.times,
        noise_scale=experiment.noise_scale,
        denoising=experiment.config.sampling.denoising,
        modify_score=experiment.in_range,
    )
    return jit(sampler, static_argnums=2)


def _adaptive_sampler(experiment: Experiment) -> Callable[..., Any]:
    settings = experiment.config.sampling

    def sampler(params: Params, key: PRNGKey, shape: tuple[int, ...], first: Array | int) -> tuple[Array, Array]:
        score_fn = experiment.in_range(experiment.score_fn(params))
        start = prior_samples(sample_keys(key, first, shape[0]), experiment.sde, shape[1:])
        tolerance = {"rtol": settings.tolerance, "atol": settings.tolerance}
        solution = transport(experiment.sde, score_fn, start, t0=1.0, t1=settings.t_min, **tolerance)
        num_evals = jnp.max(solution.num_evals)
        if settings.denoising != "tweedie":
            return solution.y, num_evals
        x = denoise(experiment.sde, score_fn, solution.y, jnp.full(shape[:1], settings.t_min))
        return x, num_evals + 1

    return jit(sampler, static_argnums=2)
