r"""Noise for gray levels and its cost in bits: uniform noise, and noise with a learned density.

Noise ``u`` of a density ``q(u | k)`` in the bins of :class:`~score_sde.quantization.Quantization` costs its
log-density (Ho et al. 2019, arXiv 1902.00275, eq. 11),

    log P(k) >= E_q[log p(x) + log |dx/du| - log q(u | k)],         log |dx/du| = -d log(K / width),

with equality for ``q`` proportional to the model's density within the bins of ``k``. In bits per dimension it is
``-(log p(x) - log q(u | k)) / (d log 2) + log2(K / width)``. Uniform noise has ``log q = 0``. The mean of several
weights ``p / q`` under the logarithm is tighter still (:func:`~score_sde.variational.importance_weighted`).
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from score_sde.keys import example_keys
from score_sde.likelihood.bound import OneTimeDraws, draw_one_time, one_time_bound
from score_sde.quantization import Quantization
from score_sde.sdes import SDE
from score_sde.typing import Batch, Dequantizer, Loss, Number, Params, PRNGKey, SampleKeys, ScoreFn, Times, component

#: The dequantizations by name, and whether each takes noise that is trained on the model.
DEQUANTIZATIONS: Mapping[str, bool] = {"uniform": False, "variational": True}


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
