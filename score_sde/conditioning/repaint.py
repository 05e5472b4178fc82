r"""RePaint's resampling: every step is taken several times, with the forward process between.

A step that holds known values sees one noisy copy of them, and the unknown ones never hear of the next. Going back to
``t`` by the forward process and stepping again lets the two agree: the steps between ``t`` and ``s`` are then a Markov
chain whose stationary law, with an exact score and small steps, is the conditional one.
"""

from collections.abc import Iterator

import jax
from jaxtyping import Array

from score_sde.arguments import Checked, not_whole
from score_sde.keys import fold_in, sample_noise
from score_sde.processes import ReverseProcess
from score_sde.solvers import Solver, SolverState
from score_sde.typing import Batch, SampleKeys, Scalar, component, static

#: Purpose of the key of the forward noise, distinct from the solver's own.
_BACK = 0x7FFFFFFD


@component
class RePaint(Checked):
    """A solver whose every step is repeated (Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1).

    Before each repeat ``x_t = m x_s + s z`` with the coefficients of the transition from ``s`` to ``t`` and new noise.

    Attributes:
        solver: The step, an :class:`~score_sde.conditioning.Inpaint` to hold known values.
        num_repeats: How often each step is taken; with 1 it is the solver.

    >>> from score_sde import solvers
    >>> RePaint(solver=solvers.Ancestral(), num_repeats=10).num_evals
    10
    """

    solver: Solver
    num_repeats: int = static(default=10)

    def problems(self) -> Iterator[str]:
        """Sentences about an invalid number of repeats, and solvers that go on from their own past."""
        yield from not_whole("num_repeats", self.num_repeats, 1)
        inner = getattr(self.solver, "solver", self.solver)
        if getattr(inner, "keeps_past", False):
            yield (
                f"{type(inner).__name__} goes on from its own past, and a repeated step has none; expected a solver "
                "without one, such as Ancestral."
            )

    @property
    def num_evals(self) -> int:
        """Evaluations of all repeats."""
        return self.num_repeats * self.solver.num_evals

    def init(self, x: Batch) -> SolverState:
        """The state of the solver."""
        return self.solver.init(x)

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """The solver's step from ``t`` to ``s``, and for each repeat one forward step back to ``t`` before it."""
        mean_coeff, std = process.forward.transition(s, t)

        def again(index: Array, state: SolverState) -> SolverState:
            own = fold_in(keys, index)
            x = mean_coeff * state.x + std * sample_noise(fold_in(own, _BACK), state.x)
            return self.solver.step(own, process, state._replace(x=x), t, s)

        state = self.solver.step(keys, process, state, t, s)
        return jax.lax.fori_loop(1, self.num_repeats, again, state) if self.num_repeats > 1 else state
