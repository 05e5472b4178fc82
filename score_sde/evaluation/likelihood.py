"""The probability-flow likelihood of a data set, and the bound on that of the reverse SDE."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.data import Source, eval_batches
from score_sde.distributed import jit
from score_sde.evaluation.base import Progress, Purpose, root_key
from score_sde.experiment import Experiment
from score_sde.likelihood.bound import Bound, nll_bound
from score_sde.likelihood.flow import log_likelihood
from score_sde.typing import Params, PRNGKey


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
            key = jax.random.fold_in(jax.random.fold_in(root_key(experiment, Purpose.LIKELIHOOD), draw), index)
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


class DatasetBound(NamedTuple):
    """Bounds on the negative log-likelihoods of a data set, one entry per example."""

    bits_per_dim: np.ndarray
    nats: np.ndarray
    std_error: np.ndarray  # nats, over the draws of times and noise
    seconds: float


def dataset_bound(experiment: Experiment, params: Params, source: Source) -> DatasetBound:
    """The bound on every example (or on the first ``likelihood.num_examples``), with uniform dequantisation."""
    settings, quantization = experiment.config.likelihood, experiment.quantization

    @jit
    def measure(params: Params, key: PRNGKey, levels: Array) -> Bound:
        noise_key, bound_key = jax.random.split(key)
        x = quantization.dequantize(noise_key, levels)
        score_fn = experiment.score_fn(params)
        options = {"t_min": settings.t_min, "num_times": settings.bound_times}
        return nll_bound(bound_key, experiment.sde, score_fn, x, **options)

    start = time.perf_counter()
    total = min(settings.num_examples or len(source), len(source))
    rows = []
    for index, batch in enumerate(eval_batches(source, batch_size=min(settings.batch_size, total), limit=total)):
        bound = measure(params, jax.random.fold_in(root_key(experiment, Purpose.BOUND), index), batch.data)
        rows.append([np.asarray(part)[batch.mask] for part in (bound.value, bound.std_error)])
    nats, error = (np.concatenate(column) for column in zip(*rows, strict=True))
    bits = np.asarray(quantization.bits_per_dim(-jnp.asarray(nats), int(np.prod(experiment.event_shape))))
    return DatasetBound(bits, nats, error, time.perf_counter() - start)
