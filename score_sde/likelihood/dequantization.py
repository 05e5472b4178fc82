r"""Noise for gray levels and its cost in bits: uniform noise, and noise with a learned density.

Noise ``u`` of a density ``q(u | k)`` in the bins of :class:`~score_sde.quantization.Quantization` costs its
log-density (Ho et al. 2019, arXiv 1902.00275, eq. 11),

    log P(k) >= E_q[log p(x) + log |dx/du| - log q(u | k)],         log |dx/du| = -d log(K / width),

with equality for ``q`` proportional to the model's density within the bins of ``k``. In bits per dimension it is
``-(log p(x) - log q(u | k)) / (d log 2) + log2(K / width)``. Uniform noise has ``log q = 0``. Truncated normal noise
needs no training either: it is the noise that the data of a flow have where they enter, cut off at the ends of the bin.
The mean of several weights ``p / q`` under the logarithm is tighter still
(:func:`~score_sde.variational.importance_weighted`).
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from score_sde.keys import example_keys
from score_sde.likelihood.bound import OneTimeDraws, draw_one_time, one_time_bound
from score_sde.quantization import Quantization
from score_sde.sdes import SDE
from score_sde.typing import (
    Batch,
    Dequantizer,
    Loss,
    Number,
    Params,
    PRNGKey,
    SampleKeys,
    ScoreFn,
    Times,
    component,
    event_sum,
)


class Dequantization(NamedTuple):
    """The properties of a dequantization."""

    trained: bool = False  # takes noise that is trained on the model
    decodes: bool = False  # its bound of the reverse SDE has a decoder over gray levels, and draws no noise in the bins


#: The dequantizations by name.
DEQUANTIZATIONS: Mapping[str, Dequantization] = MappingProxyType(
    {
        "uniform": Dequantization(),
        "variational": Dequantization(trained=True),
        "truncated_normal": Dequantization(decodes=True),
    }
)


class Dequantized(NamedTuple):
    """Scaled data and the log-density of their noise."""

    x: Batch
    log_q: Times  # log q(u | levels) in nats per example; 0 for uniform noise


@component
class UniformDequantizer:
    """Uniform noise as a :class:`~score_sde.typing.Dequantizer`: nothing to learn, and ``log q = 0``."""

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """No parameters."""
        return {}

    def sample(
        self, params: Params, keys: SampleKeys, levels: Array, *, dropout_key: PRNGKey | None = None
    ) -> tuple[Batch, Times]:
        """Uniform noise and zeros."""
        return jax.vmap(lambda k: jax.random.uniform(k, levels.shape[1:]))(keys), jnp.zeros(levels.shape[0])


@component
class TruncatedNormalDequantizer:
    r"""The noise of ``x_t`` at the time ``t`` where data enter a flow, cut off at the ends of the bins.

    ``x = m c + s e`` with the middle ``c`` of the bin and a standard normal ``e`` within ``(-tau, tau)``,
    ``tau = m width / (2 K s)`` (Zheng et al. 2023, "Improved Techniques for Maximum Likelihood Estimation for Diffusion
    ODEs", arXiv 2305.03935, section 4.2). A network that was trained on gray levels at the middle of their bins knows
    such data. In units of the bin ``u`` has

        log q(u) = -d log(s K / width) - d/2 log(2 pi) - d log erf(tau / sqrt(2)) - |e|^2 / 2.

    There is nothing to learn.

    Attributes:
        quantization: The gray levels.
        mean_coeff: ``m`` at the time where data enter.
        std: ``s`` there.
    """

    quantization: Quantization
    mean_coeff: Number
    std: Number

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """No parameters."""
        return {}

    def sample(
        self, params: Params, keys: SampleKeys, levels: Array, *, dropout_key: PRNGKey | None = None
    ) -> tuple[Batch, Times]:
        """The places in the bins, about their middles, and the log-density of the noise."""
        assert self.quantization.num_grey_levels is not None  # the levels of continuous data are nowhere
        middle = self.quantization.midpoints(levels)
        scale = jnp.asarray(self.std * self.quantization.num_grey_levels / self.quantization.width, middle.dtype)
        cut = 0.5 * self.mean_coeff / scale
        draw = jax.vmap(lambda key: jax.random.truncated_normal(key, -cut, cut, levels.shape[1:], middle.dtype))
        noise = draw(keys)
        # x = c + width / K (u - 1/2), and x = m c + s e.
        shift = (self.mean_coeff - 1.0) * middle * (self.quantization.num_grey_levels / self.quantization.width)
        per_value = (
            jnp.log(scale) + 0.5 * math.log(2.0 * math.pi) + jnp.log(jax.scipy.special.erf(cut / math.sqrt(2.0)))
        )
        log_q = -levels[0].size * per_value - 0.5 * event_sum(noise**2)
        return 0.5 + scale * noise + shift, log_q


def dequantize_with(
    quantization: Quantization,
    dequantizer: Dequantizer,
    params: Params,
    keys: SampleKeys,
    levels: Array,
    *,
    dropout_key: PRNGKey | None = None,
) -> Dequantized:
    """Gray levels plus noise from a dequantizer, scaled, and the log-density of the noise, from one key per example.

    ``bits_per_dim(logp(x) - log_q, dim)`` bounds the bits of the images from above.

    Raises:
        UserError: As :meth:`~score_sde.quantization.Quantization.place`.

    >>> quantization, levels = Quantization(num_grey_levels=4), jnp.array([[0, 1, 2, 3]])
    >>> keys = jax.random.split(jax.random.key(0), 1)
    >>> x, log_q = dequantize_with(quantization, UniformDequantizer(), {}, keys, levels)
    >>> bool((jnp.floor(2 * (x + 1)) == levels).all()), float(log_q[0])
    (True, 0.0)
    """
    u, log_q = dequantizer.sample(params, keys, levels, dropout_key=dropout_key)
    return Dequantized(quantization.place(levels, u), log_q)


def dequantization_loss(
    quantization: Quantization,
    dequantizer: Dequantizer,
    sde: SDE,
    score_fn: ScoreFn,
    *,
    t_min: Number,
    offset: bool,
    dropout: bool = False,
) -> Loss:
    """The bound in bits per dimension of every image, as a function of the parameters of its dequantizer.

    Song et al. 2021b (arXiv 2101.09258): the cost of the images under a model, from one time per image
    (:func:`~score_sde.likelihood.bound_draw`), plus the log-density of their noise.

    Args:
        quantization: The gray levels.
        dequantizer: The dequantizer to train.
        sde: The forward process.
        score_fn: The score of its marginals, held fixed.
        t_min: Time of the decoder.
        offset: Add the decoder, for one more evaluation of the score.
        dropout: Whether the dequantizer has dropout in training.

    Returns:
        The loss; its batches are gray levels, and it draws keys and times.
    """

    def draw(key: PRNGKey, levels: Array) -> tuple[tuple[SampleKeys, OneTimeDraws], PRNGKey]:
        noise_key, bound_key, dropout_key = jax.random.split(key, 3)
        return (example_keys(noise_key, levels), draw_one_time(bound_key, sde, levels, t_min)), dropout_key

    def losses(
        params: Params, levels: Array, draws: tuple[SampleKeys, OneTimeDraws], dropout_key: PRNGKey | None
    ) -> Times:
        keys, of_bound = draws
        own_key = dropout_key if dropout else None
        x, log_q = dequantize_with(quantization, dequantizer, params, keys, levels, dropout_key=own_key)
        bound = one_time_bound(of_bound, sde, score_fn, x, t_min=t_min, offset=offset)
        return quantization.bits_per_dim(-bound - log_q, x[0].size)

    return Loss(draw, losses)
