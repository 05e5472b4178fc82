r"""The probability of a gray level under a Gaussian: the discretized decoder of denoising diffusion models.

Level ``k`` of ``K`` stands for the bin ``[k / K, (k + 1) / K)``, scaled as in
:class:`~score_sde.quantization.Quantization`. The first and the last bin are unbounded, so that the probabilities sum
to one (Ho et al. 2020, arXiv 2006.11239, eq. 13),

    P(k) = Phi((upper - mean) / std) - Phi((lower - mean) / std).
"""

import math

import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from score_sde.errors import UserError
from score_sde.quantization import Quantization
from score_sde.typing import Batch, Number, Times, event_sum
from score_sde.variational.gaussian import Gaussian

_Values = Float[Array, "*values"]


def log_bin_probability(x: Batch, shift: Batch, std: Number, quantization: Quantization) -> Batch:
    """The log-probability, in nats, of the bin of each value under ``N(x + shift, std^2)``.

    The mean is given by its distance from ``x``, which keeps its digits where it is much smaller than ``x``.

    Args:
        x: Scaled values, each strictly inside its bin, such as at the midpoint.
        shift: Mean minus ``x``, of the same shape.
        std: Standard deviation of the Gaussian.
        quantization: The gray levels and their scale.

    Raises:
        UserError: If the data have no gray levels.

    >>> binary = Quantization(num_grey_levels=2)  # the bins meet at 0
    >>> x = binary.midpoints(jnp.array([[0, 1]]))
    >>> jnp.exp(log_bin_probability(x, -x, 1.0, binary)).tolist()
    [[0.5, 0.5]]
    """
    num_grey_levels, width = quantization.num_grey_levels, quantization.width
    if num_grey_levels is None:
        raise UserError("The data are continuous, which is no partition; expected gray levels.")
    level = jnp.clip(jnp.floor((x + (width - 1.0)) * (num_grey_levels / width)), 0, num_grey_levels - 1)
    middle = ((quantization.midpoints(level) - x) - shift) / std
    half = 0.5 * width / num_grey_levels / jnp.asarray(std, x.dtype)
    inner = _log_interval(middle, half)
    open_below, open_above = log_ndtr(middle + half), log_ndtr(half - middle)
    return jnp.where(level == 0, open_below, jnp.where(level == num_grey_levels - 1, open_above, inner))


def decoder_log_probability(
    decoder: Gaussian, x: Batch, quantization: Quantization, shift: Batch | None = None
) -> Times:
    """The log-density of the data, or the log-probability of their gray levels; the shift is the mean minus ``x``."""
    shift = decoder.mean - x if shift is None else shift
    if quantization.num_grey_levels is None:
        return Gaussian(shift, decoder.log_std).log_density(jnp.zeros_like(x))

    def of_value(x: Array, shift: Array, log_std: Array) -> Array:
        return log_bin_probability(x[None], shift[None], jnp.exp(log_std), quantization)[0]

    return event_sum(jnp.vectorize(of_value)(x, shift, decoder.log_std))


def _log_interval(middle: _Values, half: Float[Array, ""]) -> _Values:
    """``log(Phi(middle + half) - Phi(middle - half))``, in the tails and for narrow intervals too."""
    middle = -jnp.abs(middle)  # in the lower tail log_ndtr keeps its digits
    narrow = half * jnp.maximum(1.0, -middle) < 0.3
    # The mean of the density over a narrow interval: half^2 / 3! and half^4 / 5! times Hermite polynomials.
    square, c = half**2, middle**2
    hermite = square * (c - 1.0) / 6.0 + square**2 * (c**2 - 6.0 * c + 3.0) / 120.0
    density = -0.5 * (c + math.log(2.0 * math.pi)) + jnp.log(2.0 * half)
    upper, lower = log_ndtr(middle + half), log_ndtr(middle - half)
    wide = upper + jnp.log(-jnp.expm1(lower - upper))
    return jnp.where(narrow, density + jnp.log1p(jnp.where(narrow, hermite, 0.0)), wide)
