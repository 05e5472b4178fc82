"""Solvers of the reverse-time SDE and of the probability-flow ODE.

:func:`~score_sde.solvers.adaptive.solve_ode`, the adaptive one, is imported from its own module: it needs diffrax.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from score_sde.solvers.base import Solver, SolverState
from score_sde.solvers.compose import PredictorCorrector
from score_sde.solvers.correctors import Langevin
from score_sde.solvers.ode import Euler, Heun
from score_sde.solvers.predictors import EulerMaruyama, ReverseDiffusion

#: Names for configurations. The ODE steps need a process without noise, ``sde.probability_flow(score_fn)``.
PREDICTORS: Mapping[str, Callable[[], Solver]] = MappingProxyType(
    {"euler_maruyama": EulerMaruyama, "reverse_diffusion": ReverseDiffusion, "euler": Euler, "heun": Heun}
)
CORRECTORS: Mapping[str, Callable[..., Solver]] = MappingProxyType({"langevin": Langevin})
ODE_STEPS = frozenset({"euler", "heun"})

__all__ = [
    "CORRECTORS",
    "ODE_STEPS",
    "PREDICTORS",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "ReverseDiffusion",
    "Solver",
    "SolverState",
]
