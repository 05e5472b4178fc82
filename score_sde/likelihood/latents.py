r"""Latent codes: the probability flow is a bijection between data and noise (Song et al. 2021, section 4.3)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.fields import DEFAULTS
from score_sde.likelihood.flow import transport
from score_sde.sdes import SDE
from score_sde.solvers.base import Solution
from score_sde.typing import Batch, Number, ScoreFn


def encode(
    sde: SDE,
    score_fn: ScoreFn,
    x: Batch,
    *,
    t_end: Number = DEFAULTS.likelihood.t_min,
    tolerance: Number = DEFAULTS.likelihood.tolerance,
) -> Solution:
    """The latent codes of data, which look like draws from the prior.

    Args:
        sde: The forward process.
        score_fn: The score of its marginals.
        x: Data of shape ``(batch, *event)``.
        t_end: Time at which the data enter the flow.
        tolerance: Relative and absolute tolerance of the adaptive solver.

    >>> import jax
    >>> from score_sde.sdes import VP
    >>> sde = VP()
    >>> score = lambda x, t: -x  # of data N(0, I), which the VP flow leaves where they are
    >>> x = jnp.ones((1, 3))
    >>> bool(jnp.allclose(encode(sde, score, x).y, x, atol=1e-3))
    True
    """
    return transport(sde, score_fn, x, t0=t_end, t1=1.0, rtol=tolerance, atol=tolerance)


def decode(
    sde: SDE,
    score_fn: ScoreFn,
    latents: Batch,
    *,
    t_end: Number = DEFAULTS.likelihood.t_min,
    tolerance: Number = DEFAULTS.likelihood.tolerance,
) -> Solution:
    """The data of latent codes, the inverse of :func:`encode`, with the same arguments."""
    return transport(sde, score_fn, latents, t0=1.0, t1=t_end, rtol=tolerance, atol=tolerance)


def interpolate(start: Batch, end: Batch, num: int) -> Float[Array, "num batch *event"]:
    """``num`` latent codes on the great circle from ``start`` to ``end``, both included, per example.

    A straight line would pass where the prior has no mass: the mean of two draws is too short by ``sqrt(2)``.

    >>> path = interpolate(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]]), 3)
    >>> [round(float(jnp.linalg.norm(code)), 4) for code in path]
    [1.0, 1.0, 1.0]
    """
    axes = tuple(range(1, start.ndim))
    norms = [jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True)) for x in (start, end)]
    cosine = jnp.sum(start * end, axis=axes, keepdims=True) / (norms[0] * norms[1])
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    fractions = jnp.linspace(0.0, 1.0, num, dtype=start.dtype).reshape((num,) + (1,) * start.ndim)
    # For (anti)parallel codes the circle is a line.
    flat = jnp.abs(jnp.sin(angle)) < 1e-6
    sine = jnp.where(flat, 1.0, jnp.sin(angle))
    weights = [
        jnp.where(flat[None], line, jnp.sin(line * angle[None]) / sine[None]) for line in (1.0 - fractions, fractions)
    ]
    return weights[0] * start[None] + weights[1] * end[None]
