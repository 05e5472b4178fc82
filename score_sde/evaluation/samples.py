"""Samples of a trained model, with the solver of its configuration."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.distributed import jit
from score_sde.errors import UserError
from score_sde.evaluation.base import Progress, Purpose, root_key
from score_sde.experiment import Experiment
from score_sde.likelihood.flow import transport
from score_sde.parameterization import denoise
from score_sde.sampling import make_sampler, prior_samples, sample_keys, trajectory
from score_sde.solvers import EulerMaruyama
from score_sde.typing import Params, PRNGKey


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
        x, evals = draw(params, root_key(experiment, Purpose.SAMPLES), (batch_size, *shape), first)
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

    path = np.asarray(run(params, root_key(experiment, Purpose.SAMPLES)))
    times = np.asarray(experiment.times)
    # Even in sqrt(t): most of what can be seen happens late, at small times.
    wanted = np.linspace(1.0, np.sqrt(times[-1]), frames) ** 2
    chosen = [int(np.abs(times - t).argmin()) for t in wanted]
    return path[chosen], times[chosen]


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
