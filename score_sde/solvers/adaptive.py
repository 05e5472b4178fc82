"""Adaptive ODE integration: the only file that imports diffrax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from score_sde.typing import Number


class OdeSolution(NamedTuple):
    """Terminal values and diagnostics, one entry per example."""

    y: Any
    num_evals: Int[Array, " batch"]
    success: Bool[Array, " batch"]


def solve_ode(
    vector_field: Callable[[Any, Any, Any], Any],
    y0: Any,
    args: Any,
    *,
    t0: Number,
    t1: Number,
    rtol: Number = 1e-5,
    atol: Number = 1e-5,
    max_steps: int = 4096,
) -> OdeSolution:
    """Integrate ``dy/dt = vector_field(t, y, args)`` from ``t0`` to ``t1`` for each example on its own.

    Step sizes are controlled example by example (Tsitouras 5/4, PI control), so that a result does not depend on the
    rest of the batch. ``t1 < t0`` integrates backwards. Nothing is raised for an example that needs more than
    ``max_steps`` steps: its ``success`` is ``False``.

    Args:
        vector_field: Acts on one example.
        y0: A pytree whose leaves have a leading batch axis.
        args: A pytree with a leading batch axis, passed to the vector field, such as the probes of a trace estimator.
        t0: Start.
        t1: End.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        max_steps: Upper bound on accepted and rejected steps.

    Returns:
        The solution at ``t1``. Each attempted step costs six evaluations of the vector field, the start one more.
    """
    controller = diffrax.PIDController(rtol=rtol, atol=atol, pcoeff=0.3, icoeff=0.4)

    def solve_one(y: Any, arg: Any) -> OdeSolution:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(vector_field),
            diffrax.Tsit5(),
            t0=t0,
            t1=t1,
            dt0=None,
            y0=y,
            args=arg,
            stepsize_controller=controller,
            max_steps=max_steps,
            throw=False,
        )
        final = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
        # Six stages a step, the seventh being the first of the next; one more at the start chooses the first step.
        num_evals = 6 * solution.stats["num_steps"] + 1
        return OdeSolution(final, jnp.asarray(num_evals), solution.result == diffrax.RESULTS.successful)

    return jax.vmap(solve_one)(y0, args)
