r"""Langevin Monte Carlo: samples of one density from its score, without time or noise levels.

    x <- x + e/2 score(x) + sqrt(e) z

(Grenander & Miller 1994; Song & Ermon 2019, arXiv 1907.05600, eq. 4), plain or followed by a test that makes it exact.
For a Gaussian of variance ``v`` the plain chain has the stationary variance ``v / (1 - e / (4 v))``, because its step
is ``x <- (1 - e / (2 v)) x + sqrt(e) z``; it diverges from ``e = 4 v`` on. Distant modes are not visited as often as
they should be; for them use annealed Langevin dynamics, :class:`~score_sde.solvers.AnnealedLangevin` after
:class:`~score_sde.solvers.NoPredictor`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from score_sde.arguments import check_samples, not_fulfilled, not_whole, of_shape
from score_sde.errors import refuse
from score_sde.keys import fold_in, sample_noise
from score_sde.typing import Batch, Number, SampleKeys, Times, event_sum

_NOISE, _UNIFORM = 0, 1  # purposes of the keys of a step


class Adjusted(NamedTuple):
    """The states of Metropolis-adjusted chains, and their acceptance rates."""

    x: Batch
    acceptance: Times  # the fraction of proposals that each chain accepted


class _Place(NamedTuple):
    x: Batch
    logp: Times
    score: Batch


def langevin_monte_carlo(
    keys: SampleKeys, score: Callable[[Batch], Batch], x: Batch, *, step_size: Number, num_steps: Int[Array, ""] | int
) -> Batch:
    """Unadjusted Langevin dynamics: one chain per key.

    Args:
        keys: One key per chain, so that chain ``i`` ignores its neighbors.
        score: ``grad log p`` of a batch, such as ``lambda x: process.score(x, t)``.
        x: Starting points.
        step_size: ``e``; smaller means less bias and slower mixing. Both this and ``num_steps`` may vary under one
            compiled program.
        num_steps: Number of steps, each with one evaluation.

    Returns:
        The last states.

    Raises:
        UserError: If there is not one key per chain, if states or scores are not floating-point numbers of one shape,
            or if the step size or the number of steps is invalid.

    >>> keys = jax.random.split(jax.random.key(0), 20_000)
    >>> x = langevin_monte_carlo(keys, lambda x: -x, jnp.zeros((20_000, 1)), step_size=1.0, num_steps=20)
    >>> round(float(jnp.var(x)), 1)  # 1 / (1 - 1/4)
    1.3
    """
    _check(keys, x, step_size, num_steps)

    def step(index: Array, x: Batch) -> Batch:
        noise = sample_noise(fold_in(fold_in(keys, index), _NOISE), x)
        return _proposal_mean(x, of_shape(score(x), x.shape, "score"), step_size) + jnp.sqrt(step_size) * noise

    return jax.lax.fori_loop(0, num_steps, step, x)


def metropolis_langevin(
    keys: SampleKeys,
    log_density: Callable[[Batch], Times],
    x: Batch,
    *,
    step_size: Number,
    num_steps: Int[Array, ""] | int,
) -> Adjusted:
    """The Metropolis-adjusted Langevin algorithm (Roberts & Tweedie 1996, Bernoulli 2(4)): no bias at any step size.

    A step of Langevin dynamics from ``x`` to ``y`` is accepted with probability
    ``min(1, p(y) q(x | y) / (p(x) q(y | x)))``, where ``q(y | x) = N(y; x + e/2 score(x), e I)``. A good step accepts
    about 57 % of proposals (Roberts & Rosenthal 1998).

    Args:
        keys: One key per chain.
        log_density: ``log p`` of every example, up to a constant; differentiable.
        x: Starting points.
        step_size: ``e``. Both this and ``num_steps`` may vary under one compiled program.
        num_steps: Number of proposals, each with one evaluation of ``log p`` and its gradient.

    Returns:
        The last states, and the fraction of accepted proposals of every chain.

    Raises:
        UserError: If there is not one key per chain, if the states are not floating-point numbers, if there is not one
            density per chain, or if the step size or the number of steps is invalid.
    """
    _check(keys, x, step_size, num_steps)

    def at(x: Batch) -> _Place:
        logp, pullback = jax.vjp(lambda x: of_shape(log_density(x), x.shape[:1], "log-density"), x)
        return _Place(x, logp, pullback(jnp.ones_like(logp))[0])

    def step(index: Array, carry: tuple[_Place, Times]) -> tuple[_Place, Times]:
        place, count = carry
        step_keys = fold_in(keys, index)
        noise = sample_noise(fold_in(step_keys, _NOISE), place.x)
        proposal = at(_proposal_mean(place.x, place.score, step_size) + jnp.sqrt(step_size) * noise)
        # log q(x | y) - log q(y | x), multiplied out so that nothing is divided by a small step.
        push = 0.5 * jnp.sqrt(step_size) * (place.score + proposal.score)
        log_ratio = proposal.logp - place.logp - event_sum((noise + 0.5 * push) * push)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (), place.logp.dtype))(fold_in(step_keys, _UNIFORM))
        accept = jnp.log(uniform) < log_ratio  # a NaN ratio is rejected
        moved = jax.tree.map(lambda new, old: jax.vmap(jnp.where)(accept, new, old), proposal, place)
        return moved, count + accept

    start = at(x)
    place, count = jax.lax.fori_loop(0, num_steps, step, (start, jnp.zeros_like(start.logp)))
    return Adjusted(place.x, count / jnp.maximum(num_steps, 1))


def _check(keys: SampleKeys, x: Batch, step_size: Number, num_steps: Int[Array, ""] | int) -> None:
    check_samples(keys, x)
    size = not_fulfilled("step_size", step_size, lambda e: (e >= 0.0) & np.isfinite(e), "a number of at least 0")
    refuse([*size, *not_whole("num_steps", num_steps, 0)])


def _proposal_mean(x: Batch, score: Batch, step_size: Number) -> Batch:
    return x + 0.5 * step_size * score
