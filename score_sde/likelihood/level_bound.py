r"""The variational bound of gray levels in continuous time, with a decoder over the levels.

The bound of variational diffusion models (Kingma et al. 2021, arXiv 2107.00630, eq. 11): with ``c_k`` the middle of the
bin of level ``k``, ``x_t = m c_k + s z`` and the noise prediction ``n = -s score``

    -log P(k) <= KL(q(x_1 | k) || prior) + 1/2 int_{t_min}^1 (g^2 / s^2) E|n - z|^2 dt - E log P(k | x_t),   t = t_min.

The decoder takes every pixel for itself and knows no network,

    P(k | x) = N(x; m c_k, s^2) / sum_j N(x; m c_j, s^2).

Nothing is dequantized. The integral depends on the schedule through the log-SNR at its ends alone (section 5.1 there).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.arguments import check_pairs, not_inner_time, score_at
from score_sde.errors import refuse
from score_sde.fields import DEFAULTS
from score_sde.keys import example_keys, sample_noise
from score_sde.likelihood.bound import Bound, paired_quantiles
from score_sde.quantization import Quantization
from score_sde.sdes import SDE
from score_sde.times import ImportanceTimes
from score_sde.typing import Batch, Number, PRNGKey, SampleKeys, ScoreFn, Times, event_sum, expand_like
from score_sde.variational import prior_divergence

_DECODER_DRAWS = 8


def level_bound(
    key: PRNGKey,
    sde: SDE,
    score_fn: ScoreFn,
    levels: Array | np.ndarray,
    quantization: Quantization,
    *,
    t_min: Number = DEFAULTS.likelihood.t_min,
    num_times: int = 128,
) -> Bound:
    """An unbiased estimate of the bound on ``-log P(levels)``, and its standard error.

    Times are uniform in log-SNR and stratified, with two draws in each of ``num_times / 2`` strata.

    Args:
        key: Draws times and noise; example ``i`` uses ``fold_in(key, i)``.
        sde: The forward process.
        score_fn: The score of its marginals, of gray levels at the middle of their bins.
        levels: Gray levels ``0 .. K - 1`` of shape ``(batch, *event)``.
        quantization: Their number and scale.
        t_min: Time of the decoder.
        num_times: Evaluations of the score per example, an even number.

    Returns:
        The bound in nats with its standard error and its three terms, per example; the last is the decoder's.

    Raises:
        UserError: If ``t_min`` is not a time between 0 and 1, if ``num_times`` is odd or less than 2, if the data have
            no gray levels or others, if the key is not a single key, or if the scores differ in shape from the data.

    >>> from score_sde.sdes import VDM
    >>> levels = jnp.array([[0, 1, 1]])  # fair coins: the exact score of two points of equal weight
    >>> def score(x, t):
    ...     m, s = (c[:, None] for c in VDM().marginal(t))
    ...     return (0.5 * m * jnp.tanh(0.5 * m * x / s**2) - x) / s**2
    >>> bound = level_bound(jax.random.key(0), VDM(), score, levels, Quantization(num_grey_levels=2), num_times=2000)
    >>> bits, error = (float(part[0]) / (3 * float(jnp.log(2.0))) for part in (bound.value, bound.std_error))
    >>> abs(bits - 1.0) < 4 * error < 0.5
    True
    """
    refuse(not_inner_time("t_min", t_min))
    check_pairs("num_times", num_times)
    quantization.check_levels(levels)
    x = quantization.midpoints(jnp.asarray(levels))
    time_keys, noise_keys, decoder_keys = jax.vmap(lambda k: jax.random.split(k, 3), out_axes=1)(example_keys(key, x))

    def error(row: tuple[Times, SampleKeys]) -> Times:
        t, keys = row
        noise = sample_noise(keys, x)
        mean_coeff, std = (expand_like(part, x) for part in sde.marginal(t))
        predicted = -std * score_at(score_fn, mean_coeff * x + std * noise, t)
        return event_sum((predicted - noise) ** 2)

    law = ImportanceTimes(sde=sde, t0=t_min)
    t = jax.vmap(law.at)(paired_quantiles(time_keys, num_times)).t.astype(x.dtype)
    rows = jax.vmap(lambda k: jax.random.split(k, num_times), out_axes=1)(noise_keys)
    parts = 0.5 * law.normalizer * jax.lax.map(error, (t, rows))  # in turn, to save memory
    integral = jnp.mean(parts, axis=0)
    start = jnp.asarray(t_min, x.dtype)
    draws = jax.vmap(lambda k: jax.random.split(k, _DECODER_DRAWS), out_axes=1)(decoder_keys)
    decoder = jax.lax.map(lambda keys: _decoder_nats(keys, sde, x, start, quantization), draws)
    prior = prior_divergence(sde, jnp.ones((), x.dtype), x)
    offset = jnp.mean(decoder, axis=0)
    variance = jnp.mean((parts[0::2] - parts[1::2]) ** 2, axis=0) / (2 * num_times)
    variance = variance + jnp.var(decoder, axis=0, ddof=1) / _DECODER_DRAWS
    return Bound(prior + integral + offset, jnp.sqrt(variance), prior, integral, offset)


def log_level_probability(
    xt: Batch, x: Batch, mean_coeff: Number, std: Number, quantization: Quantization
) -> Float[Array, "batch *event"]:
    """``log P(k | x_t)`` in nats for the levels whose middles are ``x``, under equal weights of all levels.

    >>> binary = Quantization(num_grey_levels=2)
    >>> x = binary.midpoints(jnp.array([[0, 1]]))
    >>> jnp.exp(log_level_probability(jnp.zeros_like(x), x, 1.0, 0.3, binary)).tolist()  # halfway between
    [[0.5, 0.5]]
    """
    middles = quantization.all_midpoints(x[0])

    def of_example(pair: tuple[Array, Array]) -> Array:
        xt, x = (part[..., None] for part in pair)
        # |x_t - m c_k|^2 - |x_t - m c_j|^2 as a product, so that few digits cancel, and two levels agree on their odds.
        apart, halfway = mean_coeff * (middles - x), mean_coeff * (0.5 * (middles + x))
        return -jax.nn.logsumexp(apart * (xt - halfway) / std**2, axis=-1)

    return jax.lax.map(of_example, (xt, x))  # in turn: every pixel is compared with every level


def _decoder_nats(keys: SampleKeys, sde: SDE, x: Batch, t: Float[Array, ""], quantization: Quantization) -> Times:
    """``-log P(k | x_t)`` of one draw of ``x_t`` per example."""
    mean_coeff, std = sde.marginal(t)
    xt = mean_coeff * x + std * sample_noise(keys, x)
    return -event_sum(log_level_probability(xt, x, mean_coeff, std, quantization))
