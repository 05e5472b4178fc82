"""The solver contract: one step of a reverse process from time ``t`` to ``s < t``.

    x ~ prior --> solver.init --> [ solver.step(keys, process, state, t, s) for each pair of times ] --> state.x

A solver receives the *process*, which holds the score function, and may evaluate it as often and wherever it likes. The
loop over times belongs to :func:`score_sde.sampling.integrate`, the only loop over solver steps.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from score_sde.arguments import Checked
from score_sde.errors import UserError
from score_sde.processes import Process, ReverseProcess
from score_sde.sdes import SDE, ReverseSDE
from score_sde.typing import Batch, SampleKeys, Scalar, event_sum


class SolverState(NamedTuple):
    """The input of the next step: the sample, with and without the last noise, and a multistep solver's past."""

    x: Batch
    x_mean: Batch
    memory: Any = ()

    def moved(self, x: Batch, x_mean: Batch) -> "SolverState":
        """The state after a step without a past of its own; another solver's past stays in place."""
        return SolverState(x, x_mean, self.memory)


class Solution(NamedTuple):
    """The result of an adaptive solver and its cost, one entry per example."""

    y: Any
    num_evals: Int[Array, " batch"]
    success: Bool[Array, " batch"]  # False: the end was not reached within the allowed steps


@runtime_checkable
class Solver(Protocol):
    """A predictor, a corrector, a composition of them, or an ODE step.

    It may have an attribute ``follows`` that names its reverse process. Without one it is assumed to respect
    ``process.noise_scale``; see :mod:`score_sde.solvers.pairing`.
    """

    @property
    def num_evals(self) -> int:
        """Score evaluations per step."""
        ...

    def init(self, x: Batch) -> SolverState:
        """The state at the start."""
        ...

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """Move from ``t`` to ``s``; noise for sample ``i`` comes from ``keys[i]`` alone."""
        ...


class StatelessSolver(Checked):
    """Base of the solvers whose only state is the sample."""

    num_evals: int = 1

    def init(self, x: Batch) -> SolverState:
        """Start with no noise added."""
        return SolverState(x, x)


def largest_rms(error: Any) -> Scalar:
    """The largest root mean square of an example in a batch: a norm for joint step sizes.

    >>> float(largest_rms(jnp.array([[1.0, 1.0], [3.0, 4.0]])) ** 2)
    12.5
    """
    leaves = jax.tree.leaves(error)
    squares = sum(event_sum(leaf**2) for leaf in leaves)
    return jnp.sqrt(jnp.max(squares / sum(leaf[0].size for leaf in leaves)))


def continuous(process: ReverseProcess) -> ReverseSDE:
    """The process, checked to have a drift for a solver in continuous time.

    Raises:
        UserError: If it is the reversal of a chain, which has no drift.
    """
    check_drift(process.forward)
    assert isinstance(process, ReverseSDE)
    return process


def check_drift(process: Process) -> None:
    """Refuse a process without a drift.

    Raises:
        UserError: If it is a chain.
    """
    if not isinstance(process, SDE):
        raise UserError(
            f"This solver follows a drift, and a {type(process).__name__} chain has none; expected one that needs "
            "marginals alone, such as Ancestral, DDIM or DPMSolverMultistep."
        )
