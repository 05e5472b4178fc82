"""The choice of sampler, grid and number of steps: sample quality of a trained model against cost."""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.chains import Chain
from score_sde.distributed import batch_sharding, gathered, jit, shared_size
from score_sde.errors import UserError
from score_sde.evaluation.base import Purpose, root_key
from score_sde.evaluation.partial import Partial
from score_sde.experiment import Experiment
from score_sde.methods import make_predictor
from score_sde.metrics import Moments, frechet_distance, moments
from score_sde.sampling import DENOISING_EVALS
from score_sde.solvers.base import Solution
from score_sde.solvers.pairing import follows_drift
from score_sde.typing import Params, PRNGKey

#: Reference solvers of the reverse SDE and of the probability flow, at a thousand steps.
REFERENCES = ("reverse_diffusion", "dpm_solver_2m")
_REFERENCE_STEPS = 1000
_RESAMPLES = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting of the sampler: predictor, grid, number of steps."""

    solver: str
    grid: str
    num_steps: int

    @property
    def flags(self) -> str:
        """The setting on the command line."""
        return (
            f"--config.sampling.predictor={self.solver} --config.sampling.grid={self.grid} "
            f"--config.sampling.num_steps={self.num_steps}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One setting, its cost and its quality."""

    setting: Setting
    num_evals: int  # evaluations of the score per sample
    distance: float  # Fréchet distance to the training data; infinite if a sample is not finite
    std_error: float  # over the samples, by bootstrap
    seconds: float  # for all samples, without compilation


def settings_of(experiment: Experiment) -> tuple[list[Setting], list[Setting]]:
    """The references, and every solver on every grid with the steps that each number of evaluations allows.

    Raises:
        UserError: For a solver that needs a drift on a chain, which has none.
    """
    fields, sampling = experiment.settings.pareto, experiment.settings.sampling
    solvers = {name: make_predictor(name, sampling) for name in fields.solvers}
    for name, solver in solvers.items():
        if isinstance(experiment.process, Chain) and follows_drift(solver):
            raise UserError(
                f"config.pareto.solvers has {name}, which follows a drift, and a chain has none; remove it."
            )
        experiment.noise_scale_for(solver)
    last = DENOISING_EVALS[sampling.denoising]
    swept = [
        Setting(solver=name, grid=grid, num_steps=(evals - last) // solver.num_evals)
        for name, solver in solvers.items()
        for grid in fields.grids
        for evals in sorted(fields.evals)
    ]
    references = [Setting(solver=name, grid=sampling.grid, num_steps=_REFERENCE_STEPS) for name in REFERENCES]
    return references, swept


def measure(
    experiment: Experiment,
    params: Params,
    data: Moments,
    settings: Sequence[Setting],
    *,
    kept: Partial | None = None,
) -> Iterator[Point]:
    """One point per setting, all with the same draws from the prior; each solver is compiled once.

    ``data`` has the moments of the training data after :func:`as_compared`. Settings are grouped by solver. New points
    are added to those of ``kept``, whose progress counts evaluations of the score.
    """
    longest = max(setting.num_steps for setting in settings)
    kept = kept or Partial()
    compiled: dict[str, Any] = {}
    for number, setting in enumerate(settings):
        if number >= kept.batches:
            start = time.perf_counter()
            if setting.solver not in compiled:
                compiled = {setting.solver: _Drawer(experiment, params, setting.solver, longest)}
            x, *cost = compiled[setting.solver](setting)
            finite = bool(np.isfinite(x).all())
            quality = _distance(as_seen(experiment, x), data) if finite else (math.inf, math.nan)
            kept.add([np.asarray([value]) for value in (*cost, *quality)], time.perf_counter() - start)
        num_evals, seconds, distance, error = (column[number].item() for column in kept.columns())
        yield Point(setting=setting, num_evals=num_evals, distance=distance, std_error=error, seconds=seconds)
        kept.progress(num_evals)


def as_seen(experiment: Experiment, x: np.ndarray) -> np.ndarray:
    """Samples as they are compared: rounded to gray levels, black 0 and white 1; continuous data in the model's scale.

    In that scale the columns of a table count alike.
    """
    quantization = experiment.quantization
    if quantization.num_grey_levels is None:
        return x
    return quantization.quantize(x) / (quantization.num_grey_levels - 1)


def as_compared(experiment: Experiment, levels: np.ndarray) -> np.ndarray:
    """Data as they are compared with samples after :func:`as_seen`."""
    quantization = experiment.quantization
    if quantization.num_grey_levels is not None:
        return levels / (quantization.num_grey_levels - 1)
    scale = quantization.standardization
    return levels if scale is None else np.asarray(scale.forward(levels))


class _Drawer:
    """Draws all samples with one solver; grid and number of steps are arguments of one program."""

    def __init__(self, experiment: Experiment, params: Params, name: str, longest: int) -> None:
        self._experiment, self._params, self._longest = experiment, params, longest
        solver = make_predictor(name, experiment.settings.sampling)

        def draw(params: Params, key: PRNGKey, first: Array, times: Array, num_steps: Array) -> Solution:
            sampler = experiment.fixed_steps(solver, times, num_steps=num_steps)
            samples = sampler(params, key, (self._batch_size, *experiment.event_shape), first)
            return samples._replace(y=jax.lax.with_sharding_constraint(samples.y, batch_sharding(experiment.mesh)))

        wanted = min(experiment.settings.sampling.batch_size, experiment.settings.pareto.num_samples)
        self._batch_size = shared_size(experiment.mesh, wanted)
        self._draw = jit(draw)
        self._run(experiment.grid("uniform", 2), 0)

    def __call__(self, setting: Setting) -> tuple[np.ndarray, int, float]:
        """Samples, evaluations per sample and total seconds."""
        experiment, total = self._experiment, self._experiment.settings.pareto.num_samples
        times = experiment.grid(setting.grid, setting.num_steps)
        start = time.perf_counter()
        begin = experiment.settings.sampling.first
        batches = [self._run(times, first) for first in range(begin, begin + total, self._batch_size)]
        x = np.concatenate([gathered(batch.y) for batch in batches])[:total]
        return x, int(batches[0].num_evals[0]), time.perf_counter() - start

    def _run(self, times: Array, first: int) -> Solution:
        num_steps = times.shape[0] - 1
        padded = jnp.pad(times, (0, self._longest - num_steps), mode="edge")
        key = root_key(self._experiment, Purpose.SAMPLES)
        samples = self._draw(self._params, key, jnp.asarray(first), padded, jnp.asarray(num_steps))
        return jax.block_until_ready(samples)


def _distance(x: np.ndarray, data: Moments) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    draws = [frechet_distance(data, moments(x[rng.integers(len(x), size=len(x))])) for _ in range(_RESAMPLES)]
    return frechet_distance(data, moments(x)), float(np.std(draws, ddof=1))


def front(points: Sequence[Point]) -> list[Point]:
    """The Pareto front of evaluations and distance, from the cheapest point on."""
    best, kept = float("inf"), []
    for point in sorted(points, key=lambda p: (p.num_evals, p.distance)):
        if point.distance < best:
            best = point.distance
            kept.append(point)
    return kept


def recommended(points: Sequence[Point], references: Sequence[Point], *, slack: float = 0.05) -> Point | None:
    """The cheapest point whose distance is within ``slack`` of the better reference, if any."""
    bound = (1.0 + slack) * min(point.distance for point in references)
    return next((point for point in front(points) if point.distance <= bound), None)
