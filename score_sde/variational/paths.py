r"""Chains as models with many latent variables: one path through the levels, and any Gaussian reversal.

The latent variables are the levels ``x_T ... x_1`` of a chain, of the shape of the data, and the encoder is the
forward process, which has nothing to learn. For a reversal ``p(x_s | x_t)`` and a decoder ``p(x_0 | x_1)``
(Sohl-Dickstein et al. 2015, arXiv 1503.03585, eq. 12)

    log P(x_0) >= E_q[log p(x_T) + sum log p(x_s | x_t) + log P(x_0 | x_1) - log q(x_1, ..., x_T | x_0)].

:func:`hierarchical_elbo` is this sum along one path. Its mean is minus the bound of
:func:`~score_sde.variational.chain_bound`, where the noise of a path is integrated out step by step (eq. 14).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.chains import Chain
from score_sde.errors import UserError
from score_sde.keys import example_keys, fold_in, sample_noise
from score_sde.quantization import CONTINUOUS, Quantization
from score_sde.typing import Batch, PRNGKey, Times
from score_sde.variational.autoencoder import importance_weighted
from score_sde.variational.bins import decoder_log_probability
from score_sde.variational.gaussian import isotropic
from score_sde.variational.learned_variances import Reversal, check_levels, level_times

_Path = Float[Array, "levels batch *event"]


def hierarchical_elbo(
    key: PRNGKey,
    chain: Chain,
    reversal: Reversal,
    x: Batch,
    *,
    quantization: Quantization = CONTINUOUS,
    num_samples: int = 1,
) -> Times:
    """One draw of the evidence lower bound of a chain with any Gaussian reversal, from whole paths.

    The reversal needs only densities. For a :class:`~score_sde.variational.LearnedReversal` the mean is minus the
    :func:`~score_sde.variational.learned_variance_bound`; with exact reversal and prior the draw does not vary.

    Args:
        key: Draws the paths; example ``i`` uses ``fold_in(key, i)``.
        chain: The encoder.
        reversal: The decoder.
        x: Data; for gray levels any point inside each bin.
        quantization: The gray levels, for which the decoder gives the probability of the bin; else its density.
        num_samples: Number of paths whose weights are averaged under the logarithm, which tightens the bound.

    Returns:
        The bound on ``log P(x)`` in nats per example.

    Raises:
        UserError: If the chain has fewer than two levels, or there are no samples.

    >>> from score_sde.chains import DDPM, linear_betas
    >>> chain = DDPM(betas=linear_betas(100, 1e-3, 0.2))
    >>> from score_sde.variational import LearnedReversal, NoiseAndFraction
    >>> def predict(x, t):  # exact for data N(0, I), whose reversal has the variances of the transitions
    ...     return NoiseAndFraction(chain.marginal(t).std[:, None] * x, jnp.ones_like(x))
    >>> reversal = LearnedReversal(chain=chain, predict=predict)
    >>> bound = hierarchical_elbo(jax.random.key(0), chain, reversal, jnp.zeros((1, 2)))
    >>> abs(float(bound[0]) + 1.8379) < 0.01  # log N(0; 0, I): every path tells it
    True
    """
    check_levels(chain)
    if num_samples < 1:
        raise UserError(f"num_samples is {num_samples}; expected at least 1.")
    keys = example_keys(key, x)

    def log_weight(draw: Int[Array, ""]) -> Times:
        own = fold_in(keys, draw)
        noise = jax.vmap(lambda level: sample_noise(fold_in(own, level), x))(jnp.arange(chain.num_levels))
        return path_log_weight(chain, reversal, x, forward_path(chain, x, noise), quantization=quantization)

    return importance_weighted(jax.lax.map(log_weight, jnp.arange(num_samples)))


def forward_path(chain: Chain, x: Batch, noise: _Path) -> _Path:
    """The levels ``x_1`` to ``x_T`` of data diffused with the given noise, from the data up."""
    times = level_times(chain, x)
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
    chain: Chain, reversal: Reversal, x: Batch, path: _Path, *, quantization: Quantization = CONTINUOUS
) -> Times:
    """``log p(x_0, ..., x_T) - log q(x_1, ..., x_T | x_0)`` of a path, in nats per example.

    Args:
        chain: The forward process ``q``.
        reversal: The model ``p``.
        x: The data ``x_0``.
        path: The levels, as from :func:`forward_path`.
        quantization: As in :func:`hierarchical_elbo`.
    """

    def gained(row: tuple[Array, Array, Batch, Batch]) -> Times:
        s, t, below, above = row
        forward, std = chain.transition(s, t)
        backward = reversal.step(above, jnp.full(x.shape[:1], t), jnp.full(x.shape[:1], s))
        return backward.log_density(below) - isotropic(forward * below, std).log_density(above)

    times = level_times(chain, x)
    steps = jax.lax.map(gained, (times[:-1], times[1:], path[:-1], path[1:]))
    first = chain.marginal(times[0])
    decoded = decoder_log_probability(reversal.decode(path[0]), x, quantization)
    encoded = isotropic(first.mean_coeff * x, first.std).log_density(path[0])
    return chain.prior_logp(path[-1]) + jnp.sum(steps, axis=0) + decoded - encoded
