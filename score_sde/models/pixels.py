"""Sums over the pixels of every image and channel, and their transpose, which repeats a number at every pixel.

An image is here anything on a grid: a series of one axis, an image of two, a volume of three.

Normalizations sum over pixels, and so do the gradients of everything that is added or multiplied at all pixels, such as
biases. XLA's loop for such a reduction uses no vector instructions on a CPU. There the rows of an image are folded into
a few parts, whose sum is fused with the computation of the summands, and the rest is a product with ones: together 4 to
10 times faster. Other devices reduce as usual. Both functions can be differentiated forward and backward, and batched.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

Images = Float[Array, "batch *size channels"]  # series, images or volumes
PerChannel = Float[Array, "batch channels"]
Row = Float[Array, "#batch channels"]  # one per image, or one for all
Size = tuple[int, ...]

_PARTS = 8
_FEW = 16  # pixels that any loop sums soon enough, while its code is sooner compiled
_sum, _repeat = Primitive("pixel_sum"), Primitive("per_pixel")  # linear, and the transposes of each other


def pixel_sum(x: Images) -> PerChannel:
    """The sum over all pixels, for every image and channel.

    >>> pixel_sum(jnp.ones((1, 2, 3, 4))).tolist()
    [[6.0, 6.0, 6.0, 6.0]]
    """
    return _sum.bind(x)


def per_pixel(values: PerChannel, size: Size) -> Images:
    """The same values at every pixel of images of a size, the transpose of :func:`pixel_sum`.

    >>> per_pixel(jnp.ones((1, 4)), (2, 3)).shape
    (1, 2, 3, 4)
    """
    return _repeat.bind(values, size=size)


def _reduced(x: Images) -> PerChannel:
    return jnp.sum(x, axis=tuple(range(1, x.ndim - 1)))


def _folded(x: Images) -> PerChannel:
    """The sum of a few parts, then of what is left as a batch of products of a row of ones and a matrix."""
    batch, *size, channels = x.shape
    pixels = math.prod(size)
    if pixels <= _FEW:
        return _reduced(x)
    parts = math.gcd(pixels, _PARTS)
    split = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(batch, parts, -1, channels)
    folded = functools.reduce(jnp.add, (split[:, part] for part in range(parts)))
    ones, axes = jnp.ones_like(folded[..., 0]), (((1,), (1,)), ((0,), (0,)))
    return jax.lax.dot_general(ones, folded, axes, precision=jax.lax.Precision.HIGHEST).astype(x.dtype)


def _repeated(values: PerChannel, size: Size) -> Images:
    spread = jnp.expand_dims(values, tuple(range(1, 1 + len(size))))
    return jnp.broadcast_to(spread, (values.shape[0], *size, values.shape[1]))


def _batched(primitive: Primitive, arguments: Any, axes: Any, **fields: Any) -> tuple[Array, int]:
    """A batch of batches is one batch."""
    (x,), (axis,) = arguments, axes
    x = jnp.moveaxis(x, axis, 0)
    out = primitive.bind(x.reshape(-1, *x.shape[2:]), **fields)
    return out.reshape(*x.shape[:2], *out.shape[1:]), 0


def _abstract(x: Any, size: Size = ()) -> Any:
    """The abstract array with the first and the last axis of ``x`` and axes of a size between; other facts stay."""
    spec = PartitionSpec(x.sharding.spec[0], *(None for _ in size), x.sharding.spec[-1])
    return x.update(shape=(x.shape[0], *size, x.shape[-1]), sharding=x.sharding.update(spec=spec))


for _primitive, _form, _on_cpu in ((_sum, _reduced, _folded), (_repeat, _repeated, _repeated)):
    _primitive.def_impl(_form)
    _primitive.def_abstract_eval(_abstract)
    batching.primitive_batchers[_primitive] = functools.partial(_batched, _primitive)
    mlir.register_lowering(_primitive, mlir.lower_fun(_form, multiple_results=False))
    mlir.register_lowering(_primitive, mlir.lower_fun(_on_cpu, multiple_results=False), platform="cpu")
ad.deflinear2(_sum, lambda cotangent, x: [_repeat.bind(cotangent, size=x.aval.shape[1:-1])])
ad.deflinear2(_repeat, lambda cotangent, values, size: [_sum.bind(cotangent)])


def pixel_mean(x: Images) -> PerChannel:
    """The mean over all pixels, for every image and channel."""
    return pixel_sum(x) / math.prod(x.shape[1:-1])


def add_everywhere(x: Images, values: Row) -> Images:
    """Add a bias, or a vector per image, at every pixel."""
    return x + per_pixel(jnp.broadcast_to(values, (x.shape[0], x.shape[-1])), x.shape[1:-1])


def centered_moments(x: Images) -> tuple[PerChannel, PerChannel]:
    """Mean and biased variance over the pixels of every image and channel.

    The variance is a mean of squares about the mean: a difference of mean squares would lose digits beside a large
    mean. A sum of squares is least about the mean, so that its gradient does not pass through the mean.
    """
    means = pixel_mean(x)
    return means, pixel_mean(jnp.square(x - per_pixel(jax.lax.stop_gradient(means), x.shape[1:-1])))


def rescale(x: Images, mean: PerChannel, gain: PerChannel, shift: Row | None = None) -> Images:
    """``(x - mean) gain + shift`` at every pixel, whose gradient takes two sums over pixels."""
    fixed, size = jax.lax.stop_gradient(mean), x.shape[1:-1]
    h = (x - per_pixel(fixed, size)) * per_pixel(gain, size)
    # The subtracted mean is constant above. Its gradient goes through the shift, where it needs no sum of its own.
    through = -jax.lax.stop_gradient(gain) * (mean - fixed)
    return h + per_pixel(through if shift is None else through + shift, size)
