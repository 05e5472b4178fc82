"""The normalizations of the NCSN family: statistics over the pixels of each image and channel.

InstanceNorm++ (Song & Ermon 2019, appendix A) restores the information that instance normalization erases, the
brightness of a channel relative to the other channels of its image:

    z_c = gamma_c * ((x_c - mu_c) / s_c + alpha_c * (mu_c - m) / v) + beta_c

with mean ``mu_c`` and standard deviation ``s_c`` of channel c, and mean ``m`` and standard deviation ``v`` of the
channel means. All variances are biased, as in the JAX original; the PyTorch releases divide the variance of the channel
means by ``C - 1`` (``unbiased``).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.models.pixels import Images, add_everywhere, centered_moments, per_pixel, rescale

EPSILON = 1e-5
Labels = Int[Array, " batch"]
ChannelMeans = Float[Array, "batch channels"]


def around_one(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """The initial distribution of the gains, N(1, 0.02^2)."""
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


def gains_and_zeros(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """One row ``(gamma, alpha, beta)`` per class: gains around one, shifts zero."""
    classes, width = shape
    gains = around_one(key, (classes, 2 * width // 3), dtype)
    return jnp.concatenate([gains, jnp.zeros((classes, width // 3), dtype)], axis=1)


def _row(weights: Float[Array, " channels"]) -> Float[Array, "1 channels"]:
    return weights[None, :]


def _moments(x: Images) -> tuple[Images, ChannelMeans, ChannelMeans]:
    """The images in float32, the mean over the pixels of every channel, and one over the standard deviation."""
    x = x.astype(jnp.float32)
    means, variances = centered_moments(x)
    return x, means, jax.lax.rsqrt(variances + EPSILON)


def relative_brightness(means: ChannelMeans, unbiased: bool) -> ChannelMeans:
    """The channel means, standardized over the channels of each image."""
    centered = means - means.mean(axis=1, keepdims=True)
    variance = means.var(axis=1, keepdims=True, ddof=int(unbiased))
    return centered * jax.lax.rsqrt(variance + EPSILON)


class InstanceNorm2d(nn.Module):
    """Instance normalization (Ulyanov et al. 2016) with a gain and, optionally, a shift per channel."""

    bias: bool = True

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Standardize every channel of every image."""
        channels = (x.shape[-1],)
        h, means, inverse = _moments(x)
        gain = _row(self.param("scale", nn.initializers.ones, channels)) * inverse
        shift = _row(self.param("bias", nn.initializers.zeros, channels)) if self.bias else None
        return rescale(h, means, gain, shift).astype(x.dtype)


class VarianceNorm2d(nn.Module):
    """Division by the standard deviation of every channel; the mean stays (Song & Ermon 2020)."""

    bias: bool = False

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Rescale every channel of every image to unit variance."""
        channels = (x.shape[-1],)
        h, _, inverse = _moments(x)
        h = h * per_pixel(_row(self.param("scale", around_one, channels)) * inverse, x.shape[1:-1])
        if self.bias:
            h = add_everywhere(h, _row(self.param("bias", nn.initializers.zeros, channels)))
        return h.astype(x.dtype)


class InstanceNorm2dPlus(nn.Module):
    """InstanceNorm++ with one ``alpha``, ``gamma`` and ``beta`` per channel."""

    bias: bool = True  # add ``beta``
    unbiased: bool = False  # divide the variance of the channel means by ``C - 1``, as PyTorch does

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Standardize every channel and add its relative brightness."""
        channels = (x.shape[-1],)
        alpha, gamma = (_row(self.param(name, around_one, channels)) for name in ("alpha", "gamma"))
        h, means, inverse = _moments(x)
        shift = gamma * alpha * relative_brightness(means, self.unbiased)
        if self.bias:
            shift = shift + _row(self.param("beta", nn.initializers.zeros, channels))
        return rescale(h, means, gamma * inverse, shift).astype(x.dtype)


class ConditionalInstanceNorm2dPlus(nn.Module):
    """InstanceNorm++ whose ``gamma``, ``alpha`` and ``beta``, in this order, are looked up by class."""

    num_classes: int = 10  # number of classes, here noise levels
    unbiased: bool = False  # divide the variance of the channel means by ``C - 1``, as PyTorch does

    @nn.compact
    def __call__(self, x: Images, labels: Labels) -> Images:
        """Normalize each image with the weights of its class; a class out of range gives NaN."""
        table = nn.Embed(self.num_classes, 3 * x.shape[-1], embedding_init=gains_and_zeros)
        labels = jnp.where(labels < 0, self.num_classes, labels)  # which would count from the end
        gamma, alpha, beta = jnp.split(table(labels), 3, axis=-1)
        h, means, inverse = _moments(x)
        shift = gamma * alpha * relative_brightness(means, self.unbiased) + beta
        return rescale(h, means, gamma * inverse, shift).astype(x.dtype)


NORMALIZATIONS: dict[str, Callable[[], nn.Module]] = {
    "GroupNorm": functools.partial(nn.GroupNorm, use_fast_variance=False),
    "InstanceNorm": InstanceNorm2d,
    "InstanceNorm++": InstanceNorm2dPlus,
    "VarianceNorm": VarianceNorm2d,
}
