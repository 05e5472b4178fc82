"""Convolutions whose gradients are fast in loops on a CPU as well.

The gradients of a convolution are convolutions too: by its images with the kernel reversed and its two channel axes
exchanged, and by its kernel with batch and channels exchanged. XLA brings the axes into the order that its fast code
for CPUs needs, but in the outermost computation alone (``ConvCanonicalization``): in the body of a loop gradients are
ten times as slow. On a CPU the axes are therefore brought into that order here. Other devices get the convolutions as
JAX writes them.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

# Both are linear in each argument, and each other's transposes: images of images and a kernel, and a kernel of images
# before and after.
_convolve, _correlate = Primitive("convolve"), Primitive("correlate")


class Window(NamedTuple):
    """How a kernel moves over images, axis by axis."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]

    def transposed(self, size: Sequence[int], kernel: Sequence[int], new_size: Sequence[int]) -> "Window":
        """The window of the gradient by images of a size, which the convolution takes to a new size."""
        reach = [dilation * (extent - 1) for dilation, extent in zip(self.kernel_dilation, kernel, strict=True)]
        whole = [dilation * (n - 1) for dilation, n in zip(self.input_dilation, size, strict=True)]
        made = [stride * (n - 1) for stride, n in zip(self.strides, new_size, strict=True)]
        padding = tuple(
            (far - before, far_end - end + before)
            for far, (before, _), far_end, end in zip(reach, self.padding, whole, made, strict=True)
        )
        return Window(self.input_dilation, padding, self.strides, self.kernel_dilation)


def convolved(
    x: Float[Array, "batch *size channels"],
    kernel: Array,
    strides: tuple[int, ...],
    padding: str | Sequence[tuple[int, int]],
    input_dilation: tuple[int, ...],
    kernel_dilation: tuple[int, ...],
) -> Float[Array, "batch *new_size features"]:
    """``jax.lax.conv_general_dilated`` of series, images or volumes, with a kernel ``(*size, channels, features)``.

    >>> ones = jnp.ones((1, 4, 4, 1))
    >>> convolved(ones, jnp.ones((3, 3, 1, 1)), (1, 1), "SAME", (1, 1), (1, 1))[0, :2, :2, 0].tolist()
    [[4.0, 6.0], [6.0, 9.0]]
    """
    if isinstance(padding, str):
        dilated = [d * (n - 1) + 1 for d, n in zip(kernel_dilation, kernel.shape, strict=False)]
        padding = jax.lax.padtype_to_pads(x.shape[1:-1], dilated, strides, padding)
    pads = tuple((int(before), int(after)) for before, after in padding)
    window = Window(tuple(strides), pads, tuple(input_dilation), tuple(kernel_dilation))
    return _convolve.bind(x, kernel, window=window, flipped=False)


def _plain(x: Array, kernel: Array, *, window: Window, flipped: bool) -> Array:
    """The convolution in the words of JAX; of a flipped kernel it is the gradient by the images."""
    axes = x.ndim - 2
    grid = "DHW"[-axes:]
    if flipped:
        kernel = jnp.flip(kernel, tuple(range(axes)))
    layout = (f"N{grid}C", f"{grid}{'OI' if flipped else 'IO'}", f"N{grid}C")
    return jax.lax.conv_general_dilated(x, kernel, *window, dimension_numbers=layout)


def _ordered(x: Array, kernel: Array, *, window: Window, flipped: bool) -> Array:
    """The same with the axes of the kernel in order."""
    return _plain(x, _turned(kernel) if flipped else kernel, window=window, flipped=False)


def _turned(kernel: Array) -> Array:
    return jnp.swapaxes(jnp.flip(kernel, tuple(range(kernel.ndim - 2))), -2, -1)


def _plain_gradient(x: Array, out: Array, *, window: Window, flipped: bool, extent: tuple[int, ...]) -> Array:
    """The gradient by the kernel, from the images before and the cotangent of the images after."""
    channels = (out.shape[-1], x.shape[-1]) if flipped else (x.shape[-1], out.shape[-1])
    kernel = jax.ShapeDtypeStruct((*extent, *channels), x.dtype)
    return jax.linear_transpose(functools.partial(_plain, x, window=window, flipped=flipped), kernel)(out)[0]


def _ordered_gradient(x: Array, out: Array, *, window: Window, flipped: bool, extent: tuple[int, ...]) -> Array:
    """The same as a convolution of images whose batch are the channels, and whose channels are the batch."""
    sizes = zip(window.input_dilation, x.shape[1:-1], window.strides, out.shape[1:-1], strict=True)
    spare = [stride * (made - 1) - dilation * (size - 1) for dilation, size, stride, made in sizes]
    reach = [dilation * (size - 1) for dilation, size in zip(window.kernel_dilation, extent, strict=True)]
    padding = tuple(
        (before, far + more - before) for (before, _), far, more in zip(window.padding, reach, spare, strict=True)
    )
    across = Window(window.kernel_dilation, padding, window.input_dilation, window.strides)
    x, out = jnp.swapaxes(x, 0, -1), jnp.moveaxis(out, 0, -2)
    kernel = jnp.moveaxis(_plain(x, out, window=across, flipped=False), 0, -2)
    return _turned(kernel) if flipped else kernel


def _split(like: Any, made: Any, *first: Any) -> Any:
    """An abstract array, split over devices along its first axis as is said, and nowhere else."""
    spec = PartitionSpec(*first, *(None for _ in made.shape[len(first) :]))
    return like.update(shape=made.shape, dtype=made.dtype, sharding=like.sharding.update(spec=spec))


def _shape(function: Any, *arguments: Any, **fields: Any) -> Any:
    given = (jax.ShapeDtypeStruct(part.shape, part.dtype) for part in arguments)
    return jax.eval_shape(functools.partial(function, **fields), *given)


def _jvp(primitive: Primitive, primals: Any, tangents: Any, **fields: Any) -> tuple[Array, Any]:
    (a, b), (da, db) = primals, tangents
    made = primitive.bind(a, b, **fields)
    parts = [] if isinstance(da, ad.Zero) else [primitive.bind(da, b, **fields)]
    parts += [] if isinstance(db, ad.Zero) else [primitive.bind(a, db, **fields)]
    return made, sum(parts[1:], parts[0])  # one at least is not zero


def _nothing(*arguments: Any) -> list[Any]:
    return [ad.Zero(part.aval) if ad.is_undefined_primal(part) else None for part in arguments]


def _transpose(cotangent: Any, x: Any, kernel: Any, *, window: Window, flipped: bool) -> list[Any]:
    if isinstance(cotangent, ad.Zero):
        return _nothing(x, kernel)
    if ad.is_undefined_primal(kernel):
        extent = kernel.aval.shape[:-2]
        return [None, _correlate.bind(x, cotangent, window=window, flipped=flipped, extent=extent)]
    window = window.transposed(x.aval.shape[1:-1], kernel.shape[:-2], cotangent.shape[1:-1])
    return [_convolve.bind(cotangent, kernel, window=window, flipped=not flipped), None]


def _transpose_gradient(
    cotangent: Any, x: Any, out: Any, *, window: Window, flipped: bool, extent: tuple[int, ...]
) -> list[Any]:
    if isinstance(cotangent, ad.Zero):
        return _nothing(x, out)
    if ad.is_undefined_primal(out):
        return [None, _convolve.bind(x, cotangent, window=window, flipped=flipped)]
    window = window.transposed(x.aval.shape[1:-1], extent, out.shape[1:-1])
    return [_convolve.bind(out, cotangent, window=window, flipped=not flipped), None]


def _batch(arguments: tuple[Array, Array], axes: tuple[Any, Any], **fields: Any) -> tuple[Array, int]:
    (x, kernel), (of_x, of_kernel) = arguments, axes
    if of_kernel is not None:
        return jax.vmap(functools.partial(_plain, **fields), axes)(x, kernel), 0
    x = jnp.moveaxis(x, of_x, 0)
    made = _convolve.bind(x.reshape(-1, *x.shape[2:]), kernel, **fields)
    return made.reshape(*x.shape[:2], *made.shape[1:]), 0


def _batch_gradient(arguments: tuple[Array, Array], axes: tuple[Any, Any], **fields: Any) -> tuple[Array, int]:
    return jax.vmap(functools.partial(_plain_gradient, **fields), axes)(*arguments), 0


_RULES = {
    _convolve: (_plain, _ordered, _transpose, _batch),
    _correlate: (_plain_gradient, _ordered_gradient, _transpose_gradient, _batch_gradient),
}
for _primitive, (_form, _on_cpu, _transposed, _batched) in _RULES.items():
    _primitive.def_impl(_form)
    ad.primitive_jvps[_primitive] = functools.partial(_jvp, _primitive)
    ad.primitive_transposes[_primitive] = _transposed
    batching.primitive_batchers[_primitive] = _batched
    mlir.register_lowering(_primitive, mlir.lower_fun(_form, multiple_results=False))
    mlir.register_lowering(_primitive, mlir.lower_fun(_on_cpu, multiple_results=False), platform="cpu")
_convolve.def_abstract_eval(lambda x, kernel, **own: _split(x, _shape(_plain, x, kernel, **own), x.sharding.spec[0]))
_correlate.def_abstract_eval(lambda x, out, **own: _split(x, _shape(_plain_gradient, x, out, **own)))
