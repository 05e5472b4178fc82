r"""Steps of networks that know where the probability flow leads, and not only its direction: few are enough."""

from typing import ClassVar

import jax.numpy as jnp

from score_sde.errors import UserError
from score_sde.keys import sample_noise
from score_sde.processes import ReverseProcess
from score_sde.solvers.base import SolverState, StatelessSolver
from score_sde.solvers.pairing import Follows, Learned
from score_sde.typing import SampleKeys, Scalar, component


@component
class ConsistencySteps(StatelessSolver):
    r"""Steps of a consistency model, whose denoised sample ``f(x_t, t)`` is the end of the flow.

    ``x_s = m(s) f(x_t, t) + s(s) z``: to the data, and back to the noise of the next time (Song et al. 2023,
    arXiv 2303.01469, algorithm 1). The sample without its last noise is ``m(s) f``.
    """

    follows: ClassVar[Follows] = "own"
    learned: ClassVar[frozenset[Learned]] = frozenset({"end"})

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """One evaluation, and new noise."""
        mean_coeff, std = process.forward.marginal(s)
        x_mean = mean_coeff * process.denoised(state.x, t)
        return state.moved(x_mean + std * sample_noise(keys, state.x), x_mean)


@component
class MeanFlowSteps(StatelessSolver):
    r"""Steps of a network of average velocities: ``x_s = x_t - (t - s) u(x_t, s, t)`` (Geng et al. 2025, algorithm 2).

    The score function has a method ``average(x, t, s)``, as from :func:`~score_sde.average_velocity.make_average_fn`.
    """

    follows: ClassVar[Follows] = "flow"
    learned: ClassVar[frozenset[Learned]] = frozenset({"average"})

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """One evaluation, and no noise.

        Raises:
            UserError: If the score function knows no average velocity.
        """
        del keys
        average = getattr(process.score_fn, "average", None)
        if average is None:
            raise UserError(
                "MeanFlowSteps asks for the average velocity between two times, and the score function has no method "
                "average(x, t, s); expected one, as from make_average_fn, or another solver, such as Heun."
            )
        start, end = (jnp.full(state.x.shape[:1], time) for time in (t, s))
        x = state.x - (t - s) * average(state.x, start, end)
        return state.moved(x, x)
