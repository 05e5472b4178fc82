"""A solver: the midpoint rule for the probability flow."""

from typing import Any, ClassVar

import jax
from small import small

from score_sde.config import ConfigDict
from score_sde.processes import ReverseProcess
from score_sde.solvers.base import SolverState, StatelessSolver, continuous
from score_sde.typing import component


@component
class Midpoint(StatelessSolver):
    """Two evaluations per step; ``place`` is where the second is, 0.5 for the midpoint."""

    place: float = 0.5
    num_evals = 2
    follows: ClassVar[str] = "flow"
    needs_drift: ClassVar[bool] = True

    def step(self, keys: Any, process: ReverseProcess, state: SolverState, t: jax.Array, s: jax.Array) -> SolverState:
        """From ``t`` to ``s``."""
        flow, inner = continuous(process), t + self.place * (s - t)
        x = state.x + (inner - t) * flow.drift(state.x, t)
        moved = state.x + (s - t) * flow.drift(x, inner)
        return state.moved(moved, moved)


def get_config() -> ConfigDict:
    """25 steps, 50 evaluations."""
    config = small()
    config.sampling.predictor = "solver:Midpoint"
    config.sampling.grid = "log_snr"
    config.sampling.num_steps = 25
    return config
