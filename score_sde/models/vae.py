"""Encoders and decoders of variational autoencoders (Kingma & Welling 2013, arXiv 1312.6114, appendix C).

They have dense layers for data of any shape or convolutions for images, and a Gaussian at both ends. The decoder's
standard deviations are a network output for every value, or one learned number for all.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.errors import UserError, unknown
from score_sde.fields import DEFAULTS
from score_sde.models.layers import ACTIVATIONS, Conv, conv3x3, ddpm_init
from score_sde.typing import Batch, Params, PRNGKey
from score_sde.variational import Gaussian

VARIANCES = ("pixel", "scalar")
_SMALL = 0.01  # initial scale of the last layers: both Gaussians start near N(0, I)


class VAE(nn.Module):
    """A Gaussian encoder and a Gaussian decoder; their fields are in ``docs/fields.md``."""

    event_shape: tuple[int, ...]
    latent_dim: int = DEFAULTS.model.latent_dim
    widths: tuple[int, ...] = DEFAULTS.model.widths
    # Channels of 3x3 convolutions of stride 2 before the dense layers, for images; the decoder doubles the size as
    # often, by repeating pixels. None for dense layers alone.
    channels: tuple[int, ...] = DEFAULTS.model.channels
    # ``"pixel"`` for a standard deviation of every value, read off ``z``; ``"scalar"`` for one parameter.
    variance: str = DEFAULTS.model.variance
    # Added to the decoder's standard deviations, since the density of nearly constant values is unbounded.
    min_std: float = DEFAULTS.model.min_std
    activation: str = DEFAULTS.model.activation

    def setup(self) -> None:
        """The layers of both directions."""
        outputs = 2 if self.variance == "pixel" else 1
        self._down = [Conv(c, strides=2, kernel_init=ddpm_init()) for c in self.channels]
        self._encoder = [nn.Dense(w) for w in self.widths]
        self._latent = nn.Dense(2 * self.latent_dim, kernel_init=ddpm_init(_SMALL))
        self._decoder = [nn.Dense(w) for w in reversed(self.widths)]
        if self.channels:
            self._seed = nn.Dense(math.prod(self._seed_shape))
            self._up = [conv3x3(c) for c in reversed(self.channels)]
            self._output = conv3x3(outputs * self.event_shape[-1], _SMALL)
        else:
            self._output = nn.Dense(outputs * math.prod(self.event_shape), kernel_init=ddpm_init(_SMALL))
        if self.variance == "scalar":
            self._log_std = self.param("log_std", nn.initializers.zeros, ())

    @property
    def _seed_shape(self) -> tuple[int, int, int]:
        factor = 2 ** len(self.channels)
        return self.event_shape[0] // factor, self.event_shape[1] // factor, self.channels[-1]

    def __call__(self, x: Batch) -> tuple[Gaussian, Gaussian]:
        """Both directions, with the mean in between; used to initialize all parameters."""
        q = self.encode(x)
        return q, self.decode(q.mean)

    def encode(self, x: Batch) -> Gaussian:
        """``q(z | x)``."""
        activation, h = ACTIVATIONS[self.activation], x
        for layer in self._down:
            h = activation(layer(h))
        h = h.reshape(h.shape[0], -1)
        for layer in self._encoder:
            h = activation(layer(h))
        return Gaussian(*jnp.split(self._latent(h), 2, axis=-1))

    def decode(self, z: Float[Array, "batch {self.latent_dim}"]) -> Gaussian:
        """``p(x | z)``."""
        activation, h, shape = ACTIVATIONS[self.activation], z, (z.shape[0], *self.event_shape)
        for layer in self._decoder:
            h = activation(layer(h))
        if self.channels:
            h = activation(self._seed(h)).reshape(-1, *self._seed_shape)
            for layer in self._up:
                h = activation(layer(jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)))
        h = self._output(h)
        if self.variance == "scalar":
            return Gaussian(h.reshape(shape), jnp.broadcast_to(self._floored(self._log_std), shape))
        mean, raw = jnp.split(h, 2, axis=-1)
        return Gaussian(mean.reshape(shape), self._floored(raw).reshape(shape))

    def _floored(self, raw: Float[Array, "*values"]) -> Float[Array, "*values"]:
        """``log(exp(raw) + min_std)``."""
        return jnp.logaddexp(raw, math.log(self.min_std))


@dataclasses.dataclass(frozen=True)
class LinenVAE:
    """A :class:`VAE` behind the pure functions of a :class:`~score_sde.variational.LatentVariableModel`."""

    module: VAE

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """One axis."""
        return (self.module.latent_dim,)

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Parameters for data of ``shape``, batch axis included."""
        return self.module.init(key, jnp.zeros(shape))["params"]

    def encode(self, params: Params, x: Batch) -> Gaussian:
        """``q(z | x)``."""
        return self._apply(params, x, "encode")

    def decode(self, params: Params, z: Batch) -> Gaussian:
        """``p(x | z)``."""
        return self._apply(params, z, "decode")

    def _apply(self, params: Params, values: Batch, method: str) -> Gaussian:
        output: Any = self.module.apply({"params": params}, values, method=method)
        return output


def make_vae(event_shape: tuple[int, ...], **fields: Any) -> LinenVAE:
    """The autoencoder for data of a shape; arguments as in :class:`VAE`.

    Raises:
        UserError: For unknown names, sizes below 1, a standard deviation that is not positive, and images that cannot
            be halved as often as there are channels.

    >>> import jax
    >>> model = make_vae((8, 8, 1), latent_dim=3, widths=(16,), channels=(4, 8))
    >>> params = jax.jit(model.init, static_argnums=1)(jax.random.key(0), (1, 8, 8, 1))
    >>> jax.jit(model.encode)(params, jnp.zeros((5, 8, 8, 1))).mean.shape
    (5, 3)
    >>> jax.jit(model.decode)(params, jnp.zeros((5, 3))).log_std.shape
    (5, 8, 8, 1)
    """
    module = VAE(event_shape=tuple(event_shape), **fields)
    if module.variance not in VARIANCES:
        raise unknown("variance of the decoder", module.variance, VARIANCES)
    if module.activation not in ACTIVATIONS:
        raise unknown("activation", module.activation, ACTIVATIONS)
    widths, channels = module.widths, module.channels
    if min(module.latent_dim, *widths, *channels, 1) < 1 or not module.min_std > 0.0:
        raise UserError(
            f"latent_dim is {module.latent_dim}, widths {widths}, channels {channels} and min_std {module.min_std}; "
            "expected sizes from 1 and a positive min_std."
        )
    factor = 2 ** len(channels)
    if channels and (len(event_shape) != 3 or event_shape[0] % factor or event_shape[1] % factor):
        raise UserError(
            f"Data of shape {event_shape} cannot be halved {len(channels)} times; expected images (H, W, C) with "
            f"multiples of {factor}, or fewer channels (config.model.channels)."
        )
    return LinenVAE(module)
