"""Building blocks of the score networks, written so that XLA runs them fast on a CPU as well.

Initialization follows the DDPM family: variance scaling with fan average and a uniform distribution, where scale 0
stands for 1e-10, so that residual branches and the last convolution start at (almost) zero.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from score_sde.errors import UserError
from score_sde.fields import DEFAULTS
from score_sde.models.pixels import Images, add_everywhere, centered_moments, rescale
from score_sde.models.storing import stored, stored_gradient
from score_sde.typing import Labels, Times, expand_like, is_known, time_dtype

Features = Float[Array, "batch features"]
Activation = Callable[[Array], Array]

ACTIVATIONS: dict[str, Activation] = {
    "elu": nn.elu,
    "relu": nn.relu,
    "lrelu": lambda x: nn.leaky_relu(x, negative_slope=0.2),
    "swish": nn.swish,
}


NIN_INIT_SCALE = 0.1  # of 1x1 layers other than output and shortcut of a BigGAN block (Song et al. 2021)


def ddpm_init(scale: float = 1.0) -> nn.initializers.Initializer:
    """Variance scaling, fan average, uniform; scale 0 becomes 1e-10 (Ho et al. 2020)."""
    return nn.initializers.variance_scaling(scale or 1e-10, "fan_avg", "uniform")


def positional_embedding(condition: Times, width: int, max_period: float = 10_000.0) -> Features:
    """Sinusoidal embedding (Vaswani et al. 2017): sines, then cosines, of ``condition * max_period^(-k / (half - 1))``.

    >>> round(float(positional_embedding(jnp.ones(1), 128)[0, 64]), 6)
    0.540302
    """
    half = width // 2
    frequencies = jnp.exp(-math.log(max_period) / max(half - 1, 1) * jnp.arange(half, dtype=condition.dtype))
    angles = condition[:, None] * frequencies[None, :]
    embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
    return jnp.pad(embedding, ((0, 0), (0, width % 2)))


class FourierEmbedding(nn.Module):
    """Random Fourier features of the condition with frozen frequencies ``W ~ N(0, scale^2)`` (Tancik et al. 2020)."""

    width: int
    scale: float = 16.0

    @nn.compact
    def __call__(self, condition: Times) -> Features:
        """``[sin(2 pi condition W), cos(2 pi condition W)]`` of width ``2 * width``."""
        frequencies = self.param("W", nn.initializers.normal(self.scale), (self.width,))
        # The angles are large, so the order of these products shows in the last digits: it is the published one.
        frequencies = jax.lax.stop_gradient(frequencies).astype(condition.dtype)
        angles = condition[:, None] * frequencies[None, :] * (2.0 * jnp.pi)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


class GroupNorm(nn.Module):
    """Group normalization (Wu & He 2018) with at most 32 groups, in float32 or better whatever the type of the images.

    Pixels are summed per channel first and the small ``(batch, channels)`` sums grouped afterwards, which on a CPU is
    two to three times faster than reshaping the images. The variance of a group is the mean of its channels' variances,
    each about its own mean, plus the variance of these means.
    """

    min_group_channels: int = 4  # least number of channels in a group: 4 in DDPM++ and NCSN++, 1 in DDPM
    epsilon: float = 1e-6  # added to the variance

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Normalize over pixels and the channels of each group."""
        batch, channels = x.shape[0], x.shape[-1]
        most = max(min(channels // self.min_group_channels, 32), 1)
        groups = max(n for n in range(1, most + 1) if channels % n == 0)
        dtype, x = x.dtype, x.astype(time_dtype(x))
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))

        def group_mean(per_channel: Array) -> Array:
            mean = per_channel.reshape(batch, groups, -1).mean(axis=-1, keepdims=True)
            return jnp.broadcast_to(mean, (batch, groups, channels // groups)).reshape(batch, channels)

        x = stored(x, scale)
        means, variances = centered_moments(x)
        mean = group_mean(means)
        variance = group_mean(variances + jnp.square(means - mean))
        gain = scale[None, :] * jax.lax.rsqrt(variance + self.epsilon)
        return stored_gradient(rescale(x, mean, gain, bias[None, :]), scale).astype(dtype)


class Conv(nn.Module):
    """A convolution of series, images or volumes, with the parameters of :class:`flax.linen.Conv`, and its fields.

    One number, or one pair, stands for all axes. The bias is added by
    :func:`~score_sde.models.pixels.add_everywhere`, whose gradient is fast on a CPU as well.
    """

    features: int
    kernel_size: int | tuple[int, ...] = 3
    strides: int = 1
    padding: str | tuple[int, int] = "SAME"
    input_dilation: int = 1
    kernel_dilation: int = 1
    use_bias: bool = True
    dtype: Any = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "batch *new_size {self.features}"]:
        """The convolved images."""
        axes = x.ndim - 2
        size = (self.kernel_size,) * axes if isinstance(self.kernel_size, int) else self.kernel_size
        padding = self.padding if isinstance(self.padding, str) else (self.padding,) * axes
        kernel = self.make_kernel((*size, x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = stored(x, kernel)
        strides, *dilations = ((n,) * axes for n in (self.strides, self.input_dilation, self.kernel_dilation))
        grid = "DHW"[-axes:]
        layout = (f"N{grid}C", f"{grid}IO", f"N{grid}C")
        h = jax.lax.conv_general_dilated(x, kernel, strides, padding, *dilations, dimension_numbers=layout)
        return stored_gradient(h if bias is None else add_everywhere(h, bias[None, :]), kernel)

    def make_kernel(self, shape: tuple[int, ...]) -> Array:
        """The weights, which are the parameters."""
        return jnp.asarray(self.param("kernel", self.kernel_init, shape, jnp.float32))


class Dense(nn.Module):
    """A dense layer at every pixel, with the parameters of :class:`flax.linen.Dense`."""

    features: int
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "batch *size {self.features}"]:
        """One product over all pixels, and the bias."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=None)
        h = (stored(x, kernel).reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], self.features)
        return stored_gradient(add_everywhere(h, bias[None, :]), kernel)


class Pointwise(nn.Module):
    """A 1x1 convolution, computed as one dense layer over all pixels: three times faster on a CPU."""

    features: int
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "batch *size {self.features}"]:
        """Mix channels at every pixel."""
        return Dense(self.features, kernel_init=ddpm_init(self.init_scale))(x)


def conv3x3(features: int, init_scale: float = 1.0, name: str | None = None) -> Conv:
    """A convolution of three pixels along every axis, with the DDPM initialization."""
    return Conv(features, kernel_init=ddpm_init(init_scale), name=name)


def residual_sum(x: Images, h: Images, rescale: bool) -> Images:
    """``x + h``, divided by sqrt 2 with ``rescale`` to preserve the variance."""
    return (x + h) / math.sqrt(2.0) if rescale else x + h


class AttentionBlock(nn.Module):
    """Single-head self-attention over pixels with a residual connection (Ho et al. 2020)."""

    skip_rescale: bool = DEFAULTS.model.skip_rescale  # divide the sum by sqrt 2
    init_scale: float = DEFAULTS.model.init_scale  # initial scale of the output projection
    min_group_channels: int = 4  # see :class:`GroupNorm`

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """``x + W_o softmax(q k^T / sqrt(C)) v``, divided by sqrt 2 with ``skip_rescale``; softmax in float32."""
        batch, channels = x.shape[0], x.shape[-1]
        h = GroupNorm(self.min_group_channels)(x)
        query, key, value = (Pointwise(channels, NIN_INIT_SCALE)(h).reshape(batch, -1, channels) for _ in range(3))
        logits = jnp.einsum("bqc,bkc->bqk", query, key, preferred_element_type=time_dtype(x)) / math.sqrt(channels)
        weights = nn.softmax(logits, axis=-1).astype(x.dtype)
        h = jnp.einsum("bqk,bkc->bqc", weights, value).reshape(x.shape)
        h = Pointwise(channels, self.init_scale)(h)
        return residual_sum(x, h, self.skip_rescale)


#: The ways in which a network may embed the noise.
EMBEDDINGS = ("positional", "fourier")


class TimeEmbedding(nn.Module):
    """The noise condition as a vector of width ``4 * width``: positional or Fourier features and two dense layers."""

    width: int
    kind: str
    activation: Activation
    fourier_scale: float = DEFAULTS.model.fourier_scale

    @nn.compact
    def __call__(self, condition: Times) -> Features:
        """Embed a batch of conditions."""
        if self.kind == "fourier":
            h = FourierEmbedding(self.width, self.fourier_scale)(condition)
        else:
            h = positional_embedding(condition, self.width)
        h = nn.Dense(4 * self.width, kernel_init=ddpm_init())(h)
        return nn.Dense(4 * self.width, kernel_init=ddpm_init())(self.activation(h))


class SpanEmbedding(nn.Module):
    """The time between two times as a vector of width ``4 * width``, which is zero at first: the second time is free.

    A network that knows a single time thus goes on as it is.
    """

    width: int
    activation: Activation

    @nn.compact
    def __call__(self, span: Times | None, condition: Times) -> Features:
        """Embed a batch of spans; ``None`` stands for 0."""
        h = positional_embedding(jnp.zeros_like(condition) if span is None else span, self.width)
        h = nn.Dense(4 * self.width, kernel_init=ddpm_init())(h)
        return nn.Dense(4 * self.width, kernel_init=nn.initializers.zeros)(self.activation(h))


def label_embedding(num_classes: int, width: int, label: Labels | None, condition: Times) -> Features:
    """A learned vector for each class, and one for no class, of the module that calls this.

    The last row stands for no class, so that one network serves classifier-free guidance.

    The label ``None``, or -1 for single examples, stands for no class. Traced labels out of range give NaN.
    """
    return nn.Embed(num_classes + 1, width, name="label_embedding")(label_rows(num_classes, label, condition))


def label_rows(num_classes: int, label: Labels | None, condition: Times) -> Labels:
    """The rows of labels in a table whose last is for no class; beyond it for labels out of range.

    >>> label_rows(3, jnp.array([0, -1, 3]), jnp.zeros(3)).tolist()
    [0, 3, 4]
    """
    index = jnp.full(condition.shape, -1) if label is None else label
    known = (index >= -1) & (index < num_classes)
    return jnp.where(known, jnp.where(index < 0, num_classes, index), num_classes + 1)


def check_labels(label: Labels, num_classes: int) -> None:
    """Refuse labels that a network has no classes for; traced labels cannot be read, and pass.

    Raises:
        UserError: For labels given to a network without classes, and for labels out of range.
    """
    if not num_classes:
        raise UserError("The network has no classes (num_classes=0), and labels were given; expected none.")
    if not is_known(label):
        return
    classes = np.asarray(label)
    if not ((classes >= -1) & (classes < num_classes)).all():
        raise UserError(
            f"The labels lie between {classes.min()} and {classes.max()}; expected 0 to {num_classes - 1}, the classes "
            "of the network, or -1 for none."
        )


def with_waves(
    x: Images, frequencies: tuple[int, ...], log_noise: Times | None = None
) -> Float[Array, "batch *size wider"]:
    """Images with ``sin(2^n 2 pi x)`` and ``cos(2^n 2 pi x)`` as further channels, for each ``n``.

    Waves as short as the distance between two gray levels show a network where in a bin a value lies (Kingma et al.
    2021, arXiv 2107.00630, appendix C). Centered images of 256 levels take ``n`` = 6 and 7.

    Given ``log sigma``, a wave of frequency ``w`` is damped by ``exp(-(w sigma)^2 / 2)``, its mean over noise of
    standard deviation ``sigma``: where noise hides it there is nothing to be seen in it, and its derivative, which
    grows like ``w``, would drown the others.

    >>> with_waves(jnp.full((1, 1, 1, 1), 0.25), (0,), jnp.array([-9.0])).ravel().round(4).tolist()[:2]
    [0.25, 1.0]
    >>> with_waves(jnp.full((1, 1, 1, 1), 0.25), (0,), jnp.array([1.0])).ravel().round(4).tolist()[:2]
    [0.25, 0.0]
    """
    sigma = 0.0 if log_noise is None else expand_like(jnp.exp(log_noise), x)
    angular = [2.0**n * 2.0 * jnp.pi for n in frequencies]
    waves = [jnp.exp(-0.5 * (w * sigma) ** 2) * wave(w * x) for w in angular for wave in (jnp.sin, jnp.cos)]
    return jnp.concatenate([x, *waves], axis=-1) if waves else x


def to_patches(x: Images, size: int) -> Float[Array, "batch *patches features"]:
    """The pixels of every square of ``size`` by ``size``, or piece of a series or volume, as channels of one pixel.

    >>> from_patches(to_patches(jnp.arange(16.0).reshape(1, 4, 4, 1), 2), 2).reshape(-1)[:6].tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    if size == 1:
        return x
    n, *lengths, channels = x.shape
    axes, counts = len(lengths), [length // size for length in lengths]
    squares = x.reshape(n, *(part for count in counts for part in (count, size)), channels)
    order = (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    return squares.transpose(order).reshape(n, *counts, size**axes * channels)


def from_patches(x: Images, size: int) -> Float[Array, "batch *pixels features"]:
    """The inverse of :func:`to_patches`."""
    if size == 1:
        return x
    n, *counts, features = x.shape
    axes, channels = len(counts), features // size ** len(counts)
    squares = x.reshape(n, *counts, *(size for _ in counts), channels)
    order = (0, *(axis for index in range(1, axes + 1) for axis in (index, index + axes)), 2 * axes + 1)
    return squares.transpose(order).reshape(n, *(count * size for count in counts), channels)
