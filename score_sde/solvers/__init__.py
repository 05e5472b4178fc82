"""Solvers of the reverse-time SDE and of the probability-flow ODE.

The adaptive :func:`~score_sde.solvers.adaptive.solve_ode` is imported from its own module, because it needs diffrax.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from score_sde.outside.parts import Registry
from score_sde.solvers.base import Solver, SolverState
from score_sde.solvers.compose import PredictorCorrector
from score_sde.solvers.contract import check_corrector
from score_sde.solvers.correctors import AnnealedLangevin, Langevin
from score_sde.solvers.exponential import DPMSolverMultistep, DPMSolverSinglestep, UniPC
from score_sde.solvers.flow_maps import ConsistencySteps, MeanFlowSteps
from score_sde.solvers.langevin import langevin_monte_carlo, metropolis_langevin
from score_sde.solvers.ode import EDMHeun, Euler, Heun
from score_sde.solvers.pairing import Follows, Learned, follows_of, learned_of, noise_scale_of
from score_sde.solvers.predictors import DDIM, Ancestral, EulerMaruyama, NoPredictor, ReverseDiffusion
from score_sde.solvers.reversal import GaussianReversal

#: Solvers of the reverse process with its noise, by the names of configurations.
STOCHASTIC: Mapping[str, Callable[..., Solver]] = MappingProxyType(
    {
        "euler_maruyama": EulerMaruyama,
        "reverse_diffusion": ReverseDiffusion,
        "ancestral": Ancestral,
        "ancestral_large": lambda: Ancestral(large=True),
        "ddim": DDIM,
        "sde_dpm_solver_1": lambda: DPMSolverMultistep(order=1),
        "sde_dpm_solver_2m": lambda: DPMSolverMultistep(order=2),
        "sde_dpm_solver_3m": lambda: DPMSolverMultistep(order=3),
        "none": NoPredictor,
    }
)
#: Solvers of the probability flow.
DETERMINISTIC: Mapping[str, Callable[..., Solver]] = MappingProxyType(
    {
        "euler": Euler,
        "heun": Heun,
        "edm_heun": EDMHeun,
        "dpm_solver_1": lambda: DPMSolverMultistep(order=1, follows="flow"),
        "dpm_solver_2s": DPMSolverSinglestep,
        "dpm_solver_2m": lambda: DPMSolverMultistep(order=2, follows="flow"),
        "dpm_solver_3m": lambda: DPMSolverMultistep(order=3, follows="flow"),
        "unipc_1": lambda: UniPC(order=1),
        "unipc_2": lambda: UniPC(order=2),
        "unipc_3": lambda: UniPC(order=3),
    }
)
#: Steps of networks that have learned something else than the score.
FLOW_MAPS: Mapping[str, Callable[..., Solver]] = MappingProxyType(
    {"consistency": ConsistencySteps, "mean_flow": MeanFlowSteps}
)
#: All solvers that follow a score.
PREDICTORS: Mapping[str, Callable[..., Solver]] = MappingProxyType({**STOCHASTIC, **DETERMINISTIC})
#: Corrections after every step, by the names of configurations.
CORRECTORS: Mapping[str, Callable[..., Solver]] = Registry(
    "sampling.corrector", {"langevin": Langevin, "annealed_langevin": AnnealedLangevin}, check=check_corrector
)

__all__ = [
    "CORRECTORS",
    "DDIM",
    "DETERMINISTIC",
    "FLOW_MAPS",
    "PREDICTORS",
    "STOCHASTIC",
    "Ancestral",
    "AnnealedLangevin",
    "ConsistencySteps",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "EDMHeun",
    "Euler",
    "EulerMaruyama",
    "Follows",
    "GaussianReversal",
    "Heun",
    "Langevin",
    "Learned",
    "MeanFlowSteps",
    "NoPredictor",
    "PredictorCorrector",
    "ReverseDiffusion",
    "Solver",
    "SolverState",
    "UniPC",
    "follows_of",
    "langevin_monte_carlo",
    "learned_of",
    "metropolis_langevin",
    "noise_scale_of",
]
