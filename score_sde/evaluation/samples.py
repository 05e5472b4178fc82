"""Samples of a trained model, with the solver of its configuration."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.distributed import batch_sharding, gathered, jit, shared_size
from score_sde.errors import UserError
from score_sde.evaluation.base import Progress, Purpose, root_key
from score_sde.experiment import Experiment
from score_sde.likelihood.flow import transport
from score_sde.objectives import sample_from_prior
from score_sde.parameterization import denoise
from score_sde.sampling import Sampler, Samples, make_sampler, prior_samples, sample_keys, solver_keys, trajectory
from score_sde.solvers import EulerMaruyama
from score_sde.solvers.adaptive_sde import solve_sde
from score_sde.solvers.base import Solution
from score_sde.typing import Number, Params, PRNGKey


class DrawnSamples(NamedTuple):
    """Samples in the scale of the model and what they cost."""

    x: np.ndarray
    num_evals: float  # of the score, mean over the samples
    num_evals_max: int
    seconds: float


def draw_samples(experiment: Experiment, params: Params, *, progress: Progress = lambda n: None) -> DrawnSamples:
    """``sampling.num_samples`` samples with the configured solver; sample ``i`` does not depend on the batch size.

    Raises:
        UserError: If a sample is not finite, or an adaptive solver gave one up; nothing is returned then.
    """
    settings, shape = experiment.config.sampling, experiment.event_shape
    batch_size = shared_size(experiment.mesh, min(settings.batch_size, settings.num_samples))
    draw = compiled_sampler(experiment)
    start = time.perf_counter()
    batches: list[list[np.ndarray]] = []
    for first in range(0, settings.num_samples, batch_size):
        solution = draw(params, root_key(experiment, Purpose.SAMPLES), (batch_size, *shape), first)
        batches.append(list(gathered(solution)))
        progress(min(batch_size, settings.num_samples - first))
    x, num_evals, success = (np.concatenate(part)[: settings.num_samples] for part in zip(*batches, strict=True))
    check_samples(x, success, settings.max_steps)
    return DrawnSamples(x, float(num_evals.mean()), int(num_evals.max()), time.perf_counter() - start)


def compiled_sampler(experiment: Experiment) -> Callable[..., Solution]:
    """The configured sampler ``(params, key, shape, first) -> Solution``, whose samples are split over the devices."""
    return jit(
        _adaptive_sampler(experiment) if experiment.solver is None else _fixed_sampler(experiment),
        static_argnums=2,
        out_shardings=batch_sharding(experiment.mesh),
    )


def check_samples(x: np.ndarray, success: np.ndarray, max_steps: int) -> None:
    """Refuse samples that are no numbers, and those that an adaptive solver has given up."""
    infinite = int((~np.isfinite(x)).reshape(len(x), -1).any(axis=1).sum())
    if infinite:
        raise UserError(
            f"{infinite} of {len(x)} samples are not finite: either the score of the network is not, or the steps are "
            "too large for this process. Raise config.sampling.num_steps or lower config.sampling.snr."
        )
    if not success.all():
        raise UserError(
            f"{int((~success).sum())} of {len(x)} samples did not reach config.sampling.t_min in {max_steps} attempted "
            "steps; raise config.sampling.max_steps or the tolerance."
        )


def draw_trajectory(
    experiment: Experiment, params: Params, *, count: int, frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Samples of the reverse SDE at ``frames`` times from the prior to the data, and these times."""
    run, chosen = trajectory_program(experiment, count=count, frames=frames)
    path = gathered(run(params, root_key(experiment, Purpose.SAMPLES)))
    return path, np.asarray(experiment.times, np.float64)[chosen]


def trajectory_program(
    experiment: Experiment, *, count: int, frames: int
) -> tuple[Callable[[Params, PRNGKey], Array], np.ndarray]:
    """The compiled program ``(params, key) -> path`` of :func:`draw_trajectory`, and which times it keeps."""
    times = np.asarray(experiment.times, np.float64)
    # Even in sqrt(t): most of what can be seen happens late, at small times.
    wanted = np.linspace(1.0, np.sqrt(times[-1]), frames) ** 2
    chosen = np.abs(times[None] - wanted[:, None]).argmin(axis=1)

    @jit
    def run(params: Params, key: PRNGKey) -> Array:
        keys = sample_keys(key, 0, count)
        start = prior_samples(keys, experiment.process, experiment.event_shape)
        process = experiment.reverse(params)
        solver = EulerMaruyama() if experiment.solver is None else experiment.solver_for(params)
        return trajectory(keys, solver, process, start, experiment.times, frames=chosen)

    return run, chosen


def sampler_of(experiment: Experiment, *, noise_scale: Number | None = None) -> Sampler:
    """The sampler that the configuration describes, if it has a fixed number of steps; see :func:`make_sampler`.

    Of a variational autoencoder it decodes draws of the prior, to means or, with ``sampling.denoising=none``, samples.
    """
    latent, settings = experiment.latent, experiment.config.sampling

    def decode(params: Params, key: PRNGKey, shape: tuple[int, ...], first: Array | int = 0) -> Samples:
        assert latent is not None
        x = sample_from_prior(key, latent, params, shape[0], first=first, noise=settings.denoising == "none")
        return Samples(x, jnp.ones((), int))

    def follow(params: Params, key: PRNGKey, shape: tuple[int, ...], first: Array | int = 0) -> Samples:
        sampler = make_sampler(
            experiment.network,
            experiment.parameterization,
            experiment.process,
            experiment.solver_for(params),
            times=experiment.times,
            noise_scale=experiment.noise_scale if noise_scale is None else noise_scale,
            denoising=settings.denoising,
            modify_score=experiment.in_range,
        )
        return sampler(params, key, shape, first)

    return follow if latent is None else decode


def _fixed_sampler(experiment: Experiment) -> Callable[..., Solution]:
    sampler = sampler_of(experiment)

    def draw(params: Params, key: PRNGKey, shape: tuple[int, ...], first: Array | int) -> Solution:
        x, num_evals = sampler(params, key, shape, first)
        return Solution(x, jnp.full(shape[:1], num_evals), jnp.ones(shape[:1], bool))

    return draw


def _adaptive_sampler(experiment: Experiment) -> Callable[..., Solution]:
    settings, sde = experiment.config.sampling, experiment.sde
    common = {"t1": settings.t_min, "max_steps": settings.max_steps, "joint": settings.joint_steps}

    def draw(params: Params, key: PRNGKey, shape: tuple[int, ...], first: Array | int) -> Solution:
        score_fn = experiment.in_range(experiment.score_fn(params))
        keys = sample_keys(key, first, shape[0])
        start = prior_samples(keys, sde, shape[1:])
        if settings.predictor == "adaptive":
            tolerance = {"rtol": settings.tolerance, "atol": settings.tolerance}
            solution = transport(sde, score_fn, start, t0=1.0, **tolerance, **common)
        else:
            process = sde.reverse(score_fn, noise_scale=settings.noise_scale)
            tolerance = {"rtol": settings.sde_rtol, "atol": settings.sde_atol}
            solution = solve_sde(solver_keys(keys), process, start, **tolerance, **common)
        if settings.denoising != "tweedie":
            return solution
        x = denoise(sde, score_fn, solution.y, jnp.full(shape[:1], settings.t_min))
        return Solution(x, solution.num_evals + 1, solution.success)

    return draw
