r"""Models with one layer of latent variables: the evidence lower bound, its importance-weighted form, and their loss.

A standard normal ``z`` is decoded to ``p(x | z)`` and an encoder ``q(z | x)`` infers it, both Gaussians with diagonal
covariances (Kingma & Welling 2013, arXiv 1312.6114, section 3),

    log p(x) >= E_q[log p(x | z)] - KL(q(z | x) || N(0, I)),                              z = mean + std e,
    log p(x) >= E log (1/K) sum_k w_k,      w_k = p(x | z_k) N(z_k; 0, I) / q(z_k | x),

The second tightens with ``K`` (Burda et al. 2016, arXiv 1509.00519, eq. 8 and theorem 1). The divergence of the first
has a closed form and is not sampled (the first term of eq. 10 of Kingma & Welling). Everything is in nats per example
of continuous data, so that :meth:`~score_sde.quantization.Quantization.bits_per_dim` applies directly to dequantized
images.

Draw ``k`` of example ``i`` uses ``fold_in(fold_in(key, i), k)``: an example ignores its neighbors, and more draws
extend fewer.

A chain has many such layers, and an encoder with nothing to learn: :mod:`score_sde.variational.paths`.
"""

import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.errors import UserError
from score_sde.keys import example_keys, fold_in, sample_keys, sample_noise
from score_sde.typing import Batch, Loss, Params, PRNGKey, SampleKeys, Times
from score_sde.variational.gaussian import Gaussian


@runtime_checkable
class LatentVariableModel(Protocol):
    """An encoder and a decoder as pure functions, independent of the library behind them."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of the latent variable of one example."""
        ...

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Parameters for data of ``shape`` (batch axis included)."""
        ...

    def encode(self, params: Params, x: Batch) -> Gaussian:
        """``q(z | x)``."""
        ...

    def decode(self, params: Params, z: Batch) -> Gaussian:
        """``p(x | z)``."""
        ...


def elbo(key: PRNGKey, model: LatentVariableModel, params: Params, x: Batch) -> Times:
    """One draw of the evidence lower bound on ``log p(x)``, with the divergence in closed form.

    Args:
        key: Draws the latent variables; example ``i`` uses ``fold_in(key, i)``.
        model: Encoder and decoder.
        params: Their parameters, in which the draw is differentiable (the reparameterized gradient).
        x: Continuous data of shape ``(batch, *event)``.

    Returns:
        ``log p(x | z) - KL(q(z | x) || N(0, I))`` in nats per example, unbiased for the bound.

    >>> class Independent:  # z tells nothing of x ~ N(0, I), and the encoder knows it
    ...     latent_shape = (1,)
    ...     def init(self, key, shape): return {}
    ...     def encode(self, params, x): return Gaussian(jnp.zeros((len(x), 1)), jnp.zeros((len(x), 1)))
    ...     def decode(self, params, z): return Gaussian(jnp.zeros((len(z), 2)), jnp.zeros((len(z), 2)))
    >>> bound = elbo(jax.random.key(0), Independent(), {}, jnp.zeros((1, 2)))
    >>> round(float(bound[0]), 4)  # log N(0; 0, I) in two dimensions
    -1.8379
    """
    return _elbo(example_keys(key, x), model, params, x)


def importance_bound(
    key: PRNGKey,
    model: LatentVariableModel,
    params: Params,
    x: Batch,
    num_samples: int,
    *,
    chunk: int = 25,
) -> Times:
    """One draw of the bound on ``log p(x)`` from ``num_samples`` weights (Burda et al. 2016, eq. 8).

    Args:
        key: Draws the latent variables.
        model: Encoder and decoder.
        params: Their parameters.
        x: Continuous data of shape ``(batch, *event)``.
        num_samples: The number ``K`` of weights. In the mean the bound rises with it; one gives the evidence lower
            bound, with the divergence sampled.
        chunk: Number of samples in memory at once; the result does not depend on it.

    Returns:
        ``log (1/K) sum_k w_k`` in nats per example.

    Raises:
        UserError: If there are no samples, or the chunk is empty.
    """
    if num_samples < 1 or chunk < 1:
        raise UserError(f"num_samples is {num_samples} and chunk {chunk}; expected at least 1 of both.")
    return _importance_bound(example_keys(key, x), model, params, x, num_samples, chunk)


def importance_weighted(log_weights: Float[Array, "..."], axis: int = 0) -> Float[Array, "..."]:
    """``log (1/K) sum_j w_j`` over an axis of ``K`` draws, from ``log w_j = log p(x_j) - log q(u_j | k)`` in nats.

    Its mean is a lower bound on ``log P(k)``, less ``log |dx/du|``; it rises with ``K`` and is tight in the limit
    (Burda et al. 2016, arXiv 1509.00519, theorem 1). With ``K = 1`` it is the variational bound.

    >>> round(float(importance_weighted(jnp.log(jnp.array([1.0, 3.0])))), 4)  # log 2
    0.6931
    """
    return jax.nn.logsumexp(log_weights, axis=axis) - math.log(log_weights.shape[axis])


def vae_loss(model: LatentVariableModel, *, num_samples: int | None = None) -> Loss:
    """The negative bound in nats per dimension, to train encoder and decoder together.

    Args:
        model: Encoder and decoder.
        num_samples: ``None`` for the evidence lower bound, a variational autoencoder; ``K`` for the bound of ``K``
            weights, an importance-weighted one (Burda et al. 2016), with all samples in memory at once.

    Returns:
        The loss; it draws a key per example, and has no dropout.

    Raises:
        UserError: If there are no samples.
    """
    if num_samples is not None and num_samples < 1:
        raise UserError(f"num_samples is {num_samples}; expected at least 1, or None for the evidence lower bound.")

    def draw(key: PRNGKey, batch: Batch) -> tuple[SampleKeys, PRNGKey]:
        return example_keys(key, batch), key

    def losses(params: Params, batch: Batch, keys: SampleKeys, dropout_key: PRNGKey | None) -> Times:
        del dropout_key
        if num_samples is None:
            bound = _elbo(keys, model, params, batch)
        else:
            bound = _importance_bound(keys, model, params, batch, num_samples, num_samples)
        return -bound / batch[0].size

    return Loss(draw, losses)


def sample_from_prior(
    key: PRNGKey,
    model: LatentVariableModel,
    params: Params,
    n: int,
    *,
    first: Array | int = 0,
    noise: bool = False,
) -> Batch:
    """Decode ``n`` standard normal latent variables.

    Args:
        key: Sample ``i`` uses ``fold_in(key, i)``, and does not depend on ``n``.
        model: Encoder and decoder.
        params: Their parameters.
        n: Number of samples.
        first: Index of the first sample.
        noise: Draw from ``p(x | z)``, a sample of the model; else take its mean, which looks better.
    """
    keys = sample_keys(key, first, n)
    z = sample_noise(fold_in(keys, 0), jnp.zeros((n, *model.latent_shape), jnp.float32))
    decoded = model.decode(params, z)
    return decoded.at(sample_noise(fold_in(keys, 1), decoded.mean)) if noise else decoded.mean


def _elbo(keys: SampleKeys, model: LatentVariableModel, params: Params, x: Batch) -> Times:
    q = model.encode(params, x)
    z = q.at(sample_noise(fold_in(keys, 0), q.mean))
    prior = Gaussian(jnp.zeros_like(q.mean), jnp.zeros_like(q.mean))
    return model.decode(params, z).log_density(x) - q.divergence(prior)


def _importance_bound(
    keys: SampleKeys, model: LatentVariableModel, params: Params, x: Batch, num_samples: int, chunk: int
) -> Times:
    q = model.encode(params, x)
    prior = Gaussian(jnp.zeros_like(q.mean), jnp.zeros_like(q.mean))

    def log_weight(index: Int[Array, ""]) -> Times:
        z = q.at(sample_noise(fold_in(keys, index), q.mean))
        return model.decode(params, z).log_density(x) + prior.log_density(z) - q.log_density(z)

    indices = jnp.arange(num_samples)
    if chunk >= num_samples:  # without a loop, in which the gradients of convolutions are slow on a CPU
        log_weights = jax.vmap(log_weight)(indices)
    else:
        log_weights = jax.lax.map(log_weight, indices, batch_size=chunk)
    return importance_weighted(log_weights)
