r"""The samplers on problems with known solutions: errors at few evaluations, measured orders, bias of correctors."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.distributed import jit
from score_sde.evaluation.problems import CASES, Case, CorrelatedGaussian, Problem, RotatedMixtures
from score_sde.keys import sample_noise
from score_sde.sampling import GRIDS, integrate, sample_keys
from score_sde.solvers import (
    DDIM,
    DETERMINISTIC,
    STOCHASTIC,
    AnnealedLangevin,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    Solver,
)

GAUSSIAN = CorrelatedGaussian()
#: The densities for the probability flow.
PROBLEMS: dict[str, Problem] = {"Gaussian": GAUSSIAN, "mixtures": RotatedMixtures()}
#: The best grids for a solver in time and for one in the noise level.
GRID_OF = {"euler": "log_snr", "heun": "log_snr", "edm_heun": "edm"}
#: Solvers of the reverse SDE at full noise.
NOISY = {name: DDIM(eta=1.0) if name == "ddim" else make() for name, make in STOCHASTIC.items() if name != "none"}
SNRS = (0.01, 0.05, 0.1, 0.16, 0.25)
_POINTS = 32


class FlowRow(NamedTuple):
    """One solver of the probability flow on one process and problem."""

    problem: str
    sde: str
    solver: str
    grid: str
    errors: dict[int, float]  # relative error by number of evaluations
    order: float  # measured between the two finest grids


class NoisyRow(NamedTuple):
    """One solver of the reverse SDE on one process: errors of the sample variances."""

    sde: str
    solver: str
    errors: dict[int, float]  # largest relative error of a variance, by number of steps
    order: float


class CorrectorRow(NamedTuple):
    """Predictor-corrector sampling on one process: relative bias of the total sample variance."""

    sde: str
    snr: float
    annealed: float  # annealed Langevin, exact
    langevin: float  # Langevin with norms over the batch, by Monte Carlo
    langevin_std_error: float
    predictor: float  # without a corrector


def relative_errors(
    case: Case, solver: Solver, grid: str, steps: Iterable[int], problem: Problem = GAUSSIAN
) -> dict[int, float]:
    """``|x - x_exact| / |x_exact|`` over 32 starting points from the prior, by number of steps."""
    sde, steps = case.sde, sorted(set(steps))
    start = sde.prior_std * jnp.asarray(np.random.RandomState(1).randn(_POINTS, len(problem.basis)))
    keys = sample_keys(jax.random.key(0), 0, _POINTS)
    process = sde.probability_flow(problem.score(sde))

    @jit
    def solve(start: Array, times: Array, num_steps: Array) -> Array:
        return integrate(keys, solver, process, start, times, num_steps=num_steps).x

    exact = jit(lambda start, t, s: problem.flow(sde, start, t, s))(start, jnp.ones(()), jnp.asarray(case.t_end))
    errors = {}
    for n in steps:
        times = jnp.pad(GRIDS[grid](sde, n, case.t_end), (0, steps[-1] - n), mode="edge")
        errors[n] = float(jnp.linalg.norm(solve(start, times, jnp.asarray(n)) - exact) / jnp.linalg.norm(exact))
    return errors


def flow_rows(
    solvers: Iterable[str] = DETERMINISTIC,
    *,
    problems: Iterable[str] = PROBLEMS,
    cases: Sequence[Case] = CASES,
    evals: Sequence[int] = (8, 16, 32, 64),
    order_steps: tuple[int, int] = (1024, 2048),
) -> Iterator[FlowRow]:
    """The solvers of the probability flow, in double precision, one row at a time."""
    for problem, case, name in itertools.product(problems, cases, solvers):
        solver, grid = DETERMINISTIC[name](), GRID_OF.get(name, "log_snr")
        counts = {n: n // solver.num_evals for n in evals}
        with jax.enable_x64(True):
            found = relative_errors(case, solver, grid, (*counts.values(), *order_steps), PROBLEMS[problem])
        errors = {n: found[count] for n, count in counts.items()}
        yield FlowRow(problem, case.name, name, grid, errors, _order(found, order_steps))


def _order(errors: Mapping[int, float], steps: tuple[int, int]) -> float:
    coarse, fine = steps
    return float(np.log(errors[coarse] / errors[fine]) / np.log(fine / coarse))


def sampled_variances(case: Case, parts: Sequence[Solver], times: Array) -> Array:
    """The exact variances of the samples along the axes of the Gaussian; nothing is drawn.

    For a linear score the last sample is a linear function of the first one and of all added noise, whatever memory
    the solver keeps. The coefficients are one gradient, and the variance is the sum of their squares.

    The parts are a predictor and the correctors that follow it at every time; each adds noise of fixed standard
    deviation. Samples start from the exact marginal at the first time.
    """
    process = case.sde.reverse(lambda y, t: GAUSSIAN.score_in_frame(y, *case.sde.marginal(t)))
    key, dim = sample_keys(jax.random.key(0), 0, 1), len(GAUSSIAN.basis)

    def last(start: Array, noises: Array) -> Array:
        def body(state: Any, step: tuple[Array, Array, Array]) -> tuple[Any, None]:
            t, s, noise = step
            for index, solver in enumerate(parts):
                after = solver.step(key, process, state, t if index == 0 else s, s)
                # The solver's own noise gives its standard deviation; then the noise to differentiate replaces it.
                std = jax.lax.stop_gradient((after.x - after.x_mean) / sample_noise(key, after.x))
                state = after._replace(x=after.x_mean + std * noise[index])
            return state, None

        state, _ = jax.lax.scan(body, parts[0].init(start), (times[:-1], times[1:], noises))
        return state.x.sum()

    noises = jnp.zeros((len(times) - 1, len(parts), 1, dim))
    from_start, from_noise = jit(jax.grad(last, argnums=(0, 1)))(jnp.zeros((1, dim)), noises)
    variances = GAUSSIAN.marginal_variances(case.sde, times[0])
    return from_start[0] ** 2 * variances + jnp.sum(from_noise**2, axis=(0, 1, 2))


def noisy_rows(
    solvers: Iterable[str] = NOISY,
    *,
    cases: Sequence[Case] = CASES,
    steps: Sequence[int] = (16, 64, 256),
    order_steps: tuple[int, int] = (256, 512),
) -> Iterator[NoisyRow]:
    """The solvers of the reverse SDE, in double precision, one row at a time."""
    for case, name in itertools.product(cases, solvers):
        with jax.enable_x64(True):
            found = {n: _variance_error(case, NOISY[name], n) for n in sorted({*steps, *order_steps})}
        yield NoisyRow(case.name, name, {n: found[n] for n in steps}, _order(found, order_steps))


def _variance_error(case: Case, solver: Solver, num_steps: int) -> float:
    """The largest relative error of a sample variance, on the log-SNR grid."""
    times = GRIDS["log_snr"](case.sde, num_steps, case.t_end)
    exact = GAUSSIAN.marginal_variances(case.sde, times[-1])
    return float(jnp.abs(sampled_variances(case, [solver], times) / exact - 1.0).max())


def corrector_rows(
    snrs: Iterable[float] = SNRS, *, cases: Sequence[Case] = CASES, num_steps: int = 500, num_samples: int = 20_000
) -> Iterator[CorrectorRow]:
    """The effect of a correction after every reverse-diffusion step on the total variance, one row at a time."""
    for case in cases:
        with jax.enable_x64(True):
            times = GRIDS["log_snr"](case.sde, num_steps, case.t_end)
            exact = GAUSSIAN.marginal_variances(case.sde, times[-1]).sum()
            alone = float(sampled_variances(case, [ReverseDiffusion()], times).sum() / exact - 1.0)
            for snr in snrs:
                parts = [ReverseDiffusion(), AnnealedLangevin(snr=snr)]
                annealed = float(sampled_variances(case, parts, times).sum() / exact - 1.0)
                found = np.asarray(_sampled_squares(case, snr, times, num_samples) / exact)
                error = float(found.std(ddof=1) / np.sqrt(num_samples))
                yield CorrectorRow(case.name, snr, annealed, float(found.mean() - 1.0), error, alone)


def _sampled_squares(case: Case, snr: float, times: Array, count: int) -> Array:
    """Squared norms of samples drawn with Langevin corrections, whose step size depends on the noise of the batch."""
    keys = sample_keys(jax.random.key(1), 0, count)
    solver = PredictorCorrector(predictor=ReverseDiffusion(), corrector=Langevin(snr=snr))
    process = case.sde.reverse(lambda y, t: GAUSSIAN.score_in_frame(y, *case.sde.marginal(t)))
    spread = jnp.sqrt(GAUSSIAN.marginal_variances(case.sde, times[0]))
    start = spread[None] * jax.random.normal(jax.random.key(2), (count, len(spread)))
    x = jit(lambda start, times: integrate(keys, solver, process, start, times).x)(start, times)
    return jnp.sum(x**2, axis=1)
