r"""Mixtures of logistic distributions as elementwise bijections of the real line.

With weights ``w``, means ``mu`` and scales ``s`` of the components, ``sigma`` the logistic function and
``z_i = (x - mu_i) / s_i``, the distribution function ``F(x) = sum_i w_i sigma(z_i)`` rises from 0 to 1, and

    y = logit F(x),      log dy/dx = log f(x) - log F(x) - log(1 - F(x))

maps the line onto itself (Ho et al. 2019, arXiv 1902.00275, section 3.2). Both tails of ``F`` are kept as logarithms,
so nothing overflows or cancels however far ``x`` lies from the components. ``F`` is a mean of the ``sigma(z_i)``, hence
``y`` lies between the smallest and the largest ``z_i``: this brackets the inverse.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MIN_LOG_SCALE = -7.0
_BISECTIONS = 64  # each halves the bracket: it is then as narrow as rounding allows, in float64 too

Values = Float[Array, "*event"]
PerComponent = Float[Array, "*event components"]


class LogisticMixture(NamedTuple):
    """One mixture for each of an array of values; components are on the last axis."""

    log_weights: PerComponent  # log w, normalized
    means: PerComponent
    log_scales: PerComponent

    @classmethod
    def of(cls, logits: PerComponent, means: PerComponent, log_scales: PerComponent) -> "LogisticMixture":
        """From the output of a network: unnormalized weights, and scales that are kept from collapsing."""
        return cls(jax.nn.log_softmax(logits, axis=-1), means, jnp.maximum(log_scales, MIN_LOG_SCALE))


def logit_cdf(mixture: LogisticMixture, x: Values) -> tuple[Values, Values]:
    """``y = logit F(x)`` and ``log dy/dx``, elementwise.

    >>> single = LogisticMixture.of(jnp.zeros(1), jnp.full(1, 2.0), jnp.zeros(1))
    >>> [float(value) for value in logit_cdf(single, jnp.asarray(5.0))]  # one component: an affine map
    [3.0, 0.0]
    """
    z = (x[..., None] - mixture.means) * jnp.exp(-mixture.log_scales)
    below, above = mixture.log_weights + jax.nn.log_sigmoid(z), mixture.log_weights + jax.nn.log_sigmoid(-z)
    log_cdf, log_tail, log_density = (
        jax.nn.logsumexp(term, axis=-1) for term in (below, above, below + jax.nn.log_sigmoid(-z) - mixture.log_scales)
    )
    return log_cdf - log_tail, log_density - log_cdf - log_tail


def inverse_logit_cdf(mixture: LogisticMixture, y: Values) -> Values:
    """The ``x`` with ``logit F(x) = y``, by bisection; it is not differentiable.

    >>> pair = LogisticMixture.of(jnp.zeros(2), jnp.array([-3.0, 3.0]), jnp.zeros(2))
    >>> abs(float(inverse_logit_cdf(pair, jnp.asarray(0.0)))) < 1e-5  # the median of a symmetric pair
    True
    """
    each = mixture.means + jnp.exp(mixture.log_scales) * y[..., None]  # the inverse for a single component

    def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        left = logit_cdf(mixture, middle)[0] < y  # of the solution
        return jnp.where(left, middle, low), jnp.where(left, high, middle)

    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (jnp.min(each, axis=-1), jnp.max(each, axis=-1)))
    return 0.5 * (low + high)
