"""Adaptive ODE integration, and Brownian paths: the only file that imports diffrax."""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array

from score_sde.arguments import not_fulfilled, not_whole
from score_sde.errors import refuse
from score_sde.fields import DEFAULTS
from score_sde.solvers.base import Solution, largest_rms
from score_sde.typing import Batch, Number, PRNGKey, SampleKeys, Scalar, time_dtype


def solve_ode(
    vector_field: Callable[[Any, Any, Any], Any],
    y0: Any,
    args: Any,
    *,
    t0: Number,
    t1: Number,
    rtol: Number = 1e-5,
    atol: Number = 1e-5,
    max_steps: int = DEFAULTS.sampling.max_steps,
    joint: bool = False,
) -> Solution:
    """Integrate ``dy/dt = vector_field(t, y, args)`` from ``t0`` to ``t1`` for each example.

    Step sizes are controlled per example (Tsitouras 5/4, PI control), so that a result does not depend on the rest of
    the batch, or jointly: all examples then take the same steps, as small as the largest error requires. ``t1 < t0``
    integrates backwards. An example that needs more than ``max_steps`` steps raises nothing; its ``success`` is
    ``False``.

    Args:
        vector_field: Acts on one example.
        y0: A pytree whose leaves have a leading batch axis.
        args: A pytree with a leading batch axis, passed to the vector field, such as the probes of a trace estimator.
        t0: Start.
        t1: End.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        max_steps: Upper bound on accepted and rejected steps.
        joint: The same steps for the whole batch, across all devices and hosts.

    Returns:
        The solution at ``t1``. Each attempted step costs six evaluations of the vector field, the start one more.

    Raises:
        UserError: If there are no steps, or if a tolerance is negative.
    """
    refuse(
        [
            *not_whole("max_steps", max_steps, 1),
            *not_fulfilled("rtol", rtol, lambda tolerance: tolerance >= 0.0, "0 or more"),
            *not_fulfilled("atol", atol, lambda tolerance: tolerance >= 0.0, "0 or more"),
        ]
    )
    dtype = time_dtype(jax.tree.leaves(y0)[0])
    t0, t1 = jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)

    def solve(field: Callable[[Any, Any, Any], Any], y: Any, arg: Any, **norm: Any) -> Solution:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            t0=t0,
            t1=t1,
            dt0=None,
            y0=y,
            args=arg,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, pcoeff=0.3, icoeff=0.4, **norm),
            max_steps=max_steps,
            throw=False,
        )
        final = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
        # Six stages a step, the seventh being the first of the next; one more at the start chooses the first step.
        num_evals = 6 * solution.stats["num_steps"] + 1
        return Solution(final, jnp.asarray(num_evals), solution.result == diffrax.RESULTS.successful)

    if not joint:
        return jax.vmap(lambda y, arg: solve(vector_field, y, arg))(y0, args)
    whole = solve(jax.vmap(vector_field, in_axes=(None, 0, 0)), y0, args, norm=largest_rms)
    batch = jax.tree.leaves(y0)[0].shape[:1]
    return Solution(whole.y, jnp.full(batch, whole.num_evals), jnp.full(batch, whole.success))


def brownian_increment(keys: SampleKeys, x: Batch, t: Scalar, s: Scalar) -> Batch:
    """``W_s - W_t`` for ``0 <= s <= t <= 1`` of one Brownian path per key, run from 1 to 0 and of the shape of ``x``.

    A path is a function of its key: queries at any times, in any order, return values of the same path (a virtual
    Brownian tree; Li et al. 2020, arXiv 2001.01328).
    """

    def one(key: PRNGKey, example: Array) -> Array:
        shape = jax.ShapeDtypeStruct(example.shape, example.dtype)
        return jnp.asarray(diffrax.VirtualBrownianTree(0.0, 1.0, 1e-6, shape, key).evaluate(1.0 - t, 1.0 - s))

    return jax.vmap(one)(keys, x)
