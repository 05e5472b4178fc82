"""The probability-flow likelihood of a data set, and the bounds of the reverse SDE and of an autoencoder."""

import dataclasses
import json
import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.data import Source
from score_sde.data import fingerprint as contents_of
from score_sde.distributed import gathered, jit, shared_size
from score_sde.errors import UserError, plural
from score_sde.evaluation.base import Examples, Purpose, decisive_fields, fingerprint, root_key, statistics_of
from score_sde.evaluation.partial import Partial, measured_in_parts
from score_sde.experiment import Experiment
from score_sde.fields.measuring import Likelihood
from score_sde.keys import example_keys
from score_sde.labels import conditioned
from score_sde.likelihood import (
    Bound,
    Dequantized,
    UniformDequantizer,
    decoder_term,
    dequantize_with,
    importance_weighted,
    level_bound,
    log_likelihood,
    log_likelihood_on_grid,
    nll_bound,
    refined,
)
from score_sde.methods import make_grid
from score_sde.objectives import elbo, importance_bound
from score_sde.quantization import Quantization
from score_sde.typing import Dequantizer, Params, PRNGKey, Times

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinNoise:
    """The source of dequantization noise."""

    dequantizer: Dequantizer = dataclasses.field(default_factory=UniformDequantizer)
    params: Params = dataclasses.field(default_factory=dict)
    name: str = "uniform"
    decodes: bool = False  # the bound has a decoder over gray levels instead


class Draw(NamedTuple):
    """One draw of dequantization noise and probes, per example."""

    logp: Times  # nats: log-density of the scaled data minus that of the noise
    num_evals: Array
    success: Array
    probe_std_error: Times


class DatasetLikelihood(NamedTuple):
    """Likelihoods of a data set, one entry per example."""

    bits_per_dim: np.ndarray  # of continuous data, of their density
    nats: np.ndarray
    num_evals: np.ndarray
    success: np.ndarray
    probe_std_error: np.ndarray  # nats
    seconds: float


#: A program ``(params, noise_params, key, batch) -> draw`` for a batch of examples.
Program = Callable[[Params, Params, PRNGKey, Any], Any]


def flow_draw(experiment: Experiment, noise: BinNoise, *, refinements: int = 0, **changes: Any) -> Program:
    """:func:`flow_program`, compiled."""
    return jit(flow_program(experiment, noise, refinements=refinements, **changes))


def flow_program(experiment: Experiment, noise: BinNoise, *, refinements: int = 0, **changes: Any) -> Program:
    """The function ``(params, noise_params, key, batch) -> Draw`` for a batch of examples.

    It follows ``config.likelihood`` with changed fields. A refinement divides tolerances by ten, or halves the steps.
    """
    sde, settings = experiment.sde, dataclasses.replace(experiment.settings.likelihood, **changes)
    shared = {"num_probes": settings.num_probes or None, "probe_kind": settings.probe_kind}
    if settings.num_steps:
        points = {"num_steps": settings.num_steps, "t_end": settings.t_min}
        times = make_grid(experiment.settings, sde, grid=settings.grid, **points)
        for _ in range(refinements):
            times = refined(times, sde)
        shared |= {"order": settings.order, "fresh_probes": settings.fresh_probes}
    else:
        times, tolerance = None, settings.tolerance / 10**refinements
        shared |= {"t0": settings.t_min, "rtol": tolerance, "atol": tolerance}

    def draw(params: Params, noise_params: Params, key: PRNGKey, batch: Any) -> Draw:
        params, levels = conditioned(params, batch)
        noise_key, probe_key, decoder_key = (jax.random.fold_in(key, n) for n in range(3))
        x, log_q = dequantized(experiment, noise, noise_params, noise_key, levels)
        score_fn = experiment.score_fn(params)
        cost, extra = -log_q, 0
        if settings.decoder:
            x, term = decoder_term(decoder_key, sde, score_fn, x, settings.t_min)
            cost, extra = cost - term, 1
        if times is None:
            result = log_likelihood(probe_key, sde, score_fn, x, **shared)
        else:
            result = log_likelihood_on_grid(probe_key, sde, score_fn, x, times, **shared)
        success = result.success & jnp.isfinite(result.logp)
        return Draw(result.logp + cost, result.num_evals + extra, success, result.probe_std_error)

    return draw


def flow_protocol(settings: Likelihood) -> str:
    """The protocol of the likelihood of one draw, in words."""
    trace = f"{settings.num_probes} {settings.probe_kind} probe(s)" if settings.num_probes else "exact trace"
    solver, steps = f"tolerance {settings.tolerance:g}", settings.num_steps
    if steps:
        solver = f"{steps} {plural(steps, 'step')} of order {settings.order} on the {settings.grid} grid"
        if settings.num_probes:
            trace += ", fresh at each" if settings.fresh_probes else ", frozen"
    end = f"with the decoder at t={settings.t_min:g}" if settings.decoder else f"from t={settings.t_min:g}"
    return f"probability flow {end}, {trace}, {solver}"


def data_protocol(experiment: Experiment, noise: BinNoise, total: int, *, classes: str = "their classes") -> str:
    """The data, their number and their dequantization: the end of a protocol in words."""
    settings, levels = experiment.settings.likelihood, experiment.quantization.num_grey_levels
    data = "continuous data"
    if levels is not None:
        draws = settings.num_dequantizations
        several = ", importance-weighted" if settings.importance_weighted else ""
        data = f"{noise.name} dequantization x{draws}{several}, {levels} levels"
    data += f", given {classes}" * (experiment.num_classes > 0)
    return f"{data}, {total} {plural(total, 'example')} of the test split"


def dequantized(
    experiment: Experiment, noise: BinNoise, noise_params: Params, key: PRNGKey, levels: Array
) -> Dequantized:
    """Scaled data with the log-density of their noise.

    Continuous data have no noise. Where they are standardized, what their own log-density lacks stands in its place:
    a log-likelihood minus it is of the data in their own units.
    """
    quantization = experiment.quantization
    if quantization.num_grey_levels is None:
        x = quantization.dequantize(key, levels)
        return Dequantized(x, jnp.full(levels.shape[0], log_units(experiment), jnp.float32))
    return dequantize_with(quantization, noise.dequantizer, noise_params, example_keys(key, levels), levels)


def dataset_likelihood(
    experiment: Experiment,
    params: Params,
    source: Source,
    *,
    noise: BinNoise | None = None,
    kept: Partial | None = None,
    draw: Program | None = None,
) -> DatasetLikelihood:
    """The probability-flow likelihood of every example, or of the first ones (:func:`flow_count`).

    The noise is uniform unless given. An interrupted measurement resumes from ``kept``, which is in memory only unless
    given. A ``draw`` is the compiled :func:`flow_draw`, for a caller that keeps it.

    Several draws are averaged, which estimates the variational bound with less noise. With
    ``likelihood.importance_weighted`` their weights are averaged, which gives a tighter bound on the likelihood.
    """
    settings, noise, kept = experiment.settings.likelihood, noise or BinNoise(), kept or Partial()
    draw, root = draw or flow_draw(experiment, noise), root_key(experiment, Purpose.LIKELIHOOD)

    def measure(batch: Examples) -> tuple[Array, ...]:
        roots = [jax.random.fold_in(root, n) for n in range(settings.num_dequantizations)]
        keys = [jax.random.fold_in(key, batch.number) for key in roots]
        draws = [gathered(draw(params, noise.params, key, batch.data)) for key in keys]
        return combined(draws, importance=settings.importance_weighted)

    nats, num_evals, success, error = measured_in_parts(
        experiment, source, measure, kept, limit=flow_count(settings, len(source))
    )
    return DatasetLikelihood(bits_per_dim(experiment, nats), nats, num_evals, success.astype(bool), error, kept.seconds)


def flow_count(settings: Likelihood, total: int) -> int:
    """The number of examples of ``total`` that the flow is solved for.

    >>> flow_count(Likelihood(num_examples=50), 297), flow_count(Likelihood(flow_examples=64, num_examples=50), 297)
    (50, 50)
    >>> flow_count(Likelihood(flow_examples=64), 297), flow_count(Likelihood(), 297)
    (64, 297)
    """
    return min(settings.flow_examples or total, settings.num_examples or total, total)


def log_units(experiment: Experiment) -> float:
    """The log-density of scaled data minus the log-density in the units of the data, in nats; 0 unless standardized."""
    scale = experiment.quantization.standardization
    return 0.0 if scale is None else -float(scale.log_det(experiment.event_shape))


def log_levels(experiment: Experiment) -> float:
    """The log-density of scaled images minus the log-probability of their gray levels, in nats; 0 for other data."""
    quantization = experiment.quantization
    if quantization.num_grey_levels is None:
        return 0.0
    return math.prod(experiment.event_shape) * math.log(2.0) * quantization.offset


def bits_per_dim(experiment: Experiment, nats: np.ndarray) -> np.ndarray:
    """Log-likelihoods of scaled images in bits per dimension of the discrete ones.

    The log-likelihoods of continuous data are in their own units already, and so are the bits.
    """
    dim = int(np.prod(experiment.event_shape))
    if experiment.quantization.num_grey_levels is None:
        return -nats / (dim * math.log(2.0))
    return np.asarray(experiment.quantization.bits_per_dim(jnp.asarray(nats), dim))


def combined(draws: list[Draw], *, importance: bool) -> tuple[Array, ...]:
    """Log-likelihood, evaluations, success and probe error of several draws of noise; their weights may be averaged."""
    logp, num_evals, success, error = (jnp.stack(column) for column in zip(*draws, strict=True))
    weights = jax.nn.softmax(logp, axis=0) if importance else jnp.full_like(logp, 1.0 / len(draws))
    value = importance_weighted(logp) if importance else jnp.mean(logp, axis=0)
    # An error of one draw enters the value with its weight.
    error = jnp.sqrt(jnp.sum((weights * error) ** 2, axis=0))
    return value, jnp.sum(num_evals, axis=0), jnp.all(success, axis=0), error


class DatasetBound(NamedTuple):
    """Bounds on the negative log-likelihoods of a data set, one entry per example."""

    bits_per_dim: np.ndarray  # of continuous data, of their density
    nats: np.ndarray
    std_error: np.ndarray  # nats, over draws of times and noise
    seconds: float


def dataset_bound(
    experiment: Experiment,
    params: Params,
    source: Source,
    *,
    noise: BinNoise | None = None,
    kept: Partial | None = None,
) -> DatasetBound:
    """The bound on every example (or on the first ``likelihood.num_examples``), with one draw of noise.

    ``kept`` is as in :func:`dataset_likelihood`.
    """
    noise, kept = noise or BinNoise(), kept or Partial()
    draw = jit(bound_program(experiment, noise))

    def measure(batch: Examples) -> list[np.ndarray]:
        key = jax.random.fold_in(root_key(experiment, Purpose.BOUND), batch.number)
        bound = gathered(draw(params, noise.params, key, batch.data))
        return [bound.value, bound.std_error]

    nats, error = measured_in_parts(experiment, source, measure, kept)
    return DatasetBound(bits_per_dim(experiment, -nats), nats, error, kept.seconds)


def bound_program(experiment: Experiment, noise: BinNoise) -> Program:
    """The function ``(params, noise_params, key, batch) -> Bound`` for a batch of examples."""
    settings, quantization = experiment.settings.likelihood, experiment.quantization
    options = {"t_min": settings.t_min, "num_times": settings.bound_times}
    if noise.decodes and quantization.num_grey_levels is not None:
        return _level_bound_program(experiment, quantization, **options)

    def draw(params: Params, noise_params: Params, key: PRNGKey, batch: Any) -> Bound:
        params, levels = conditioned(params, batch)
        noise_key, bound_key = jax.random.split(key)
        x, log_q = dequantized(experiment, noise, noise_params, noise_key, levels)
        bound = nll_bound(bound_key, experiment.sde, experiment.score_fn(params), x, **options)
        return bound._replace(value=bound.value + log_q)

    return draw


def _level_bound_program(experiment: Experiment, quantization: Quantization, **options: Any) -> Program:
    """The bound with a decoder over gray levels; in the units of the scaled data, as the other."""
    scale = math.prod(experiment.event_shape) * quantization.offset * math.log(2.0)  # log(K / width)

    def draw(params: Params, noise_params: Params, key: PRNGKey, batch: Any) -> Bound:
        del noise_params
        params, levels = conditioned(params, batch)
        bound = level_bound(key, experiment.sde, experiment.score_fn(params), levels, quantization, **options)
        return bound._replace(value=bound.value - scale)

    return draw


class DatasetLatentBound(NamedTuple):
    """Bounds on the log-likelihoods of a data set, one entry per example."""

    nats: np.ndarray  # with ``likelihood.num_weights`` importance weights
    bits_per_dim: np.ndarray  # of the same bound
    elbo_nats: np.ndarray  # of the evidence lower bound
    elbo_bits_per_dim: np.ndarray
    seconds: float


def dataset_latent_bound(
    experiment: Experiment,
    params: Params,
    source: Source,
    *,
    kept: Partial | None = None,
) -> DatasetLatentBound:
    """The bounds on every example (or on the first ``likelihood.num_examples``), uniformly dequantized.

    Over several draws of dequantization noise, the bounds are averaged or, with ``likelihood.importance_weighted``,
    their weights. See :func:`dataset_likelihood`, also for ``kept``.

    Raises:
        UserError: If the model has no latent variables.
    """
    settings, model, noise = experiment.settings.likelihood, experiment.latent, BinNoise()
    if model is None:
        raise UserError(
            "The model is a score network, and this bound that of an encoder; expected config.model.name=vae."
        )

    @jit
    def draw(params: Params, key: PRNGKey, levels: Array) -> tuple[Times, Times]:
        noise_key, weights_key, elbo_key = (jax.random.fold_in(key, n) for n in range(3))
        x, log_q = dequantized(experiment, noise, noise.params, noise_key, levels)
        tight = importance_bound(weights_key, model, params, x, settings.num_weights)
        return tight - log_q, elbo(elbo_key, model, params, x) - log_q

    root = root_key(experiment, Purpose.LIKELIHOOD)

    def measure(batch: Examples) -> tuple[np.ndarray, np.ndarray]:
        keys = [
            jax.random.fold_in(jax.random.fold_in(root, n), batch.number) for n in range(settings.num_dequantizations)
        ]
        tight, loose = (jnp.stack(draws) for draws in zip(*(draw(params, k, batch.data) for k in keys), strict=True))
        joined = importance_weighted(tight) if settings.importance_weighted else jnp.mean(tight, axis=0)
        return gathered((joined, jnp.mean(loose, axis=0)))

    kept = kept or Partial()
    nats, elbo_nats = measured_in_parts(experiment, source, measure, kept)
    bits, elbo_bits = (bits_per_dim(experiment, column) for column in (nats, elbo_nats))
    return DatasetLatentBound(nats, bits, elbo_nats, elbo_bits, kept.seconds)


def identity_of(experiment: Experiment, params: Params, noise: BinNoise, source: Source) -> str:
    """The identity of a measurement, checked before an interrupted one resumes: settings, model, noise, data.

    It includes the batch size, rounded up for the mesh, since random numbers are drawn per batch, but not the mesh.
    """
    groups = ("seed", "sde", "parameterization", "model", "data", "likelihood")
    size = shared_size(experiment.mesh, experiment.settings.likelihood.batch_size)
    contents = contents_of(source, labels=experiment.num_classes > 0)
    known = [fingerprint(params), noise.name, fingerprint(noise.params), contents, size]
    known += statistics_of(experiment)
    return json.dumps([decisive_fields(experiment.settings, groups), *known])
