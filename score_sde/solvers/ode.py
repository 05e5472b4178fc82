"""Fixed-step solvers of the probability-flow ODE; they follow the drift of the process and add no noise."""

from score_sde.sdes import ReverseSDE
from score_sde.solvers.base import SolverState, StatelessSolver
from score_sde.typing import SampleKeys, Scalar, component


@component
class Euler(StatelessSolver):
    """Euler's method, order 1."""

    @property
    def num_evals(self) -> int:
        """One."""
        return 1

    def step(self, keys: SampleKeys, process: ReverseSDE, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """``x + (s - t) drift(x, t)``."""
        del keys
        x = state.x + (s - t) * process.drift(state.x, t)
        return SolverState(x, x)


@component
class Heun(StatelessSolver):
    """Heun's method (explicit trapezoidal rule), order 2; Karras et al. 2022, algorithm 1."""

    @property
    def num_evals(self) -> int:
        """Two."""
        return 2

    def step(self, keys: SampleKeys, process: ReverseSDE, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """``x + (s - t) (drift(x, t) + drift(x_euler, s)) / 2``."""
        del keys
        first = process.drift(state.x, t)
        second = process.drift(state.x + (s - t) * first, s)
        x = state.x + 0.5 * (s - t) * (first + second)
        return SolverState(x, x)
