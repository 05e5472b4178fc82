"""The solver, the corrector and the times that a configuration names for sampling."""

import functools
from typing import Any

from score_sde.chains import Chain
from score_sde.config import build
from score_sde.fields import Settings
from score_sde.fields.measuring import Sampling
from score_sde.outside.parts import Part
from score_sde.processes import Process
from score_sde.samplers import METHODS, AdaptiveMethod
from score_sde.sampling import GRIDS, Grid, edm_times, levels_of
from score_sde.sdes import SDE
from score_sde.solvers import CORRECTORS, PredictorCorrector, Solver
from score_sde.solvers.contract import own_grid


def make_times(config: Settings, sde: SDE, process: Process, *, grid: str, num_steps: int) -> Grid:
    """A grid of times for sampling; for a chain, the levels nearest to one."""
    times = make_grid(config, sde, grid=grid, num_steps=num_steps, t_end=config.sampling.t_min)
    return levels_of(process, times) if isinstance(process, Chain) else times


def make_grid(config: Settings, sde: SDE, *, grid: str, num_steps: int, t_end: float) -> Grid:
    """``num_steps`` steps from 1 to ``t_end``, spaced as named."""
    named = functools.partial(edm_times, rho=config.sampling.rho) if GRIDS[grid] is edm_times else GRIDS[grid]
    if isinstance(named, Part):
        return own_grid(named, config.sampling.options, sde, num_steps, t_end)
    return named(sde, num_steps, t_end)


def make_predictor(name: str, sampling: Sampling) -> Any:
    """The named predictor with its numbers from the configuration: a solver, or an adaptive method."""
    return build(METHODS[name], sampling)


def make_method(sampling: Sampling) -> Solver | AdaptiveMethod:
    """The predictor of a configuration, with its corrector."""
    predictor = make_predictor(sampling.predictor, sampling)
    if sampling.corrector not in CORRECTORS:
        return predictor
    return PredictorCorrector(
        predictor=predictor,
        corrector=build(CORRECTORS[sampling.corrector], sampling),
        num_corrections=sampling.num_corrections,
        corrector_first=sampling.corrector_first,
    )
