r"""The variational bound of a chain whose variances are learned, term by term, and its loss.

With the noise ``n`` and the fraction ``w`` of a network (:mod:`score_sde.variational.learned_variances`), the drop
``D = 2 log(s(t) / s(s))`` and ``a`` of the transition, per dimension

    KL = (exp(-w D) - 1 + w D) / 2 + exp(-w D) G^2 / (2 a^2 s(s)^2) (n - z)^2.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from score_sde.chains import Chain
from score_sde.keys import example_keys, fold_in, sample_noise
from score_sde.parameterization import Parameterization
from score_sde.quantization import CONTINUOUS, Quantization
from score_sde.times import LowDiscrepancyTimes
from score_sde.typing import Batch, Loss, Network, Number, Params, PRNGKey, Times, TimeSampler, event_sum, expand_like
from score_sde.variational.ancestral_bound import ChainBound, prior_divergence
from score_sde.variational.bins import decoder_log_probability
from score_sde.variational.gaussian import Gaussian
from score_sde.variational.learned_variances import (
    PredictFn,
    check_levels,
    decoder_log_std,
    level_times,
    make_predict_fn,
)

_EVEN = LowDiscrepancyTimes(t0=0.0)


def learned_variance_bound(
    key: PRNGKey, chain: Chain, predict: PredictFn, x: Batch, *, quantization: Quantization = CONTINUOUS
) -> ChainBound:
    """The variational bound of a chain whose variances are learned, term by term, from one draw at every level.

    With a fraction of 0 everywhere it is :func:`~score_sde.variational.chain_bound` with small variances and the
    posterior's decoder; with 1, the one with large variances and the marginal's decoder. It is differentiable in the
    parameters of the prediction.

    Args:
        key: Draws the noise; example ``i`` uses ``fold_in(key, i)``.
        chain: The chain.
        predict: Noise and fraction of every step; at the first level the fraction is the decoder's.
        x: Data; for gray levels any point inside each bin.
        quantization: The gray levels; by default the data are continuous.

    Returns:
        The bound on ``-log P(x)`` in nats and its terms, per example, from the prior to the data. The standard error
        is nan, because there is one draw.

    Raises:
        UserError: If the chain has fewer than two levels.

    >>> from score_sde.chains import DDPM, linear_betas
    >>> from score_sde.variational import NoiseAndFraction, chain_bound
    >>> chain, x = DDPM(betas=linear_betas(50, 1e-3, 0.3)), jnp.ones((1, 3))
    >>> predict = lambda x, t: NoiseAndFraction(chain.marginal(t).std[:, None] * x, jnp.ones_like(x))
    >>> ours = learned_variance_bound(jax.random.key(0), chain, predict, x)
    >>> large = chain_bound(jax.random.key(0), chain, lambda x, t: -x, x, variance="fixed_large", draws=1)
    >>> bool(jnp.allclose(ours.divergences, large.divergences, rtol=1e-3))
    True
    """
    check_levels(chain)
    keys, last = example_keys(key, x), chain.num_levels - 1

    def level(index: Int[Array, ""]) -> tuple[Times, Times]:
        levels = jnp.full(x.shape[:1], index)
        return _level_terms(chain, predict, x, levels, sample_noise(fold_in(keys, index), x), quantization)

    terms, errors = jax.lax.map(level, jnp.arange(last + 1))  # in turn, to save memory
    prior = prior_divergence(chain, level_times(chain, x)[last], x)
    mean_coeff, std = chain.marginal(level_times(chain, x)[::-1])
    return ChainBound(
        value=prior + jnp.sum(terms, axis=0),
        std_error=jnp.full_like(prior, jnp.nan),
        prior=prior,
        divergences=terms[:last].T,
        decoder=terms[last],
        squared_error=((std / mean_coeff) ** 2)[None] * errors.T / x[0].size,
    )


def vlb_loss(
    chain: Chain,
    network: Network,
    parameterization: Parameterization,
    *,
    quantization: Quantization = CONTINUOUS,
    levels: TimeSampler = _EVEN,
    hybrid: Number | None = None,
) -> Loss:
    r"""The variational bound with learned variances in nats per dimension, from one level drawn for each example.

    A level is drawn uniformly and its term weighted by ``T``, so that the mean equals the sum over all ``T``: the
    ``L_vlb`` of Ho et al. 2020 (arXiv 2006.11239, eq. 5) and Nichol & Dhariwal 2021, with ``L_T``.

    Args:
        chain: The chain.
        network: A network with two outputs for every value, as from :func:`~score_sde.variational.with_variances`.
        parameterization: The meaning of the first half of its output.
        quantization: The gray levels, over whose bins the decoder integrates. The batch may lie anywhere in the bins;
            the bound measured afterwards has it in their middle.
        levels: Draws the level of every example, as uniform numbers in ``[0, 1)``; by default spread over the batch.
        hybrid: With a number ``h`` the loss is ``mean (n - z)^2 + h L_vlb``, whose second term trains the variances
            only (Nichol & Dhariwal 2021, eq. 16, ``h = 0.001``).

    Returns:
        The loss; it draws a level and its noise per example.

    Raises:
        UserError: If the chain has fewer than two levels.
    """
    check_levels(chain)

    def draw(key: PRNGKey, batch: Batch) -> tuple[tuple[Array, Batch], PRNGKey]:
        level_key, noise_key, dropout_key = jax.random.split(key, 3)
        quantile, _ = levels.sample(level_key, batch.shape[0])
        level = jnp.clip(jnp.floor(quantile * chain.num_levels), 0, chain.num_levels - 1).astype(jnp.int32)
        return (level, jax.random.normal(noise_key, batch.shape, batch.dtype)), dropout_key

    def losses(params: Params, batch: Batch, draws: tuple[Array, Batch], dropout_key: PRNGKey | None) -> Times:
        level, noise = draws
        predict = make_predict_fn(network, parameterization, chain, params, key=dropout_key)
        dim = batch[0].size
        term, error = _level_terms(chain, predict, batch, level, noise, quantization, mean_learns=hybrid is None)
        bound = (chain.num_levels * term + prior_divergence(chain, level_times(chain, batch)[-1], batch)) / dim
        return bound if hybrid is None else error / dim + hybrid * bound

    return Loss(draw, losses)


def _level_terms(
    chain: Chain,
    predict: PredictFn,
    x: Batch,
    level: Int[Array, " batch"],
    noise: Batch,
    quantization: Quantization,
    *,
    mean_learns: bool = True,
) -> tuple[Times, Times]:
    """The term of one level per example, counted from the prior down, and ``|n - z|^2``; the last is the decoder's."""
    times, last = level_times(chain, x)[::-1], chain.num_levels - 1
    t, s = times[level], times[jnp.minimum(level + 1, last)]
    mean_coeff, std = chain.marginal(t)
    predicted, fraction = predict(expand_like(mean_coeff, x) * x + expand_like(std, x) * noise, t)
    residual = predicted - noise
    error = event_sum(residual**2)
    if not mean_learns:
        residual = jax.lax.stop_gradient(residual)
    transition, below = chain.transition(s, t), chain.marginal(s).std
    drop = 2.0 * jnp.log1p((std - below) / below)
    excess = fraction * expand_like(drop, x)
    factor = expand_like((transition.std / (transition.mean_coeff * below)) ** 2, x)
    divergence = 0.5 * event_sum(jnp.expm1(-excess) + excess + factor * jnp.exp(-excess) * residual**2)
    # Terms that are not selected stay finite, because the gradient passes through them.
    decodes = expand_like((level == last).astype(x.dtype), x) > 0.0
    shift = jnp.where(decodes, -expand_like(std / mean_coeff, x) * residual, 0.0)
    decoder = Gaussian(x + shift, decoder_log_std(chain, jnp.where(decodes, fraction, 0.0)))
    nats = -decoder_log_probability(decoder, x, quantization, shift)
    return jnp.where(level == last, nats, divergence), error
