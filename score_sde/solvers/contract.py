"""The contracts of solvers and of grids, checked on those of the user's own when they are made."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.outside.parts import Part
from score_sde.outside.purity import impure
from score_sde.processes import Process
from score_sde.sdes import VP
from score_sde.solvers.base import Solver, SolverState
from score_sde.solvers.pairing import check_times, noise_scale_of

_SHAPE = (2, 4)


def check_solver(part: Part, solver: Any) -> None:
    """Check a predictor: a step from t = 0.5 to 0.4 on data N(0, I).

    Raises:
        UserError: With the clause that it breaks.
    """
    _check(part, solver, 0.5, 0.4)


def check_corrector(part: Part, solver: Any) -> None:
    """Check a corrector: a step at t = 0.5 on data N(0, I).

    Raises:
        UserError: With the clause that it breaks.
    """
    _check(part, solver, 0.5, 0.5)


def _check(part: Part, solver: Any, t: float, s: float) -> None:
    if not isinstance(solver, Solver):
        raise part.refused(
            f"makes a {type(solver).__name__}", "an object with num_evals, init(x) and step(keys, process, state, t, s)"
        )
    if type(solver.num_evals) is not int or solver.num_evals < 0:
        raise part.refused(f"has num_evals = {solver.num_evals!r}", "a whole number of evaluations per step")
    process = VP().reverse(lambda x, t: -x, noise_scale=part.calling(noise_scale_of, solver))
    keys = jax.random.split(jax.random.key(0), _SHAPE[0])

    def step(keys: Any, x: Any) -> SolverState:
        return solver.step(keys, process, solver.init(x), jnp.float32(t), jnp.float32(s))

    x = jax.random.normal(jax.random.key(1), _SHAPE)
    state = part.calling(jax.jit(step), keys, x)
    for name in ("x", "x_mean"):
        value = getattr(state, name, None)
        if value is None or (jnp.shape(value), jnp.result_type(value)) != (x.shape, x.dtype):
            found = "nothing" if value is None else f"{jnp.shape(value)} of type {jnp.result_type(value)}"
            raise part.refused(f"returns {name} of {found} for x of {x.shape}, float32", "a SolverState like the given")
        if not np.isfinite(value).all():
            raise part.refused(f"returns {name} that is not finite, from t = {t:g} to {s:g} on data N(0, I)", "numbers")
    if jax.tree.structure(state) != jax.tree.structure(solver.init(x)):
        raise part.refused("returns a state of another structure than its init(x)", "the same structure")
    if part.calling(impure, step, keys, x):
        raise part.refused(
            "takes another step for the same arguments the second time", "noise from the given keys alone"
        )


def own_grid(
    part: Part, options: Mapping[str, Any], process: Process, num_steps: int, t_end: float
) -> Float[Array, " points"]:
    """The times of a grid of the user's own, ``(process, num_steps, t_end) -> times``, checked.

    Raises:
        UserError: If they are not ``num_steps + 1`` times that fall from 1, as far as the process goes.
    """
    times = part.calling(part.bound(options), process, num_steps, t_end)
    if jnp.shape(times) != (num_steps + 1,) or not jnp.issubdtype(jnp.result_type(times), jnp.floating):
        raise part.refused(
            f"returns times of shape {jnp.shape(times)} for {num_steps} steps", f"the shape ({num_steps + 1},)"
        )
    times = jnp.asarray(times, jnp.zeros(()).dtype)
    part.calling(check_times, process, times)
    if float(times[0]) != 1.0:
        raise part.refused(f"begins at {float(times[0]):g}", "1, the time of the prior")
    return times
