"""Halving and doubling of series, images and volumes: plain, with a convolution, or with a finite impulse response.

The filter of the last (FIR) comes from StyleGAN2 (Karras et al. 2020, arXiv 1912.04958): a separable kernel, by default
``(1, 3, 3, 1)``, normalized to sum 1, which suppresses aliasing. Written as sums of shifted images, it needs no custom
kernel.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.models.layers import Conv, ddpm_init
from score_sde.models.pixels import Images, add_everywhere

Resized = Float[Array, "batch *new_size new_channels"]
Kernel = tuple[float | int, ...]


def upsample(x: Images) -> Resized:
    """Nearest-neighbor upsampling by two, as a broadcast."""
    batch, *size, channels = x.shape
    spread = jnp.expand_dims(x, tuple(range(2, 2 * len(size) + 1, 2)))
    x = jnp.broadcast_to(spread, (batch, *(n for length in size for n in (length, 2)), channels))
    return x.reshape(batch, *(2 * length for length in size), channels)


def downsample(x: Images) -> Resized:
    """Average pooling by two."""
    batch, *size, channels = x.shape
    pairs = x.reshape(batch, *(n for length in size for n in (length // 2, 2)), channels)
    return pairs.mean(axis=tuple(range(2, 2 * len(size) + 1, 2)))


def fir_filter(
    x: Images, taps: Sequence[float | int], *, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)
) -> Resized:
    """Along all axes of the images: insert zeros, pad, convolve with ``taps``, and keep every ``down``-th pixel.

    ``up - 1`` zeros are inserted after every pixel, and negative pads crop. The kernel is the outer product of ``taps``
    with itself.
    """
    for axis in range(1, x.ndim - 1):
        # The last pixel, too, is followed by up - 1 zeros, which lax.pad does not count as interior.
        config = [(0, 0, 0)] * x.ndim
        config[axis] = (pad[0], pad[1] + up - 1, up - 1)
        padded = jax.lax.pad(x, jnp.zeros((), x.dtype), config)
        length = padded.shape[axis] - len(taps) + 1
        shifted = [
            tap * jax.lax.slice_in_dim(padded, first, first + length, down, axis)
            for first, tap in enumerate(reversed(taps))  # a convolution flips its kernel
        ]
        x = functools.reduce(jnp.add, shifted)
    return x


def fir_upsample(x: Images, kernel: Kernel) -> Resized:
    """Zero insertion by two and filtering with gain 2 along every axis, which preserves the mean."""
    extra = len(kernel) - 2
    return fir_filter(x, _normalized(kernel, gain=2.0), up=2, pad=((extra + 1) // 2 + 1, extra // 2))


def fir_downsample(x: Images, kernel: Kernel) -> Resized:
    """Filtering, then every second pixel."""
    extra = len(kernel) - 2
    return fir_filter(x, _normalized(kernel), down=2, pad=((extra + 1) // 2, extra // 2))


class Upsample(nn.Module):
    """Doubling between levels."""

    features: int | None = None  # channels of the convolution; ``None`` keeps them
    with_conv: bool = False  # follow with a 3x3 convolution; with a kernel it is a transposed convolution, filtered
    kernel: Kernel | None = None  # FIR kernel, or ``None`` for nearest neighbors

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        """Images of twice the size along every axis."""
        features = self.features or x.shape[-1]
        if self.kernel is None:
            x = upsample(x)
            return Conv(features, kernel_init=ddpm_init())(x) if self.with_conv else x
        if not self.with_conv:
            return fir_upsample(x, self.kernel)
        # The filter comes after the convolution and must not touch the bias: at the border it sees zeros.
        x = Conv(features, input_dilation=2, padding=(2, 2), use_bias=False, kernel_init=ddpm_init())(x)
        extra = len(self.kernel) - 4
        x = fir_filter(x, _normalized(self.kernel, gain=2.0), pad=((extra + 1) // 2 + 1, extra // 2 + 1))
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, (features,)), x.dtype)
        return add_everywhere(x, bias[None, :])


class Downsample(nn.Module):
    """Halving between levels; fields as in :class:`Upsample`, average pooling without kernel and convolution."""

    features: int | None = None
    with_conv: bool = False
    kernel: Kernel | None = None

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        """Images of half the size along every axis."""
        features = self.features or x.shape[-1]
        if not self.with_conv:
            return downsample(x) if self.kernel is None else fir_downsample(x, self.kernel)
        if self.kernel is None:
            return Conv(features, strides=2, padding=(0, 1), kernel_init=ddpm_init())(x)
        extra = len(self.kernel)
        x = fir_filter(x, _normalized(self.kernel), pad=((extra + 1) // 2, extra // 2))
        return Conv(features, strides=2, padding="VALID", kernel_init=ddpm_init())(x)


def _normalized(kernel: Kernel, gain: float = 1.0) -> list[float]:
    """The taps of one axis, summing to ``gain``."""
    taps = np.asarray(kernel, np.float64)
    return (gain * taps / taps.sum()).tolist()
