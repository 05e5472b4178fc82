"""Sums over the pixels of every image and channel, and their transpose, which repeats a number at every pixel.

Normalizations sum over pixels, and so do the gradients of everything that is added or multiplied at all pixels, such as
biases. XLA's loop for such a reduction uses no vector instructions on a CPU. There the rows of an image are folded into
a few parts, whose sum is fused with the computation of the summands, and the rest is a product with ones: together 4 to
10 times faster. Other devices reduce as usual. Both functions can be differentiated forward and backward, and batched.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Images = Float[Array, "batch height width channels"]
PerChannel = Float[Array, "batch channels"]
Row = Float[Array, "#batch channels"]  # one per image, or one for all
Size = tuple[int, int]

_PARTS = 8


def _reduce(x: Images) -> PerChannel:
    return jnp.sum(x, axis=(1, 2))


def _broadcast(values: PerChannel, size: Size) -> Images:
    return jnp.broadcast_to(values[:, None, None, :], (values.shape[0], *size, values.shape[1]))


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _product(x: Float[Array, "batch *size channels"]) -> PerChannel:
    """The sum as a batch of products of a row of ones and a matrix."""
    flat = _wide(x).reshape(x.shape[0], -1, x.shape[-1])
    ones, axes = jnp.ones(flat.shape[:2], flat.dtype), (((1,), (1,)), ((0,), (0,)))
    return jax.lax.dot_general(ones, flat, axes, precision=jax.lax.Precision.HIGHEST).astype(x.dtype)


def _folded(x: Images) -> PerChannel:
    batch, height, width, channels = x.shape
    parts = math.gcd(height * width, _PARTS)
    folded = _wide(x).reshape(batch, parts, -1, channels)
    return _product(functools.reduce(jnp.add, (folded[:, part] for part in range(parts)))).astype(x.dtype)


def _repeated(values: PerChannel, size: Size) -> Images:
    """The broadcast in a form that JAX transposes to :func:`_folded`."""
    batch, channels = values.shape
    parts = math.gcd(size[0] * size[1], _PARTS)
    ones = jnp.ones((batch, size[0] * size[1] // parts), _wide(values).dtype)
    axes = (((), ()), ((0,), (0,)))
    part = jax.lax.dot_general(ones, _wide(values), axes, precision=jax.lax.Precision.HIGHEST)
    return jnp.concatenate(parts * [part], axis=1).reshape(batch, *size, channels).astype(values.dtype)


@jax.custom_jvp
def pixel_sum(x: Images) -> PerChannel:
    """The sum over all pixels, for every image and channel.

    >>> pixel_sum(jnp.ones((1, 2, 3, 4))).tolist()
    [[6.0, 6.0, 6.0, 6.0]]
    """
    return jax.lax.platform_dependent(x, cpu=_folded, default=_reduce)


@pixel_sum.defjvp
def _(primals: tuple[Images], tangents: tuple[Images]) -> tuple[PerChannel, PerChannel]:
    # The transpose of a sum of parts would be a concatenation; the transpose of a product with ones is a broadcast.
    return pixel_sum(*primals), jax.lax.platform_dependent(*tangents, cpu=_product, default=_reduce)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def per_pixel(values: PerChannel, size: Size) -> Images:
    """The same values at every pixel of images of a height and width, the transpose of :func:`pixel_sum`.

    >>> per_pixel(jnp.ones((1, 4)), (2, 3)).shape
    (1, 2, 3, 4)
    """
    return _broadcast(values, size)


@per_pixel.defjvp
def _(size: Size, primals: tuple[PerChannel], tangents: tuple[PerChannel]) -> tuple[Images, Images]:
    repeated, broadcast = (functools.partial(function, size=size) for function in (_repeated, _broadcast))
    return per_pixel(*primals, size), jax.lax.platform_dependent(*tangents, cpu=repeated, default=broadcast)


def pixel_mean(x: Images) -> PerChannel:
    """The mean over all pixels, for every image and channel."""
    return pixel_sum(x) / (x.shape[1] * x.shape[2])


def add_everywhere(x: Images, values: Row) -> Images:
    """Add a bias, or a vector per image, at every pixel."""
    return x + per_pixel(jnp.broadcast_to(values, (x.shape[0], x.shape[-1])), x.shape[1:3])


def centered_moments(x: Images) -> tuple[PerChannel, PerChannel]:
    """Mean and biased variance over the pixels of every image and channel.

    The variance is a mean of squares about the mean: a difference of mean squares would lose digits beside a large
    mean. A sum of squares is least about the mean, so that its gradient does not pass through the mean.
    """
    means = pixel_mean(x)
    return means, pixel_mean(jnp.square(x - per_pixel(jax.lax.stop_gradient(means), x.shape[1:3])))


def rescale(x: Images, mean: PerChannel, gain: PerChannel, shift: Row | None = None) -> Images:
    """``(x - mean) gain + shift`` at every pixel, whose gradient takes two sums over pixels."""
    fixed, size = jax.lax.stop_gradient(mean), x.shape[1:3]
    h = (x - per_pixel(fixed, size)) * per_pixel(gain, size)
    # The subtracted mean is constant above. Its gradient goes through the shift, where it needs no sum of its own.
    through = -jax.lax.stop_gradient(gain) * (mean - fixed)
    return h + per_pixel(through if shift is None else through + shift, size)
