r"""Layers that preserve magnitudes: of numbers with a mean square of 1 they make numbers with a mean square of 1.

Of a weight only the direction counts (Karras et al. 2024, arXiv 2312.02696, section 2 and appendix B): a layer divides
the weights of each of its outputs by the root of their mean square. The gradient is therefore orthogonal to the
weights, so that every update would make them longer, and the following ones smaller. :func:`unit_weights` sets their
length back after each.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.models.layers import Conv, Features, Images, label_rows
from score_sde.models.storing import stored, stored_gradient
from score_sde.typing import Labels, Params, Times, time_dtype

#: The name of parameters of which only the direction counts.
WEIGHT = "weight"
_EPSILON = 1e-8  # added to mean squares
_SILU = 0.596  # the magnitude of silu of standard normal numbers

Maps = Float[Array, "_ ... _"]  #: vectors, or feature maps of any size


def unit(x: Float[Array, "*shape"], axes: int | tuple[int, ...]) -> Float[Array, "*shape"]:
    """Numbers divided by the root of their mean square over some axes.

    >>> [round(float(value), 2) for value in unit(jnp.array([3.0, 4.0]), 0)]
    [0.85, 1.13]
    """
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True) + _EPSILON)


def unit_weights(params: Params) -> Params:
    """The parameters, with unit weights for each output of the layers of this module."""

    def project(path: Any, leaf: Array) -> Array:
        return _of_outputs(leaf) if getattr(path[-1], "key", None) == WEIGHT else leaf

    return jax.tree.map_with_path(project, params)


def _of_outputs(weight: Array) -> Array:
    return unit(weight, tuple(range(weight.ndim - 1)))


def unit_normal(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Random directions, one for each entry of the last axis."""
    return _of_outputs(jax.random.normal(key, shape, dtype))


def mp_silu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """``silu(x) / 0.596``."""
    return nn.silu(x) / _SILU


def mp_sum(a: Float[Array, "*shape"], b: Float[Array, "*shape"], share: float) -> Float[Array, "*shape"]:
    """The sum of two arrays with weights in proportion ``1 - share`` to ``share``.

    >>> round(float(mp_sum(jnp.array(7.0), jnp.array(1.0), 0.5)), 4)  # 8 / sqrt 2
    5.6569
    """
    return ((1.0 - share) * a + share * b) / math.hypot(1.0 - share, share)


def mp_cat(a: Maps, b: Maps, share: float = 0.5) -> Maps:
    """Two arrays side by side, which contribute to products in proportion ``1 - share`` to ``share``.

    >>> x = mp_cat(jnp.ones((1, 2, 1)), jnp.ones((1, 2, 3)))
    >>> round(float(jnp.mean(x**2)), 5), round(float(jnp.sum(x[..., 0] ** 2) / jnp.sum(x[..., 1:] ** 2)), 5)
    (1.0, 1.0)
    """
    total = math.sqrt(a.shape[-1] + b.shape[-1]) / math.hypot(1.0 - share, share)
    weights = total * (1.0 - share) / math.sqrt(a.shape[-1]), total * share / math.sqrt(b.shape[-1])
    return jnp.concatenate([weights[0] * a, weights[1] * b], axis=-1)


class MPConv(Conv):
    """A convolution with unit weights and without a bias."""

    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = unit_normal

    def make_kernel(self, shape: tuple[int, ...]) -> Array:
        """Unit weights, divided by the root of the number of inputs."""
        return _kernel(self, self.kernel_init, shape)


class MPDense(nn.Module):
    """A dense layer at every pixel, with unit weights and without a bias."""

    features: int

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        """One product over all pixels."""
        kernel = _kernel(self, unit_normal, (x.shape[-1], self.features)).astype(x.dtype)
        h = (stored(x, kernel).reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], self.features)
        return stored_gradient(h, kernel)


def _kernel(module: nn.Module, init: nn.initializers.Initializer, shape: tuple[int, ...]) -> Array:
    weight = module.param(WEIGHT, init, shape, jnp.float32)
    return _of_outputs(weight) / math.sqrt(math.prod(shape[:-1]))


class FourierFeatures(nn.Module):
    """Random frequencies and phases of a number, which stay as they are drawn."""

    width: int
    scale: float  # standard deviation of the frequencies

    @nn.compact
    def __call__(self, condition: Times) -> Features:
        """``sqrt 2 cos(2 pi (condition f + p))``."""
        frequencies = self.param("frequencies", nn.initializers.normal(self.scale), (self.width,))
        phases = self.param("phases", nn.initializers.uniform(1.0), (self.width,))
        frequencies, phases = jax.lax.stop_gradient((frequencies, phases))
        return math.sqrt(2.0) * jnp.cos(2.0 * math.pi * (condition[:, None] * frequencies[None, :] + phases[None, :]))


class ClassVectors(nn.Module):
    """A vector of magnitude 1 for each class, and one for no class: a dense layer of the class as a unit vector."""

    num_classes: int
    features: int

    @nn.compact
    def __call__(self, label: Labels | None, condition: Times) -> Features:
        """The label ``None``, or -1 for single examples, stands for no class. Labels out of range give NaN."""
        table = _of_outputs(self.param(WEIGHT, unit_normal, (self.num_classes + 1, self.features)))
        row = label_rows(self.num_classes, label, condition)
        return table.at[row].get(mode="fill", fill_value=jnp.nan)


class CosineAttention(nn.Module):
    """Self-attention over pixels whose queries, keys and values have magnitude 1 at each pixel and head.

    A mean over different pixels is smaller than they are, so this layer alone does not preserve magnitudes.
    """

    share: float  # of the attention in the sum with its input
    head_features: int = 64  # least number of features of a head

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """The sum with the input; softmax in float32."""
        batch, channels = x.shape[0], x.shape[-1]
        most = max(channels // self.head_features, 1)
        heads = max(n for n in range(1, most + 1) if channels % n == 0)
        parts = MPDense(3 * channels)(x).reshape(batch, -1, 3, heads, channels // heads)
        query, key, value = (unit(parts[:, :, index], -1) for index in range(3))
        logits = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=time_dtype(x))
        weights = nn.softmax(logits / math.sqrt(channels // heads), axis=-1).astype(x.dtype)
        h = jnp.einsum("bhqk,bkhc->bqhc", weights, value).reshape(x.shape)
        return mp_sum(x, MPDense(channels)(h), self.share)
