r"""Adaptive integration of the reverse SDE (Jolicoeur-Martineau et al. 2021, arXiv 2105.14080, algorithm 1)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from score_sde.arguments import check_samples, not_inner_time, not_whole, of_examples
from score_sde.errors import refuse
from score_sde.fields import DEFAULTS
from score_sde.sdes import ReverseSDE
from score_sde.solvers.adaptive import brownian_increment
from score_sde.solvers.base import Solution, continuous, largest_rms
from score_sde.typing import Batch, Number, SampleKeys, Scalar

_FIRST_STEP, _SAFETY, _EXPONENT = 0.01, 0.9, 0.9  # the paper's h_init, theta and r


class _Loop(NamedTuple):
    x: Batch
    previous: Batch  # the last accepted Euler-Maruyama step, against which relative errors are taken
    t: Scalar
    step: Scalar  # the size of the next step
    error: Scalar
    attempts: Int[Array, ""]


def solve_sde(
    keys: SampleKeys,
    process: ReverseSDE,
    x: Batch,
    *,
    t1: Number,
    rtol: Number = 0.02,
    atol: Number = 0.0078,
    max_steps: int = DEFAULTS.sampling.max_steps,
    joint: bool = False,
) -> Solution:
    r"""Integrate the reverse SDE from ``t = 1`` to ``t1`` with as many steps as the error requires.

    Each attempt takes an Euler-Maruyama step ``x'`` of size ``h`` and a second one ``x~`` with drift and diffusion at
    its end, with the same noise; their mean ``x''`` (stochastic improved Euler) is the new sample if

        E = sqrt(mean(((x' - x'') / max(atol, rtol max(|x'|, |x'_previous|)))^2)) <= 1,

    and then ``h <- 0.9 h E^{-0.9}`` either way. Unlike in the paper, the path of the noise is fixed, and a rejected
    step is tried again on the first part of the same path. New noise, as in the paper, favors noise that moves the
    sample little: in four dimensions the variance of the samples was then off by a third at every tolerance.

    Args:
        keys: One key per sample.
        process: The process to integrate.
        x: Starting points at ``t = 1``.
        t1: End.
        rtol: Relative tolerance; the paper uses 0.01 to 0.1.
        atol: Absolute tolerance; the paper uses one gray level of 256, 0.0078 for images in [-1, 1].
        max_steps: Upper bound on attempts.
        joint: The same steps for the whole batch, as small as the sample with the largest error needs; else every
            sample has its own and does not depend on the others.

    Returns:
        The solution at ``t1``. Each attempt costs two evaluations.

    Raises:
        UserError: If there is not one key per sample, if samples or scores are not floating-point numbers of one shape,
            if the process is a chain, if ``t1`` is not a time between 0 and 1, or if there is no step to take.
    """
    check_samples(keys, x)
    refuse([*not_inner_time("t1", t1), *not_whole("max_steps", max_steps, 1)])
    process = continuous(process)

    def solve(keys: SampleKeys, x: Batch, process: ReverseSDE) -> Solution:
        def going(loop: _Loop) -> Bool[Array, ""]:
            return (loop.t > t1) & (loop.attempts < max_steps) & jnp.isfinite(loop.error)

        def attempt(loop: _Loop) -> _Loop:
            return _attempt(keys, process, loop, t1=jnp.asarray(t1, x.dtype), rtol=rtol, atol=atol)

        one, first, zero = (jnp.asarray(value, x.dtype) for value in (1.0, _FIRST_STEP, 0.0))
        end = jax.lax.while_loop(going, attempt, _Loop(x, x, one, first, zero, jnp.asarray(0)))
        batch = x.shape[:1]
        # Where the error is NaN, the sample becomes NaN too, for all to see.
        y = jnp.where(jnp.isfinite(end.error), end.x, jnp.nan)
        return Solution(y, jnp.full(batch, 2 * end.attempts), jnp.full(batch, end.t <= t1))

    if joint:
        return solve(keys, x, process)

    def single(keys: SampleKeys, x: Batch, index: Int[Array, "1"]) -> Solution:
        return solve(keys, x, dataclasses.replace(process, score_fn=of_examples(process.score_fn, index)))

    alone = jax.vmap(single)(keys[:, None], x[:, None], jnp.arange(x.shape[0])[:, None])
    return jax.tree.map(lambda leaf: leaf[:, 0], alone)


def _attempt(
    keys: SampleKeys, process: ReverseSDE, loop: _Loop, *, t1: Float[Array, ""], rtol: Number, atol: Number
) -> _Loop:
    t = loop.t
    s = jnp.maximum(t - loop.step, t1)
    noise = brownian_increment(keys, loop.x, t, s)
    euler = loop.x + (s - t) * process.drift(loop.x, t) + process.diffusion(t) * noise
    second = loop.x + (s - t) * process.drift(euler, s) + process.diffusion(s) * noise
    improved = 0.5 * (euler + second)
    scale = jnp.maximum(atol, rtol * jnp.maximum(jnp.abs(euler), jnp.abs(loop.previous)))
    error = largest_rms((improved - euler) / scale)
    accepted = error <= 1.0
    x, previous = (jnp.where(accepted, new, old) for new, old in ((improved, loop.x), (euler, loop.previous)))
    step = _SAFETY * (t - s) * jnp.maximum(error, 1e-6) ** -_EXPONENT
    return _Loop(x, previous, jnp.where(accepted, s, t), step, error, loop.attempts + 1)
