r"""Models with one layer of latent variables: the evidence lower bound, its importance-weighted form, and their loss.

A standard normal ``z`` is decoded to ``p(x | z)`` and an encoder ``q(z | x)`` guesses it back, both Gaussians with
diagonal covariances (Kingma & Welling 2013, arXiv 1312.6114, section 3),

    log p(x) >= E_q[log p(x | z)] - KL(q(z | x) || N(0, I)),                              z = mean + std e,
    log p(x) >= E log (1/K) sum_k w_k,      w_k = p(x | z_k) N(z_k; 0, I) / q(z_k | x),

the second of which tightens with ``K`` (Burda et al. 2016, arXiv 1509.00519, eq. 8 and theorem 1). The divergence of
the first has a closed form and is not sampled (the first term of eq. 10 of the former). Everything is in nats per
example of continuous data, so that :meth:`~score_sde.likelihood.Quantization.bits_per_dim` takes it as it is for
dequantised images.

Draw ``k`` of example ``i`` is that of ``fold_in(fold_in(key, i), k)``: an example ignores its neighbours, and more
draws go on where fewer end.

Of a chain with many such layers the encoder is fixed, and a network that learns the variances of the decoder has two
outputs for every value (:func:`make_predict_fn`); its bound is in :mod:`score_sde.likelihood.latent_variable`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.arguments import example_keys
from score_sde.chains import Chain
from score_sde.errors import UserError
from score_sde.objectives.score_matching import part_of
from score_sde.parameterization import Parameterization
from score_sde.typing import Batch, Labels, LossFn, Network, Params, PRNGKey, SampleKeys, Times


class Gaussian(NamedTuple):
    """A Gaussian of independent dimensions for every example, ``N(mean, exp(2 log_std))``.

    >>> p = Gaussian(jnp.zeros((1, 2)), jnp.zeros((1, 2)))
    >>> p.divergence(p).tolist()
    [0.0]
    """

    mean: Batch
    log_std: Batch  # of the shape of the mean

    def at(self, noise: Batch) -> Batch:
        """``mean + std noise``, a sample for standard normal noise."""
        return self.mean + jnp.exp(self.log_std) * noise

    def log_density(self, x: Batch) -> Times:
        """The log-density in nats per example."""
        square = ((x - self.mean) * jnp.exp(-self.log_std)) ** 2
        return -0.5 * _event_sum(square + 2.0 * self.log_std + math.log(2.0 * math.pi))

    def divergence(self, other: "Gaussian") -> Times:
        """``KL(self || other)`` in nats per example.

        Of a single dimension ``(r - 1 - log r + (difference of the means / other std)^2) / 2`` with the ratio ``r`` of
        the variances; against N(0, I) this is minus the first term of eq. 10 of Kingma & Welling 2013.
        """
        log_ratio = 2.0 * (self.log_std - other.log_std)
        offset = (self.mean - other.mean) * jnp.exp(-other.log_std)
        return 0.5 * _event_sum(jnp.expm1(log_ratio) - log_ratio + offset**2)


@runtime_checkable
class LatentVariableModel(Protocol):
    """An encoder and a decoder as pure functions; the library behind them is invisible."""

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
        params: Their parameters, in which the draw is differentiable (the reparameterised gradient).
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
        chunk: How many of the samples are in memory at once; the result does not depend on it.

    Returns:
        ``log (1/K) sum_k w_k`` in nats per example.

    Raises:
        UserError: If there are no samples, or the chunk is empty.
    """
    if num_samples < 1 or chunk < 1:
        raise UserError(f"num_samples is {num_samples} and chunk {chunk}; expected at least 1 of both.")
    return _importance_bound(example_keys(key, x), model, params, x, num_samples, chunk)


def vae_loss(model: LatentVariableModel, *, num_samples: int | None = None) -> LossFn:
    """The negative bound in nats per dimension, to train encoder and decoder together.

    Args:
        model: Encoder and decoder.
        num_samples: ``None`` for the evidence lower bound, a variational autoencoder; ``K`` for the bound of ``K``
            weights, an importance-weighted one (Burda et al. 2016), all of whose samples are in memory at once.

    Returns:
        ``loss_fn(params, key, batch, *, train, part=None)``; there is no dropout, so ``train`` changes nothing.

    Raises:
        UserError: If there are no samples.
    """
    if num_samples is not None and num_samples < 1:
        raise UserError(f"num_samples is {num_samples}; expected at least 1, or None for the evidence lower bound.")

    def loss_fn(
        params: Params, key: PRNGKey, batch: Batch, *, train: bool, part: tuple[Any, int] | None = None
    ) -> Float[Array, " examples"]:
        keys = example_keys(key, batch)
        if part is not None:
            batch, keys = part_of((batch, keys), *part)
        if num_samples is None:
            bound = _elbo(keys, model, params, batch)
        else:
            bound = _importance_bound(keys, model, params, batch, num_samples, num_samples)
        return -bound / batch[0].size

    return loss_fn


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
        first: Index of the first of them.
        noise: Draw from ``p(x | z)``, a sample of the model; else take its mean, which looks better.
    """
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(first + jnp.arange(n))
    decoded = model.decode(params, _normal(keys, 0, model.latent_shape, jnp.float32))
    mean = decoded.mean
    return decoded.at(_normal(keys, 1, mean.shape[1:], mean.dtype)) if noise else mean


class NoiseAndFraction(NamedTuple):
    """What a network says of a step: ``E[z | x_t]``, and where its log-variance lies between least and greatest."""

    noise: Batch
    fraction: Batch  # 0 for the posterior's variance, 1 for the transition's; of the shape of the noise


PredictFn = Callable[[Batch, Times], NoiseAndFraction]


def with_variances(network: Network) -> Network:
    """A network with two outputs for every value, made of one with one: it is given its input twice.

    The copies lie side by side along the last axis, so that any network of the registry will do.

    >>> class Identity:
    ...     def init(self, key, shape): return {}
    ...     def apply(self, params, x, condition, *, label=None, key=None): return x
    >>> with_variances(Identity()).apply({}, jnp.ones((2, 3)), jnp.ones(2)).shape
    (2, 6)
    """
    return _Doubled(network=network)


def make_predict_fn(
    network: Network,
    parameterization: Parameterization,
    chain: Chain,
    params: Params,
    *,
    key: PRNGKey | None = None,
) -> PredictFn:
    """Noise and fraction of a network with two outputs for every value.

    The first half of the last axis is read as the parameterization says, the second is ``2 w - 1``: a network that
    starts at zero starts between the two variances. The fraction is not confined to ``[0, 1]``, as in the original.

    Args:
        network: Such as of :func:`with_variances`.
        parameterization: What the first half means.
        chain: The chain.
        params: Parameters of the network.
        key: Switches dropout on.
    """

    def predict(x: Batch, t: Times) -> NoiseAndFraction:
        output, raw = jnp.split(network.apply(params, *parameterization.inputs(chain, x, t), key=key), 2, axis=-1)
        return NoiseAndFraction(parameterization.noise(chain, output, x, t), 0.5 * (raw + 1.0))

    return predict


def _elbo(keys: SampleKeys, model: LatentVariableModel, params: Params, x: Batch) -> Times:
    q = model.encode(params, x)
    z = q.at(_normal(keys, 0, q.mean.shape[1:], q.mean.dtype))
    prior = Gaussian(jnp.zeros_like(q.mean), jnp.zeros_like(q.mean))
    return model.decode(params, z).log_density(x) - q.divergence(prior)


def _importance_bound(
    keys: SampleKeys, model: LatentVariableModel, params: Params, x: Batch, num_samples: int, chunk: int
) -> Times:
    q = model.encode(params, x)
    prior = Gaussian(jnp.zeros_like(q.mean), jnp.zeros_like(q.mean))

    def log_weight(index: Int[Array, ""]) -> Times:
        z = q.at(_normal(keys, index, q.mean.shape[1:], q.mean.dtype))
        return model.decode(params, z).log_density(x) + prior.log_density(z) - q.log_density(z)

    indices = jnp.arange(num_samples)
    if chunk >= num_samples:  # without a loop, in which the gradients of convolutions are slow on a CPU
        log_weights = jax.vmap(log_weight)(indices)
    else:
        log_weights = jax.lax.map(log_weight, indices, batch_size=chunk)
    return jax.nn.logsumexp(log_weights, axis=0) - math.log(num_samples)


def _normal(keys: SampleKeys, index: Int[Array, ""] | int, shape: tuple[int, ...], dtype: Any) -> Batch:
    """Standard normal noise of one draw, example by example."""
    return jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, index), shape, dtype))(keys)


def _event_sum(x: Batch) -> Times:
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Doubled:
    """See :func:`with_variances`."""

    network: Network

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Parameters for inputs of ``shape``, batch axis included."""
        return self.network.init(key, (*shape[:-1], 2 * shape[-1]))

    def apply(
        self, params: Params, x: Batch, condition: Times, *, label: Labels | None = None, key: PRNGKey | None = None
    ) -> Float[Array, "batch *doubled"]:
        """The raw output, twice as long along its last axis."""
        given = {} if label is None else {"label": label}
        return self.network.apply(params, jnp.concatenate([x, x], axis=-1), condition, key=key, **given)
