"""The reverse process that each solver can follow. The solver declares its noise, and a wrong pair is refused.

A step without noise is correct only on the probability flow (``noise_scale=0``), and a step that always adds the full
noise only on the reverse SDE (``noise_scale=1``): on any other process the drift assumes a noise that is never added.
Every solver of the package therefore has an attribute ``follows``:

* ``"flow"``: the probability flow, such as :class:`~score_sde.solvers.Heun`.
* ``"sde"``: the reverse SDE with its full noise, such as :class:`~score_sde.solvers.Ancestral`.
* ``"any"``: the process with its own noise scale, such as :class:`~score_sde.solvers.EulerMaruyama`.
* ``"own"``: the marginals, with noise of its own; the noise scale of the process plays no part, as in
  :class:`~score_sde.solvers.DDIM` with its ``eta``.
* ``"still"``: nothing. The sample stays at its time: correctors, and :class:`~score_sde.solvers.NoPredictor`.

A solver without the attribute inherits it from the solver inside it (``predictor`` or ``solver``), if there is one.
Otherwise it is assumed to respect the noise scale, and gets the probability flow unless a noise scale is given: there a
step without noise is correct, and so is one with the noise ``process.diffusion``, which is zero.
"""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from score_sde.arguments import not_whole
from score_sde.errors import UserError, unknown
from score_sde.processes import Process
from score_sde.solvers.base import check_drift
from score_sde.typing import Number, is_known

#: What a solver follows: the flow, the reverse SDE, the process's noise scale, noise of its own, or nothing.
Follows = Literal["flow", "sde", "any", "own", "still"]
#: What a network has learned: the score, the end of the flow from a point, the average velocity between two times, or
#: long steps along a grid.
Learned = Literal["score", "end", "average", "steps"]
#: What most networks and solvers are about.
SCORE: Learned = "score"
#: What needs a network that is told two times.
AVERAGE: Learned = "average"
_ONLY = {"flow": 0.0, "sde": 1.0}
_WORDS = {
    "flow": "adds no noise; expected 0, the probability flow, or a solver with noise such as EulerMaruyama",
    "sde": "always adds the full noise of the reverse SDE; expected 1, or a solver of any noise such as EulerMaruyama",
}


def follows_of(solver: Any) -> Follows | None:
    """The attribute ``follows`` of a solver, or of the solver inside it; ``None`` if neither has it.

    Raises:
        UserError: If the attribute has an unknown value.

    >>> from score_sde.solvers import Heun, Langevin, NoPredictor, PredictorCorrector
    >>> follows_of(Heun()), follows_of(PredictorCorrector(predictor=NoPredictor(), corrector=Langevin()))
    ('flow', 'own')
    """
    stated = getattr(solver, "follows", None)
    if stated is not None and stated not in get_args(Follows):
        raise unknown("word for what a solver follows", str(stated), get_args(Follows))
    inner = getattr(solver, "predictor", getattr(solver, "solver", None))
    return stated if stated is not None or inner is None else follows_of(inner)


def learned_of(solver: Any) -> frozenset[Learned]:
    """What networks that a solver can step with have learned: what its attribute ``learned`` says, else the score."""
    return getattr(solver, "learned", frozenset({SCORE}))


def follows_drift(solver: Any) -> bool:
    """Whether a solver, or one inside it, follows a drift, which a chain does not have."""
    return any(getattr(part, "needs_drift", False) for part in _parts(solver))


def follows_chain(solver: Any) -> bool:
    """Whether a solver, or one inside it, follows the process's own chain, whose steps must not be too long."""
    return any(getattr(part, "reverses_chain", False) for part in _parts(solver))


def noise_scale_of(solver: Any, noise_scale: Number | None = None, *, name: str = "noise_scale") -> Number:
    """The noise scale of the process for a solver: the given one, or else the solver's own.

    Args:
        solver: The solver.
        noise_scale: The requested noise scale. A traced one cannot be read; a solver that accepts a single value then
            follows the process with this value.
        name: Name of the number in the message.

    Raises:
        UserError: If the solver would drop noise of the process, or add noise that it lacks, or if the noise scale is
            negative or not a number.

    >>> from score_sde.solvers import Ancestral, EulerMaruyama, Heun
    >>> [noise_scale_of(solver) for solver in (Heun(), Ancestral(), EulerMaruyama())]
    [0.0, 1.0, 1.0]
    >>> noise_scale_of(Heun(), 1.0)
    Traceback (most recent call last):
    ...
    score_sde.errors.UserError: noise_scale is 1.0, and Heun adds no noise; expected 0, the probability flow, ...
    """
    follows, known = follows_of(solver), is_known(noise_scale)
    if not (known or noise_scale is None or isinstance(noise_scale, Tracer)):
        raise UserError(f"{name} is {noise_scale!r}; expected a number, 0 for the probability flow, or None.")
    if known and not (np.isfinite(np.asarray(noise_scale)) & (np.asarray(noise_scale) >= 0.0)).all():
        raise UserError(f"{name} is {noise_scale}; expected 0, the probability flow, or more: 1 is the reverse SDE.")
    if follows in _ONLY:
        if known and (np.asarray(noise_scale) != _ONLY[follows]).any():
            raise UserError(f"{name} is {noise_scale}, and {_names(solver)} {_WORDS[follows]}.")
        return _ONLY[follows]
    if noise_scale is None:
        return 0.0 if follows is None else 1.0
    return noise_scale


def check_pair(
    solver: Any,
    process: Process,
    times: Float[Array, " points"],
    num_steps: Int[Array, ""] | int | None = None,
) -> None:
    """Refuse a process that a solver cannot follow along a grid, as far as both can be read.

    Raises:
        UserError: If the solver follows a drift and the process is a chain, if the times are not a grid, if the solver
            stays at its time but the grid does not, or if a step of the grid is too long for it.
    """
    still = follows_of(solver) == "still"
    check_times(process, times, num_steps, still=still)
    if follows_drift(solver):
        check_drift(process)
    if not is_known(times):
        return
    points = np.asarray(times)
    if still and np.ptp(points) > 0.0:
        raise UserError(
            f"{_names(solver)} leaves samples at their time, and the grid goes from {points.max():g} to "
            f"{points.min():g}; expected a predictor, or PredictorCorrector(predictor=NoPredictor(), corrector=...) "
            "for Langevin dynamics at every level."
        )
    if follows_chain(solver):
        check_discrete_steps(process, times)


def check_times(
    process: Process,
    times: Float[Array, " points"],
    num_steps: Int[Array, ""] | int | None = None,
    *,
    still: bool = False,
) -> None:
    """Refuse times along which a process cannot be followed, as far as they can be read.

    Args:
        process: The process to sample.
        times: The grid; after its last used step it may be padded with anything.
        num_steps: Number of steps to take; all by default.
        still: Whether the sample stays at its time, so that the times may repeat.

    Raises:
        UserError: If there are no steps or fewer than requested, or if the times do not decrease strictly within the
            time of the process.
    """
    longest = times.shape[0] - 1
    if longest < 1:
        raise UserError(
            f"The number of times in the grid is {longest + 1}; expected 2 or more, so that there is a step."
        )
    if num_steps is not None and list(not_whole("num_steps", num_steps, 1, longest)):
        raise UserError(f"num_steps is {num_steps}, and the grid has {longest} steps; expected 1 to {longest}.")
    if not is_known(times) or not (num_steps is None or is_known(num_steps)):
        return
    points = np.asarray(times)[: None if num_steps is None else int(num_steps) + 1]
    expected = "expected times that decrease strictly, from at most 1 to above 0."
    for index in np.flatnonzero(~((points >= 0.0) & (points <= 1.0))):
        raise UserError(f"Time {index} of the grid is {points[index]:g}; {expected}")
    for index in np.flatnonzero(np.diff(points) >= 0.0) if not still else ():
        raise UserError(
            f"Times {index} and {index + 1} of the grid are {points[index]:g} and {points[index + 1]:g}; {expected}"
        )
    if points[-1] == 0.0 and not _noisy_at_zero(process):
        raise UserError(
            f"The last time of the grid is 0, where a {type(process).__name__} process has no noise, and so no score; "
            f"{expected}"
        )


def _noisy_at_zero(process: Process) -> bool:
    """Whether data count as noisy, as for the VE SDE; true where it cannot be read."""
    with jax.ensure_compile_time_eval():
        std = process.marginal(jnp.zeros(())).std
    return not is_known(std) or bool(np.all(np.asarray(std) > 0.0))


def too_long(process: Process, times: Float[Array, " points"]) -> tuple[float, float] | None:
    """The ends of the first step of a grid that is too long for the process's own chain, if it can be read.

    Such a step has no coefficients; an example is a step of the VP SDE with ``beta(t) (t - s) > 1``.
    """
    with jax.ensure_compile_time_eval():  # under a trace too, where nothing in it is traced
        finite = jnp.isfinite(jnp.stack(process.discrete_step(times[1:], times[:-1]))).all(axis=0)
    if is_known(finite) and not np.asarray(finite).all():
        index, points = int(np.argmin(np.asarray(finite))), np.asarray(times)
        return float(points[index]), float(points[index + 1])
    return None


def check_discrete_steps(process: Process, times: Float[Array, " points"]) -> None:
    """Refuse a grid with a step that is :func:`too_long`.

    Raises:
        UserError: If there is one.
    """
    if (ends := too_long(process, times)) is not None:
        raise UserError(
            f"The step from t = {ends[0]:g} to {ends[1]:g} is too long for the chain of a "
            f"{type(process).__name__} process, which ReverseDiffusion follows; expected more steps there (of the VP "
            "SDE, none longer than 1 / beta(t)), or another solver, such as Ancestral."
        )


def _parts(solver: Any) -> Iterator[Any]:
    yield solver
    for name in ("predictor", "corrector", "solver"):
        if (inner := getattr(solver, name, None)) is not None:
            yield from _parts(inner)


def _names(solver: Any) -> str:
    """The names of the solver and its parts."""
    return " of ".join(type(part).__name__ for part in _parts(solver))
