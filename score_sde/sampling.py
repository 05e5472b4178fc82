"""Drawing samples: time grids, the scan over solver steps, and samplers made of them.

Sample ``i`` depends on the root key and on ``i`` alone (key = root, sample index, step), so it is the same for every
batch size and every number of devices.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from score_sde.arguments import check_samples, not_fulfilled, not_whole
from score_sde.chains import Chain
from score_sde.errors import UserError, refuse, unknown
from score_sde.fields import DEFAULTS
from score_sde.keys import fold_in, sample_indices, sample_keys
from score_sde.labels import unconditional
from score_sde.outside.parts import Registry
from score_sde.parameterization import Parameterization, denoise, make_score_fn
from score_sde.processes import Process, ReverseProcess
from score_sde.solvers.base import Solution, Solver, SolverState
from score_sde.solvers.pairing import check_pair, noise_scale_of
from score_sde.solvers.reversal import StepLaw, with_step_law
from score_sde.typing import Batch, Network, Number, Params, PRNGKey, SampleKeys, ScoreFn, time_dtype

Denoising = Literal["tweedie", "mean", "none"]  #: how the noise left at the last time is removed
Grid: TypeAlias = Float[Array, " steps_plus_one"]  #: the times of a sampler, from 1 down

#: The ways to remove the noise left at the last time, with their cost in evaluations of the score.
DENOISING_EVALS: Mapping[str, int] = MappingProxyType({"tweedie": 1, "mean": 0, "none": 0})

#: Purposes of the keys derived from a sample's key; solver steps use their own index.
_PRIOR = 0
_SOLVER = 1


class Samples(NamedTuple):
    """A batch of samples and its cost."""

    x: Batch
    num_evals: Int[Array, ""]  # score evaluations per sample


@runtime_checkable
class Sampler(Protocol):
    """Draws samples ``first, first + 1, ...`` of the stream that ``key`` names."""

    def __call__(self, params: Params, key: PRNGKey, shape: tuple[int, ...], first: Array | int = 0) -> Samples:
        """Samples ``first`` to ``first + shape[0] - 1``."""
        ...


def _check_grid(num_steps: int, t_end: Number) -> None:
    before = not_fulfilled("t_end", t_end, lambda t: (t >= 0.0) & (t < 1.0), "a time from 0 to below 1")
    refuse([*not_whole("num_steps", num_steps, 1), *before])


def uniform_times(num_steps: int, t_end: Number = DEFAULTS.sampling.t_min) -> Grid:
    """``num_steps`` equal steps from 1 to ``t_end``.

    >>> uniform_times(2, 0.5).tolist()
    [1.0, 0.75, 0.5]

    Raises:
        UserError: If there is no step, or ``t_end`` is not a time before 1. The other grids raise it too.
    """
    _check_grid(num_steps, t_end)
    return jnp.linspace(1.0, t_end, num_steps + 1)


def quadratic_times(num_steps: int, t_end: Number = DEFAULTS.sampling.t_min) -> Grid:
    """Steps that shrink linearly towards the data: ``sqrt(t)`` is uniform."""
    _check_grid(num_steps, t_end)
    return jnp.linspace(1.0, jnp.sqrt(t_end), num_steps + 1) ** 2


def log_snr_times(process: Process, num_steps: int, t_end: Number = DEFAULTS.sampling.t_min) -> Grid:
    """Steps of equal change in the log signal-to-noise ratio (Lu et al. 2022, arXiv 2206.00927, section 3.4)."""
    _check_grid(num_steps, t_end)
    ends = process.log_snr(jnp.stack([jnp.asarray(1.0), jnp.asarray(t_end)]))
    grid = process.inverse_log_snr(jnp.linspace(ends[0], ends[1], num_steps + 1))
    return grid.at[0].set(1.0).at[-1].set(t_end)  # the ends exactly, not up to rounding


def edm_times(
    process: Process, num_steps: int, t_end: Number = DEFAULTS.sampling.t_min, rho: Number = DEFAULTS.sampling.rho
) -> Grid:
    """Equal steps in the ``rho``-th root of the noise-to-signal ratio ``s / m`` (Karras et al. 2022, eq. 5)."""
    _check_grid(num_steps, t_end)
    refuse(not_fulfilled("rho", rho, lambda rho: (rho > 0.0) & np.isfinite(rho), "a number above 0"))
    ends = jnp.exp(-0.5 / rho * process.log_snr(jnp.stack([jnp.asarray(1.0), jnp.asarray(t_end)])))
    ratio = jnp.linspace(ends[0], ends[1], num_steps + 1) ** rho
    grid = process.inverse_log_snr(-2.0 * jnp.log(ratio))
    return grid.at[0].set(1.0).at[-1].set(t_end)


#: Grids ``(process, num_steps, t_end) -> times`` by name.
GRIDS: Mapping[str, Callable[[Process, int, float], Grid]] = Registry(
    "sampling.grid",
    {
        "uniform": lambda process, n, t_end: uniform_times(n, t_end),
        "quadratic": lambda process, n, t_end: quadratic_times(n, t_end),
        "log_snr": log_snr_times,
        "edm": edm_times,
    },
)


def levels_of(chain: Chain, times: Grid) -> Float[Array, " levels"]:
    """The levels of a chain nearest to the times of a grid, each once; where there are more times, fewer levels.

    >>> from score_sde.chains import NCSN, geometric_sigmas
    >>> levels_of(NCSN(sigmas=geometric_sigmas(5)), uniform_times(3, 0.0)).tolist()
    [1.0, 0.75, 0.25, 0.0]

    Raises:
        UserError: If fewer than two levels are left.
    """
    levels = np.asarray(chain.times)
    nearest = np.unique(np.abs(np.asarray(times)[:, None] - levels[None]).argmin(axis=1))[::-1]
    if len(nearest) < 2:
        raise UserError(f"All times of the grid are nearest to one of the {len(levels)} levels; expected more steps.")
    return jnp.asarray(levels[nearest])


def solver_keys(keys: SampleKeys) -> SampleKeys:
    """The keys of a solver's noise, from which each step derives its own; independent of the prior's keys."""
    return fold_in(keys, _SOLVER)


def prior_samples(keys: SampleKeys, process: Process, event_shape: tuple[int, ...], dtype: Any = float) -> Batch:
    """Draw the starting points from the prior, one per key, of the given type."""
    return jax.vmap(lambda key: process.prior_sample(jax.random.fold_in(key, _PRIOR), event_shape, dtype))(keys)


def integrate(
    keys: SampleKeys,
    solver: Solver,
    process: ReverseProcess,
    x: Batch,
    times: Grid,
    *,
    num_steps: Int[Array, ""] | int | None = None,
) -> SolverState:
    """Apply ``solver`` along ``times``: the only loop over solver steps.

    The samples keep their type, and the times take it.

    Args:
        keys: One key per sample.
        solver: A stochastic or deterministic step.
        process: The process to integrate. Without a noise scale of its own, it has the one that the solver follows.
        x: Starting points at ``times[0]``.
        times: Decreasing grid.
        num_steps: Number of steps to take; all by default. It may vary under one compiled program, so that grids
            padded to one length are swept without recompilation.

    Returns:
        The state at ``times[num_steps]``.

    Raises:
        UserError: If there is not one key per sample, if samples or scores are not floating-point numbers of one shape,
            if the solver would drop noise of the process or add noise that it lacks, if it cannot follow the grid, if
            the times do not decrease, or if the grid has fewer steps; see :mod:`score_sde.solvers.pairing`.
    """
    step = _stepper(keys, solver, process, x, times, num_steps)
    return jax.lax.fori_loop(0, times.shape[0] - 1 if num_steps is None else num_steps, step, solver.init(x))


def trajectory(
    keys: SampleKeys,
    solver: Solver,
    process: ReverseProcess,
    x: Batch,
    times: Grid,
    *,
    frames: Sequence[int] | np.ndarray | None = None,
) -> Float[Array, "..."]:
    """The samples at times of the grid, stacked in front: shape ``(frames, batch, *event)``.

    Args:
        keys: One key per sample.
        solver: A stochastic or deterministic step.
        process: The process to integrate.
        x: Starting points at ``times[0]``.
        times: Decreasing grid.
        frames: The indices of the times to keep, in any order; all by default. Only these need memory, however many
            steps there are.

    Raises:
        UserError: If a frame is not an index into the times, and as :func:`integrate`.
    """
    step = _stepper(keys, solver, process, x, times)
    steps = times.shape[0] - 1
    wanted = np.arange(steps + 1) if frames is None else np.asarray(frames, int)
    if wanted.ndim != 1 or wanted.size == 0 or wanted.min() < 0 or wanted.max() > steps:
        raise UserError(f"The frames are {list(np.ravel(wanted))}; expected indices from 0 to {steps}, one at least.")
    kept, place = np.unique(wanted, return_inverse=True)
    # The row behind the last is for samples that are not kept.
    rows = np.full(steps + 1, len(kept))
    rows[kept] = np.arange(len(kept))
    row_of = jnp.asarray(rows)

    def body(index: Array, carried: tuple[SolverState, Array]) -> tuple[SolverState, Array]:
        state, path = step(index, carried[0]), carried[1]
        return state, jax.lax.dynamic_update_index_in_dim(path, state.x, row_of[index + 1], 0)

    start = jnp.zeros((len(kept) + 1, *x.shape), x.dtype).at[rows[0]].set(x)
    _, path = jax.lax.fori_loop(0, steps, body, (solver.init(x), start))
    return path[place]


def _stepper(
    keys: SampleKeys,
    solver: Solver,
    process: ReverseProcess,
    x: Batch,
    times: Grid,
    num_steps: Int[Array, ""] | int | None = None,
) -> Callable[[Array | int, SolverState], SolverState]:
    """Step number ``index`` along the grid, of the process with the noise that the solver follows."""
    check_samples(keys, x)
    process = dataclasses.replace(process, stated_noise_scale=noise_scale_of(solver, process.stated_noise_scale))
    check_pair(solver, process.forward, times, num_steps)
    keys, times = solver_keys(keys), times.astype(time_dtype(x))

    def step(index: Array | int, state: SolverState) -> SolverState:
        after = solver.step(fold_in(keys, index), process, state, times[index], times[index + 1])
        return jax.tree.map(lambda new, old: new.astype(old.dtype), after, state)  # the loop is of one type

    return step


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)  # compared and hashed by identity, as functions are
class FixedSteps:
    """A sampler that takes the steps of a solver along a grid: ``(params, key, shape, first) -> Solution``.

    The attributes are the arguments of :func:`make_sampler`, and the following.

    Attributes:
        score_of: From parameters to the score to follow.
        law_of: From parameters to the law of a step down a chain, where the network has learned the variances.
        name: Name of the sampler in reports.

    Raises:
        UserError: If the solver cannot follow the process along the grid, or not with this noise.
    """

    score_of: Callable[[Params], ScoreFn]
    process: Process
    solver: Solver
    times: Grid
    num_steps: Int[Array, ""] | int | None = None
    noise_scale: Number | None = None
    denoising: Denoising = DEFAULTS.sampling.denoising
    law_of: Callable[[Params], StepLaw] | None = None
    # From parameters and the numbers of samples to the parameters for their classes.
    condition: Callable[[Params, Integer[Array, " batch"]], Params] = unconditional
    dtype: Any = float
    name: str = ""

    on_grid: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a solver that cannot follow the process along the grid."""
        object.__setattr__(self, "noise_scale", noise_scale_of(self.solver, self.noise_scale))
        check_pair(self.solver, self.process, self.times, self.num_steps)

    @property
    def num_evals(self) -> Any:
        """Evaluations of the score for each sample; traced if the number of steps is."""
        return self.solver.num_evals * self._taken + DENOISING_EVALS[self.denoising]

    @property
    def _taken(self) -> Any:
        return self.times.shape[0] - 1 if self.num_steps is None else self.num_steps

    def __call__(self, params: Params, key: PRNGKey, shape: tuple[int, ...], first: Array | int = 0) -> Solution:
        """Samples ``first`` to ``first + shape[0] - 1``."""
        params = self.condition(params, sample_indices(first, shape[0]))
        return self.of_keys(params, sample_keys(key, first, shape[0]), shape[1:])

    def of_keys(self, params: Params, keys: SampleKeys, event_shape: tuple[int, ...]) -> Solution:
        """A sample for each key."""
        keys, solver, process, start = self._begin(params, keys, event_shape)
        state = integrate(keys, solver, process, start, self.times, num_steps=self.num_steps)
        x = state.x_mean if self.denoising == "mean" else state.x
        if self.denoising == "tweedie":
            t = jnp.full(keys.shape, self.times[self._taken], time_dtype(x))
            x = denoise(self.process, process.score_fn, x, t)
        return Solution(x, jnp.full(keys.shape, self.num_evals), jnp.ones(keys.shape, bool))

    def path(
        self,
        params: Params,
        key: PRNGKey,
        shape: tuple[int, ...],
        first: Array | int = 0,
        *,
        frames: Sequence[int] | np.ndarray | None = None,
    ) -> Float[Array, "..."]:
        """The samples along the path from the prior, at the times of :func:`trajectory`."""
        params, keys = self.condition(params, sample_indices(first, shape[0])), sample_keys(key, first, shape[0])
        return trajectory(*self._begin(params, keys, shape[1:]), self.times, frames=frames)

    def along(self, times: Grid) -> "FixedSteps":
        """The same steps along another grid."""
        return dataclasses.replace(self, times=times)

    def _begin(
        self, params: Params, keys: SampleKeys, event_shape: tuple[int, ...]
    ) -> tuple[SampleKeys, Solver, ReverseProcess, Batch]:
        process = self.process.reverse(self.score_of(params), noise_scale=self.noise_scale)
        solver = self.solver if self.law_of is None else with_step_law(self.solver, self.law_of(params))
        return keys, solver, process, prior_samples(keys, self.process, event_shape, self.dtype)


def make_sampler(
    network: Network,
    parameterization: Parameterization,
    process: Process,
    solver: Solver,
    *,
    times: Grid,
    num_steps: Int[Array, ""] | int | None = None,
    noise_scale: Number | None = None,
    denoising: Denoising = DEFAULTS.sampling.denoising,
    modify_score: Callable[[ScoreFn], ScoreFn] = lambda score_fn: score_fn,
    dtype: Any = float,
) -> Sampler:
    """A sampler ``(params, key, shape, first) -> Samples``; jit it with ``static_argnums=2``.

    Args:
        network: The score network.
        parameterization: The meaning of its output.
        process: The forward process.
        solver: The reverse step.
        times: Decreasing grid from 1 to a small positive time.
        num_steps: Number of steps to take, as in :func:`integrate`.
        noise_scale: 1 for the reverse SDE, 0 for the probability flow; ``None`` for the solver's own. It may vary under
            one compiled program.
        denoising: How the noise left at the last time is removed: ``"tweedie"`` returns the posterior mean of the
            data (one more evaluation), ``"mean"`` the sample before the last noise was added (the choice of Song et
            al.), ``"none"`` the noisy sample.
        modify_score: From the network's score to the one to follow, such as
            :func:`score_sde.parameterization.thresholded`.
        dtype: Type of the samples; by default JAX's own, float32 unless ``jax_enable_x64`` is set.

    Raises:
        UserError: If the solver would drop noise of the process or add noise that it lacks, or cannot follow the grid;
            see :mod:`score_sde.solvers.pairing`. If ``denoising`` is unknown.

    >>> from score_sde import VP, solvers
    >>> from score_sde.parameterization import NoisePrediction
    >>> class Network:  # of data N(0, 0.25 I), told log(s / m)
    ...     def init(self, key, shape): return {}
    ...     def apply(self, params, x, condition, *, key=None):
    ...         ratio = jnp.exp(condition)[:, None]
    ...         return x * ratio * jnp.sqrt(1.0 + ratio**2) / (0.25 + ratio**2)
    >>> options = {"condition_on": "log_noise"}
    >>> sampler = make_sampler(Network(), NoisePrediction(**options), VP(), solvers.Heun(), times=uniform_times(200))
    >>> x = sampler({}, jax.random.key(0), (4000, 2)).x
    >>> round(float(x.std()), 1)
    0.5
    """
    if denoising not in DENOISING_EVALS:
        raise unknown("way of denoising", str(denoising), DENOISING_EVALS)
    sampler = FixedSteps(
        score_of=lambda params: modify_score(make_score_fn(network, parameterization, process, params)),
        process=process,
        solver=solver,
        times=times,
        num_steps=num_steps,
        noise_scale=noise_scale,
        denoising=denoising,
        dtype=dtype,
    )

    def draw(params: Params, key: PRNGKey, shape: tuple[int, ...], first: Array | int = 0) -> Samples:
        return Samples(sampler(params, key, shape, first).y, jnp.asarray(sampler.num_evals))

    return draw
