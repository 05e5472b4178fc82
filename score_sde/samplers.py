"""The samplers of trained models, each ``(params, key, shape, first) -> Solution``, and the registry of their methods.

Besides :class:`~score_sde.sampling.FixedSteps` there are :class:`Adaptive`, with as many steps as the error requires,
and :class:`Decoder`, for latent variable models. A *method* moves samples: it is a solver, which steps along a grid,
or one of the two that choose their own steps. It declares the process it follows (:mod:`score_sde.solvers.pairing`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Integer

from score_sde.fields import DEFAULTS
from score_sde.keys import sample_indices
from score_sde.labels import unconditional
from score_sde.likelihood.flow import transport
from score_sde.objectives import LatentVariableModel, sample_from_prior
from score_sde.outside.parts import Registry
from score_sde.parameterization import denoise
from score_sde.processes import ReverseProcess
from score_sde.sampling import DENOISING_EVALS, Denoising, FixedSteps, Grid, prior_samples, sample_keys, solver_keys
from score_sde.sdes import SDE
from score_sde.solvers import FLOW_MAPS, PREDICTORS, EulerMaruyama, Follows, Solver
from score_sde.solvers.base import Solution, continuous
from score_sde.solvers.contract import check_solver
from score_sde.typing import Batch, Number, Params, PRNGKey, SampleKeys, ScoreFn, component, static


@component
class AdaptiveODE:
    """The probability flow; see :func:`score_sde.likelihood.transport`."""

    tolerance: Number = DEFAULTS.sampling.tolerance
    max_steps: int = static(default=DEFAULTS.sampling.max_steps)
    joint_steps: bool = static(default=DEFAULTS.sampling.joint_steps)

    follows: ClassVar[Follows] = "flow"
    needs_drift: ClassVar[bool] = True

    def solve(self, keys: SampleKeys, process: ReverseProcess, x: Batch, t1: Number) -> Solution:
        """Without noise."""
        del keys
        sde, steps = continuous(process).forward, {"max_steps": self.max_steps, "joint": self.joint_steps}
        return transport(sde, process.score_fn, x, t0=1.0, t1=t1, rtol=self.tolerance, atol=self.tolerance, **steps)


@component
class AdaptiveSDE:
    """The reverse SDE; see :func:`score_sde.solvers.adaptive_sde.solve_sde`."""

    sde_rtol: Number = DEFAULTS.sampling.sde_rtol
    sde_atol: Number = DEFAULTS.sampling.sde_atol
    max_steps: int = static(default=DEFAULTS.sampling.max_steps)
    joint_steps: bool = static(default=DEFAULTS.sampling.joint_steps)

    follows: ClassVar[Follows] = "any"
    needs_drift: ClassVar[bool] = True
    no_denoising: ClassVar[frozenset[str]] = frozenset({"mean"})  # for the last step is kept with its noise

    def solve(self, keys: SampleKeys, process: ReverseProcess, x: Batch, t1: Number) -> Solution:
        """With the noise of one Brownian path for each sample."""
        from score_sde.solvers.adaptive_sde import solve_sde  # keeps diffrax out of the import

        tolerance = {"rtol": self.sde_rtol, "atol": self.sde_atol}
        steps = {"max_steps": self.max_steps, "joint": self.joint_steps}
        return solve_sde(solver_keys(keys), continuous(process), x, t1=t1, **tolerance, **steps)


AdaptiveMethod: TypeAlias = AdaptiveODE | AdaptiveSDE  #: a method that chooses its own steps

#: Methods by their names in configurations.
METHODS: Mapping[str, Callable[..., Solver | AdaptiveMethod]] = Registry(
    "sampling.predictor",
    {**PREDICTORS, **FLOW_MAPS, "adaptive": AdaptiveODE, "adaptive_sde": AdaptiveSDE},
    check=check_solver,
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)  # compared and hashed by identity, as functions are
class Adaptive:
    """A sampler that chooses its steps by their error, and stops at ``t_min``; otherwise as ``FixedSteps``."""

    score_of: Callable[[Params], ScoreFn]
    process: SDE
    method: AdaptiveMethod
    t_min: Number
    noise_scale: Number
    denoising: Denoising = DEFAULTS.sampling.denoising
    condition: Callable[[Params, Integer[Array, " batch"]], Params] = unconditional
    name: str = ""

    on_grid: ClassVar[bool] = False
    num_evals: ClassVar[None] = None

    def __call__(self, params: Params, key: PRNGKey, shape: tuple[int, ...], first: Array | int = 0) -> Solution:
        """Samples ``first`` to ``first + shape[0] - 1``."""
        params = self.condition(params, sample_indices(first, shape[0]))
        return self.of_keys(params, sample_keys(key, first, shape[0]), shape[1:])

    def of_keys(self, params: Params, keys: SampleKeys, event_shape: tuple[int, ...]) -> Solution:
        """A sample for each key."""
        score_fn, start = self.score_of(params), prior_samples(keys, self.process, event_shape)
        process = self.process.reverse(score_fn, noise_scale=self.noise_scale)
        x, num_evals, success = self.method.solve(keys, process, start, self.t_min)
        if self.denoising == "tweedie":
            x = denoise(self.process, score_fn, x, jnp.full(keys.shape, self.t_min))
        return Solution(x, num_evals + DENOISING_EVALS[self.denoising], success)

    def along(self, times: Grid) -> FixedSteps:
        """The same process in steps along a grid, for pictures of the path."""
        return FixedSteps(
            score_of=self.score_of,
            process=self.process,
            solver=EulerMaruyama(),
            times=times,
            noise_scale=self.noise_scale,
            denoising=self.denoising,
            condition=self.condition,
            name=self.name,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)  # compared and hashed by identity, as functions are
class Decoder:
    """The sampler of a latent variable model, which decodes draws from its prior."""

    latent: LatentVariableModel  # the model
    denoising: Denoising = DEFAULTS.sampling.denoising  # ``"none"`` draws from ``p(x | z)``; the others take its mean

    name: ClassVar[str] = "decoder"
    on_grid: ClassVar[bool] = False
    num_evals: ClassVar[int] = 1

    def __call__(self, params: Params, key: PRNGKey, shape: tuple[int, ...], first: Array | int = 0) -> Solution:
        """Samples ``first`` to ``first + shape[0] - 1``."""
        noise = self.denoising == "none"
        x = sample_from_prior(key, self.latent, params, shape[0], first=first, noise=noise)
        return Solution(x, jnp.ones(shape[:1], int), jnp.ones(shape[:1], bool))

    def along(self, times: Grid) -> None:
        """None: a decoder has no path from noise to data, only one step."""
        del times


ModelSampler: TypeAlias = FixedSteps | Adaptive | Decoder  #: what draws the samples of a trained model
