r"""Chains as models with many latent variables: any Gaussian reversal, learned variances, and training on the bound.

The latent variables are the levels ``x_T ... x_1`` of a chain, of the shape of the data, and the encoder is the
forward process, which has nothing to learn. For a reversal ``p(x_s | x_t)`` and a decoder ``p(x_0 | x_1)``
(Sohl-Dickstein et al. 2015, arXiv 1503.03585, eq. 12)

    log P(x_0) >= E_q[log p(x_T) + sum log p(x_s | x_t) + log P(x_0 | x_1) - log q(x_1, ..., x_T | x_0)].

:func:`hierarchical_elbo` is this sum along one path. Its mean is minus the bound of
:func:`~score_sde.likelihood.chain_bound`, where the noise of a path is integrated out step by step (eq. 14).

A step may learn its variance as well, between that of the posterior and that of the transition (Nichol & Dhariwal 2021,
arXiv 2102.09672, eq. 15), value by value,

    log v = (1 - w) log(G^2 s(s)^2 / s(t)^2) + w log G^2,

and the decoder its own between the two of :data:`~score_sde.likelihood.ancestral_bound.DecoderVariance`. With the noise
``n`` that a network predicts, the drop ``D = 2 log(s(t) / s(s))`` and ``a`` of the transition, per dimension

    KL = (exp(-w D) - 1 + w D) / 2 + exp(-w D) G^2 / (2 a^2 s(s)^2) (n - z)^2.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.arguments import example_keys
from score_sde.chains import Chain
from score_sde.errors import UserError
from score_sde.likelihood.ancestral_bound import ChainBound, prior_divergence
from score_sde.likelihood.bins import log_bin_probability
from score_sde.likelihood.dequantization import Quantization, importance_weighted
from score_sde.objectives import LowDiscrepancyTimes, part_of
from score_sde.objectives.variational import Gaussian, PredictFn, make_predict_fn
from score_sde.parameterization import Parameterization
from score_sde.typing import (
    Batch,
    LossFn,
    Network,
    Number,
    Params,
    PRNGKey,
    SampleKeys,
    Times,
    TimeSampler,
    expand_like,
    time_dtype,
)

_Path = Float[Array, "levels batch *event"]
_CONTINUOUS = Quantization(num_levels=None)
_EVEN = LowDiscrepancyTimes(t0=0.0)


@runtime_checkable
class Reversal(Protocol):
    """The decoder of a chain: a Gaussian for every step down, and one for the data."""

    def step(self, x: Batch, t: Times, s: Times) -> Gaussian:
        """``p(x_s | x_t)`` at ``x_t = x``, from one level to the next below."""
        ...

    def decode(self, x: Batch) -> Gaussian:
        """``p(x_0 | x_1)`` at ``x_1 = x``, the last level."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedReversal:
    """The reversal of a chain by predicted noise, with variances of its own (Nichol & Dhariwal 2021, eq. 15).

    Attributes:
        chain: The chain.
        predict: Noise and fraction at ``(x_t, t)``, such as of
            :func:`~score_sde.objectives.variational.make_predict_fn`.
    """

    chain: Chain
    predict: PredictFn

    def step(self, x: Batch, t: Times, s: Times) -> Gaussian:
        """The posterior's mean at the predicted noise, and the learned variance."""
        mean_coeff, step_std, std = self.chain.posterior(s, t)
        noise, fraction = self.predict(x, t)
        drift = expand_like(step_std**2 / self.chain.marginal(t).std, x) * noise
        log_std = expand_like(jnp.log(std), x) + fraction * expand_like(jnp.log(step_std / std), x)
        return Gaussian((x - drift) / expand_like(mean_coeff, x), log_std)

    def decode(self, x: Batch) -> Gaussian:
        """``E[x_0 | x_1]``, and the learned variance."""
        times = _times(self.chain, x)
        t = jnp.full(x.shape[:1], times[0])
        mean_coeff, std = (expand_like(c, x) for c in self.chain.marginal(t))
        noise, fraction = self.predict(x, t)
        return Gaussian((x - std * noise) / mean_coeff, _decoder_log_std(self.chain, fraction))


def hierarchical_elbo(
    key: PRNGKey,
    chain: Chain,
    reversal: Reversal,
    x: Batch,
    *,
    quantization: Quantization = _CONTINUOUS,
    num_samples: int = 1,
) -> Times:
    """One draw of the evidence lower bound of a chain with any Gaussian reversal, from whole paths.

    It asks nothing of the reversal but densities. For a :class:`LearnedReversal` its mean is minus that of
    :func:`learned_variance_bound`; where reversal and prior are exact it does not vary at all.

    Args:
        key: Draws the paths; example ``i`` uses ``fold_in(key, i)``.
        chain: The encoder.
        reversal: The decoder.
        x: Data; of grey levels any point inside each bin.
        quantization: The grey levels, to which the decoder gives the probability of the bin; else its density.
        num_samples: Average the weights of so many paths under the logarithm, which tightens the bound.

    Returns:
        The bound on ``log P(x)`` in nats per example.

    Raises:
        UserError: If the chain has fewer than two levels, or there are no samples.

    >>> from score_sde.chains import DDPM, linear_betas
    >>> chain = DDPM(betas=linear_betas(100, 1e-3, 0.2))
    >>> from score_sde.objectives.variational import NoiseAndFraction
    >>> def predict(x, t):  # exact for data N(0, I), whose reversal has the variances of the transitions
    ...     return NoiseAndFraction(chain.marginal(t).std[:, None] * x, jnp.ones_like(x))
    >>> reversal = LearnedReversal(chain=chain, predict=predict)
    >>> bound = hierarchical_elbo(jax.random.key(0), chain, reversal, jnp.zeros((1, 2)))
    >>> abs(float(bound[0]) + 1.8379) < 0.01  # log N(0; 0, I): every path tells it
    True
    """
    _check(chain, num_samples)
    keys = example_keys(key, x)

    def log_weight(draw: Int[Array, ""]) -> Times:
        own = jax.vmap(lambda k: jax.random.fold_in(k, draw))(keys)
        noise = jax.vmap(lambda level: _noise(own, level, x))(jnp.arange(chain.num_levels))
        return path_log_weight(chain, reversal, x, forward_path(chain, x, noise), quantization=quantization)

    return importance_weighted(jax.lax.map(log_weight, jnp.arange(num_samples)))


def forward_path(chain: Chain, x: Batch, noise: _Path) -> _Path:
    """The levels ``x_1 ... x_T`` of data that are diffused with the given noise, from the data up."""
    times = _times(chain, x)
    first = chain.marginal(times[0])

    def step(below: Batch, row: tuple[Array, Array, Array]) -> tuple[Batch, Batch]:
        s, t, noise = row
        mean_coeff, std = chain.transition(s, t)
        above = mean_coeff * below + std * noise
        return above, above

    start = first.mean_coeff * x + first.std * noise[0]
    _, rest = jax.lax.scan(step, start, (times[:-1], times[1:], noise[1:]))
    return jnp.concatenate([start[None], rest])


def path_log_weight(
    chain: Chain, reversal: Reversal, x: Batch, path: _Path, *, quantization: Quantization = _CONTINUOUS
) -> Times:
    """``log p(x_0, ..., x_T) - log q(x_1, ..., x_T | x_0)`` of a path, in nats per example.

    Args:
        chain: The forward process ``q``.
        reversal: The model ``p``.
        x: The data ``x_0``.
        path: The levels, as of :func:`forward_path`.
        quantization: As of :func:`hierarchical_elbo`.
    """

    def gained(row: tuple[Array, Array, Batch, Batch]) -> Times:
        s, t, below, above = row
        forward, std = chain.transition(s, t)
        backward = reversal.step(above, jnp.full(x.shape[:1], t), jnp.full(x.shape[:1], s))
        return backward.log_density(below) - _isotropic(forward * below, std).log_density(above)

    times = _times(chain, x)
    steps = jax.lax.map(gained, (times[:-1], times[1:], path[:-1], path[1:]))
    first = chain.marginal(times[0])
    decoded = _decoder_log_probability(reversal.decode(path[0]), x, quantization)
    encoded = _isotropic(first.mean_coeff * x, first.std).log_density(path[0])
    return chain.prior_logp(path[-1]) + jnp.sum(steps, axis=0) + decoded - encoded


def learned_variance_bound(
    key: PRNGKey, chain: Chain, predict: PredictFn, x: Batch, *, quantization: Quantization = _CONTINUOUS
) -> ChainBound:
    """The variational bound of a chain whose variances are learned, term by term, from one draw at every level.

    With the fraction 0 or 1 everywhere it is :func:`~score_sde.likelihood.chain_bound` with small variances and the
    posterior's decoder or large ones and the marginal's. Differentiable in what the prediction depends on.

    Args:
        key: Draws the noise; example ``i`` uses ``fold_in(key, i)``.
        chain: The chain.
        predict: Noise and fraction of every step; at the first level the fraction is the decoder's.
        x: Data; of grey levels any point inside each bin.
        quantization: The grey levels; by default the data are continuous.

    Returns:
        The bound on ``-log P(x)`` in nats and its terms, per example, from the prior to the data. The standard error
        is nan, for there is one draw.

    Raises:
        UserError: If the chain has fewer than two levels.

    >>> from score_sde.chains import DDPM, linear_betas
    >>> from score_sde.likelihood import chain_bound
    >>> from score_sde.objectives.variational import NoiseAndFraction
    >>> chain, x = DDPM(betas=linear_betas(50, 1e-3, 0.3)), jnp.ones((1, 3))
    >>> predict = lambda x, t: NoiseAndFraction(chain.marginal(t).std[:, None] * x, jnp.ones_like(x))
    >>> ours = learned_variance_bound(jax.random.key(0), chain, predict, x)
    >>> large = chain_bound(jax.random.key(0), chain, lambda x, t: -x, x, variance="fixed_large", draws=1)
    >>> bool(jnp.allclose(ours.divergences, large.divergences, rtol=1e-3))
    True
    """
    _check(chain)
    keys, last = example_keys(key, x), chain.num_levels - 1

    def level(index: Int[Array, ""]) -> tuple[Times, Times]:
        levels = jnp.full(x.shape[:1], index)
        return _level_terms(chain, predict, x, levels, _noise(keys, index, x), quantization)

    terms, errors = jax.lax.map(level, jnp.arange(last + 1))  # in turn, to save memory
    prior = prior_divergence(chain, _times(chain, x)[last], x)
    mean_coeff, std = chain.marginal(_times(chain, x)[::-1])
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
    quantization: Quantization = _CONTINUOUS,
    levels: TimeSampler = _EVEN,
    hybrid: Number | None = None,
) -> LossFn:
    r"""The variational bound with learned variances in nats per dimension, from one level drawn for each example.

    A level is drawn evenly and its term counts ``T`` times, so that the mean is that of the sum over all ``T``: the
    ``L_vlb`` of Ho et al. 2020 (arXiv 2006.11239, eq. 5) and Nichol & Dhariwal 2021, with ``L_T``.

    Args:
        chain: The chain.
        network: A network with two outputs for every value, such as of
            :func:`~score_sde.objectives.variational.with_variances`.
        parameterization: What the first half of its output means.
        quantization: The grey levels, whose bins the decoder integrates over. The batch may lie anywhere in the bins;
            the bound that is measured afterwards has it in their middle.
        levels: Draws the level of every example, as uniform numbers in ``[0, 1)``; by default spread over the batch.
        hybrid: With a number ``h`` the loss is ``mean (n - z)^2 + h L_vlb``, of whose second term the variances learn
            only (Nichol & Dhariwal 2021, eq. 16, ``h = 0.001``).

    Returns:
        ``loss_fn(params, key, batch, *, train, part=None)``; with ``train`` dropout is on.

    Raises:
        UserError: If the chain has fewer than two levels.
    """
    _check(chain)

    def loss_fn(
        params: Params, key: PRNGKey, batch: Batch, *, train: bool, part: tuple[Any, int] | None = None
    ) -> Float[Array, " examples"]:
        level_key, noise_key, dropout_key = jax.random.split(key, 3)
        quantile, _ = levels.sample(level_key, batch.shape[0])
        level = jnp.clip(jnp.floor(quantile * chain.num_levels), 0, chain.num_levels - 1).astype(jnp.int32)
        noise = jax.random.normal(noise_key, batch.shape, batch.dtype)
        if part is not None:
            batch, level, noise = part_of((batch, level, noise), *part)
            dropout_key = jax.random.fold_in(dropout_key, part[0])
        predict = make_predict_fn(network, parameterization, chain, params, key=dropout_key if train else None)
        dim = batch[0].size
        term, error = _level_terms(chain, predict, batch, level, noise, quantization, mean_learns=hybrid is None)
        bound = (chain.num_levels * term + prior_divergence(chain, _times(chain, batch)[-1], batch)) / dim
        return bound if hybrid is None else error / dim + hybrid * bound

    return loss_fn


def _check(chain: Chain, num_samples: int = 1) -> None:
    if chain.num_levels < 2:
        raise UserError(f"The chain has {chain.num_levels} levels; expected at least 2.")
    if num_samples < 1:
        raise UserError(f"num_samples is {num_samples}; expected at least 1.")


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
    times, last = _times(chain, x)[::-1], chain.num_levels - 1
    t, s = times[level], times[jnp.minimum(level + 1, last)]
    mean_coeff, std = chain.marginal(t)
    predicted, fraction = predict(expand_like(mean_coeff, x) * x + expand_like(std, x) * noise, t)
    residual = predicted - noise
    error = _event_sum(residual**2)
    if not mean_learns:
        residual = jax.lax.stop_gradient(residual)
    transition, below = chain.transition(s, t), chain.marginal(s).std
    drop = 2.0 * jnp.log1p((std - below) / below)
    excess = fraction * expand_like(drop, x)
    factor = expand_like((transition.std / (transition.mean_coeff * below)) ** 2, x)
    divergence = 0.5 * _event_sum(jnp.expm1(-excess) + excess + factor * jnp.exp(-excess) * residual**2)
    # What is not chosen is kept finite, for the gradient passes through it.
    decodes = expand_like((level == last).astype(x.dtype), x) > 0.0
    shift = jnp.where(decodes, -expand_like(std / mean_coeff, x) * residual, 0.0)
    decoder = Gaussian(x + shift, _decoder_log_std(chain, jnp.where(decodes, fraction, 0.0)))
    nats = -_decoder_log_probability(decoder, x, quantization, shift)
    return jnp.where(level == last, nats, divergence), error


def _decoder_log_std(chain: Chain, fraction: Batch) -> Batch:
    """Between the posterior's std of the last level given the one above, and ``s / m`` of the last level."""
    times = _times(chain, fraction)
    least = jnp.log(chain.posterior(times[0], times[1]).std)
    mean_coeff, std = chain.marginal(times[0])
    return least + fraction * (jnp.log(std / mean_coeff) - least)


def _decoder_log_probability(
    decoder: Gaussian, x: Batch, quantization: Quantization, shift: Batch | None = None
) -> Times:
    """The log-density of the data, or the log-probability of their grey levels; the shift is the mean less ``x``."""
    shift = decoder.mean - x if shift is None else shift
    if quantization.num_levels is None:
        return Gaussian(shift, decoder.log_std).log_density(jnp.zeros_like(x))

    def of_value(x: Array, shift: Array, log_std: Array) -> Array:
        return log_bin_probability(x[None], shift[None], jnp.exp(log_std), quantization)[0]

    return _event_sum(jnp.vectorize(of_value)(x, shift, decoder.log_std))


def _times(chain: Chain, x: Batch) -> Float[Array, " levels"]:
    """The times of the levels, of the type of the data."""
    return chain.times.astype(time_dtype(x))


def _isotropic(mean: Batch, std: Float[Array, ""]) -> Gaussian:
    return Gaussian(mean, jnp.full_like(mean, jnp.log(std)))


def _noise(keys: SampleKeys, index: Int[Array, ""], x: Batch) -> Batch:
    """The noise of one level, example by example, as :func:`chain_bound` draws it."""
    return jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, index), x.shape[1:], x.dtype))(keys)


def _event_sum(x: Batch) -> Times:
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))
