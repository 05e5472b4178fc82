r"""Ancestral sampling by a Gaussian reversal, such as one with learned variances."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import jax.numpy as jnp

from score_sde.keys import sample_noise
from score_sde.processes import ReverseProcess
from score_sde.solvers.base import Solver, SolverState, StatelessSolver
from score_sde.solvers.compose import PredictorCorrector
from score_sde.solvers.pairing import Follows
from score_sde.solvers.predictors import Ancestral
from score_sde.typing import Batch, SampleKeys, Scalar, Times

#: Mean and logarithm of the std of ``p(x_s | x_t)`` at ``(x_t, t, s)``, value by value.
StepLaw: TypeAlias = Callable[[Batch, Times, Times], tuple[Batch, Batch]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianReversal(StatelessSolver):
    r"""``x_s ~ N(mean, exp(2 log_std))``, where a law gives both from ``x_t`` (Nichol & Dhariwal 2021, eq. 15).

    With the posterior's mean at the denoised sample and its std, or the transition's, it is
    :class:`~score_sde.solvers.Ancestral` with small or large noise. The score of the process plays no part.

    Attributes:
        law: The law of a step, such as :meth:`score_sde.variational.LearnedReversal.step`.
    """

    law: StepLaw

    follows: ClassVar[Follows] = "sde"

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """A draw of ``p(x_s | x_t)``."""
        del process
        times = (jnp.full(state.x.shape[:1], time) for time in (t, s))
        x_mean, log_std = self.law(state.x, *times)
        return state.moved(x_mean + jnp.exp(log_std) * sample_noise(keys, state.x), x_mean)


def with_step_law(solver: Solver, law: StepLaw) -> Solver:
    """The solver, with its ancestral steps of posterior variance replaced by draws from the law."""
    if isinstance(solver, PredictorCorrector):
        return dataclasses.replace(solver, predictor=with_step_law(solver.predictor, law))
    return GaussianReversal(law=law) if isinstance(solver, Ancestral) and not solver.large else solver
