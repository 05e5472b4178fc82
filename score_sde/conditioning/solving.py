r"""Linear systems of every example, solved without their matrices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from score_sde.conditioning.operators import LinearOperator, Observations
from score_sde.typing import Batch, Times, event_sum, expand_like

#: Squared relative residual at which an example counts as solved, which float32 can just reach.
_SOLVED = 1e-12
_LOST = 1e-6  # relative rounding of a sum
#: Most iterations for a system that costs no evaluation of the model.
_MOST_ITERATIONS = 100


class _Iterate(NamedTuple):
    solution: Array
    image: Array
    residual: Array
    direction: Array
    square: Times  # of the residual; 0 once an example is done


def conjugate_gradients(
    apply: Callable[[Array], tuple[Array, Array]], b: Observations, no_image: Batch, iterations: int
) -> tuple[Observations, Batch]:
    r"""Solve ``M u = b`` for every example by conjugate gradients (Hestenes & Stiefel 1952).

    Each iteration applies ``M`` once; in exact arithmetic as many are needed as ``M`` has distinct eigenvalues. An
    example ends early when it is solved, or when ``M`` is not positive along its direction.

    Args:
        apply: From ``p`` to ``M p`` and to an image of ``p`` that is linear in it.
        b: The right-hand sides.
        no_image: Zeros of the shape of an image.
        iterations: Number of iterations.

    Returns:
        ``u`` and its image, which costs nothing more.

    >>> u, image = conjugate_gradients(lambda p: (2.0 * p, -p), jnp.ones((1, 3)), jnp.zeros((1, 3)), 1)
    >>> u.tolist(), image.tolist()
    ([[0.5, 0.5, 0.5]], [[-0.5, -0.5, -0.5]])
    """
    start = event_sum(b**2)

    def iterate(_: Array, now: _Iterate) -> _Iterate:
        applied, image = apply(now.direction)
        curvature = event_sum(now.direction * applied)
        going = (now.square > _SOLVED * start) & (curvature > 0.0)
        step = jnp.where(going, now.square, 0.0) / jnp.where(going, curvature, 1.0)
        residual = now.residual - expand_like(step, b) * applied
        square = jnp.where(going, event_sum(residual**2), 0.0)
        turn = square / jnp.where(going, now.square, 1.0)
        return _Iterate(
            now.solution + expand_like(step, b) * now.direction,
            now.image + expand_like(step, no_image) * image,
            residual,
            residual + expand_like(turn, b) * now.direction,
            square,
        )

    end = jax.lax.fori_loop(0, iterations, iterate, _Iterate(jnp.zeros_like(b), no_image, b, b, start))
    return end.solution, end.image


class _Residuals(NamedTuple):
    solution: Array
    image: Array
    residual: Array
    direction: Array
    applied: Array  # to the direction
    applied_image: Array
    size: Times  # of what is applied, squared; 0 before the first iteration


def least_residuals(
    apply: Callable[[Array], tuple[Array, Array]],
    b: Observations,
    no_image: Batch,
    iterations: int,
    *,
    floor: Any = 0.0,
) -> tuple[Observations, Batch]:
    r"""Solve ``M u = b`` for every example, as :func:`conjugate_gradients`, where ``M`` may be no covariance.

    Every iteration applies ``M`` once and moves to the least residual along its direction (the method of conjugate
    residuals; Eisenstat et al. 1983, SIAM J. Numer. Anal. 20, with one direction kept). No residual grows, even if
    ``M`` is neither symmetric nor positive. An example ends early when it is solved, or when ``M`` along its residual
    does not exceed a floor.

    Args:
        apply: From ``p`` to ``M p`` and to an image of ``p`` that is linear in it.
        b: The right-hand sides.
        no_image: Zeros of the shape of an image.
        iterations: Number of iterations.
        floor: A diagonal that ``M`` exceeds, such as the noise that is added to a covariance.

    >>> rotation = lambda p: (jnp.stack([p[:, 0] - p[:, 1], p[:, 0] + p[:, 1]], axis=1), p)
    >>> u, image = least_residuals(rotation, jnp.array([[2.0, 0.0]]), jnp.zeros((1, 2)), 2)
    >>> u.round(4).tolist()
    [[1.0, -1.0]]
    """
    unit = _largest(b)  # squares of squares of small numbers would be 0
    b = b / expand_like(unit, b)
    start = event_sum(b**2)

    def iterate(_: Any, now: _Residuals) -> _Residuals:
        applied, image = apply(now.residual)
        square = event_sum(now.residual**2)
        # A covariance that is lost beside the floor, to rounding, is one still.
        above = event_sum(now.residual * applied) > (1.0 - _LOST) * event_sum(floor * now.residual**2)
        known = jnp.where(now.size > 0.0, now.size, 1.0)  # before the first iteration there is no direction to leave
        turn = -event_sum(applied * now.applied) / known
        direction = now.residual + expand_like(turn, b) * now.direction
        applied = applied + expand_like(turn, b) * now.applied
        image = image + expand_like(turn, no_image) * now.applied_image
        size = event_sum(applied**2)
        going = above & (square > _SOLVED * start) & (size > 0.0)
        # Zeros once an example is done: ratios of what rounding leaves are infinite in values and in derivatives.
        direction, applied, image = (_only(going, part) for part in (direction, applied, image))
        step = jnp.where(going, event_sum(now.residual * applied), 0.0) / jnp.where(going, size, 1.0)
        return _Residuals(
            now.solution + expand_like(step, b) * direction,
            now.image + expand_like(step, no_image) * image,
            now.residual - expand_like(step, b) * applied,
            direction,
            applied,
            image,
            jnp.where(going, size, 0.0),
        )

    none = jnp.zeros_like(b)
    first = _Residuals(none, no_image, b, none, none, no_image, jnp.zeros_like(start))
    end = jax.lax.fori_loop(0, iterations, iterate, first)
    return expand_like(unit, b) * end.solution, expand_like(unit, no_image) * end.image


def _largest(b: Observations) -> Times:
    """The largest magnitude of every example, as a constant; 1 for zeros."""
    largest = jax.lax.stop_gradient(jnp.abs(b)).reshape(b.shape[0], -1).max(axis=1)
    return jnp.where(largest > 0.0, largest, 1.0)


def _only(going: Bool[Array, " batch"], x: Array) -> Array:
    """Zeros in place of examples that are done."""
    return jnp.where(going.reshape(going.shape + (1,) * (x.ndim - 1)), x, 0.0)


def solve_noisy(
    operator: LinearOperator, b: Observations, shape: tuple[int, ...], weight: Times, variance: Any
) -> Observations:
    """``(weight A A^T + variance)^{-1} b``, within the range of ``A``.

    Args:
        operator: ``A``.
        b: The right-hand sides, a batch of observations.
        shape: Shape of a batch of examples.
        weight: One weight for each example.
        variance: A scalar for all, or an array that multiplies a batch of observations.
    """
    if operator.svd is not None and jnp.ndim(variance) == 0:
        svd = operator.svd
        own = weight.reshape(weight.shape + (1,) * svd.values.ndim)
        return svd.u(svd.scaled(svd.ut(b), lambda values: 1.0 / (own * values**2 + variance)))
    scale, noise = equilibrated(variance, expand_like(weight, b))

    def apply(p: Observations) -> tuple[Observations, Observations]:
        inner = expand_like(weight, b) * operator(operator.adjoint(scale * p, shape))
        return scale * inner + noise * p, p

    return scale * conjugate_gradients(apply, scale * b, jnp.zeros_like(b), min(b[0].size, _MOST_ITERATIONS))[0]


def pseudo_inverse(operator: LinearOperator, y: Observations, shape: tuple[int, ...]) -> Batch:
    """``A^+ y``, the smallest of the examples whose observations are nearest to ``y``.

    >>> from score_sde.conditioning import operators
    >>> average = operators.block_average((2, 2, 1), 2)
    >>> pseudo_inverse(average, jnp.full((1, 1, 1, 1), 3.0), (1, 2, 2, 1)).round(4).ravel().tolist()
    [3.0, 3.0, 3.0, 3.0]
    """
    return operator.adjoint(solve_noisy(operator, y, shape, jnp.ones(shape[:1], y.dtype), 0.0), shape)


def equilibrated(variance: Any, spread: Array) -> tuple[Array, Array]:
    """``D`` and ``D variance D`` with ``D = (variance + spread)^{-1/2}``, for variances from 0 to infinity.

    A system ``V + variance`` with ``V`` of the size of ``spread`` becomes ``D V D`` plus the second, of the size of 1.
    """
    return 1.0 / jnp.sqrt(variance + spread), 1.0 / (1.0 + spread / variance)
