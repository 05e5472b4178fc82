"""The layers of the extractors' networks, and the reading and checking of their weights.

A network is a function of a ``conv`` that it calls with every :class:`Layer`, so that one definition serves to compute
(:func:`folded`) and to list the weights that a file must hold (:func:`kernels_of`). Batch normalization at inference is
an affine map of channels, so it is folded into the preceding convolution.

Images are resized exactly as in other programs, because different resizing gives different distances.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.errors import UserError
from score_sde.interop import file_kind, read_safetensors, read_torch
from score_sde.typing import Params

Images: TypeAlias = Float[Array, "batch _ _ _"]  # height, width and channels, which layers change
Shapes: TypeAlias = dict[str, tuple[int, ...]]

PRECISION = jax.lax.Precision.HIGHEST  # a TPU would round to bfloat16, and measure another distance
_LISTED = 5  # names in an error message


class Layer(NamedTuple):
    """A convolution without bias, then normalization."""

    name: str  # its name in the network
    channels: int  # the number of output channels
    kernel: tuple[int, int] = (1, 1)  # height and width
    stride: int = 1  # every how many pixels there is an output
    padding: str = "SAME"  # ``"SAME"`` with zeros, or ``"VALID"`` without
    depthwise: bool = False  # whether the channels are kept apart


Conv: TypeAlias = Callable[[Layer, Images], Images]


def convolve(
    x: Images,
    kernel: Float[Array, "height width in out"],
    bias: Float[Array, " out"],
    *,
    stride: int = 1,
    padding: str = "SAME",
) -> Images:
    """A convolution with bias.

    >>> convolve(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5)), jnp.zeros(5), stride=2).shape
    (1, 2, 2, 5)
    """
    layout = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=layout, precision=PRECISION
    )
    return y + bias.reshape(1, 1, 1, -1)


def convolve_each(
    x: Images, kernel: Float[Array, "height width 1 channels"], bias: Float[Array, " channels"], *, stride: int = 1
) -> Images:
    """A separate convolution of every channel, with bias and zero padding, as with ``"SAME"``.

    It is a sum of shifted images: the grouped convolutions of XLA take 20 to 250 times as long on a CPU.

    >>> convolve_each(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2)), jnp.zeros(2), stride=2)[0, :, :, 0].tolist()
    [[9.0, 6.0], [6.0, 4.0]]
    """
    rows, columns = kernel.shape[:2]
    height, width = (-(-size // stride) for size in x.shape[1:3])
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (rows, columns), (stride, stride), "SAME")
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    y = bias.reshape(1, 1, 1, -1)
    for i in range(rows):
        for j in range(columns):
            shifted = padded[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
            y = y + shifted * kernel[i, j].reshape(1, 1, 1, -1)
    return y


def max_pool(x: Images, *, stride: int, padding: str) -> Images:
    """The largest number in every 3x3 window, excluding the padding."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding)


def mean_pool(x: Images) -> Images:
    """The mean of the 3x3 window around every pixel, over the pixels that lie inside the image.

    >>> float(abs(mean_pool(jnp.ones((1, 5, 4, 2))) - 1).max()) < 1e-6
    True
    """
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    # XLA takes minutes to fold the sum over an image of ones into a constant.
    rows, columns = (_inside(size) for size in x.shape[1:3])
    return total / jnp.asarray(np.outer(rows, columns)[None, :, :, None], x.dtype)


def _inside(size: int) -> np.ndarray:
    """The number of ``i - 1, i, i + 1`` in ``0 .. size - 1``, for every ``i``."""
    index = np.arange(size)
    return np.minimum(index + 1, size - 1) - np.maximum(index - 1, 0) + 1


def resize_tensorflow1(x: Images, size: tuple[int, int]) -> Images:
    """As ``tf.image.resize_bilinear`` of TensorFlow 1 with its defaults, as in the definition of FID.

    Pixel ``i`` of the output lies at ``i in / out`` of the input: the left edges of the images are aligned, not their
    areas, and the last ``in / out`` pixels repeat the edge. An image is not smoothed before it is reduced.

    >>> resize_tensorflow1(jnp.arange(2.0).reshape(1, 1, 2, 1), (1, 4)).ravel().tolist()
    [0.0, 0.5, 1.0, 1.0]
    """
    return _interpolate(_interpolate(x, size[1], axis=2), size[0], axis=1)


def _interpolate(x: Images, size: int, *, axis: int) -> Images:
    # In single precision, as TensorFlow computes the positions.
    place = np.arange(size, dtype=np.float32) * np.float32(x.shape[axis] / size)
    low = place.astype(np.int32)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    weight = (place - low.astype(np.float32)).reshape([-1 if i == axis else 1 for i in range(4)])
    left, right = jnp.take(x, low, axis=axis), jnp.take(x, high, axis=axis)
    return left + (right - left) * jnp.asarray(weight)


def resize_half_pixel(x: Images, size: tuple[int, int], *, antialias: bool) -> Images:
    """As ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``: centers of pixels at halves.

    ``antialias`` smooths an image before it is reduced, like the argument of the same name in PyTorch.

    >>> resize_half_pixel(jnp.arange(2.0).reshape(1, 1, 2, 1), (1, 4), antialias=False).ravel().tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), method="bilinear", antialias=antialias)


class Tensors(NamedTuple):
    """The names in a file of the parts of a convolution and of its normalization."""

    kernel: str
    norm: str


def kernels_of(network: Callable[[Conv, Images], Any], shape: tuple[int, ...]) -> Shapes:
    """The kernels (height, width, in, out) of all layers of a ``network(conv, x)`` for images of a shape, by name."""
    found: Shapes = {}

    def conv(layer: Layer, x: Images) -> Images:
        inputs = 1 if layer.depthwise else x.shape[-1]
        found[layer.name] = (*layer.kernel, inputs, layer.channels)
        return folded({layer.name: (jnp.zeros(found[layer.name]), jnp.zeros(layer.channels))})(layer, x)

    jax.eval_shape(lambda x: network(conv, x), jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return found


def tensors_of(kernels: Shapes, names: Callable[[str], Tensors]) -> Shapes:
    """The tensors of a file, in PyTorch's layout, with the weights of layers with these kernels."""
    found: Shapes = {}
    for name, (*size, inputs, channels) in kernels.items():
        tensors = names(name)
        found[tensors.kernel] = (channels, inputs, *size)
        found.update({f"{tensors.norm}.{part}": (channels,) for part in _NORM})
    return found


_NORM = ("weight", "bias", "running_mean", "running_var")


def fold(tensors: Mapping[str, np.ndarray], names: Tensors, *, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (height, width, in, out) and bias of a convolution and its normalization combined, computed in float64.

    With ``s = weight / sqrt(running_var + epsilon)`` the kernel is scaled by ``s``, and the bias is
    ``bias - s running_mean``.
    """
    weight, bias, mean, variance = (np.asarray(tensors[f"{names.norm}.{part}"], np.float64) for part in _NORM)
    scale = weight / np.sqrt(variance + epsilon)
    kernel = np.asarray(tensors[names.kernel], np.float64).transpose(2, 3, 1, 0) * scale
    return kernel.astype(np.float32), (bias - scale * mean).astype(np.float32)


def dense(x: Float[Array, "batch in"], kernel: Float[Array, "in out"]) -> Float[Array, "batch out"]:
    """A matrix product in full precision."""
    return jnp.matmul(x, kernel, precision=PRECISION)


def to_rgb(x: Images) -> Images:
    """Gray images as color images with three equal channels; color images unchanged.

    >>> to_rgb(jnp.ones((1, 2, 2, 1))).shape
    (1, 2, 2, 3)
    """
    return jnp.broadcast_to(x, (*x.shape[:-1], 3))


def folded(params: Params) -> Conv:
    """The convolutions of folded parameters, by the names of the layers; without an activation."""

    def conv(layer: Layer, x: Images) -> Images:
        kernel, bias = params[layer.name]
        if layer.depthwise:
            return convolve_each(x, kernel, bias, stride=layer.stride)
        return convolve(x, kernel, bias, stride=layer.stride, padding=layer.padding)

    return conv


def file_sha256(path: Path) -> str:
    """The SHA-256 of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: str | os.PathLike[str], expected: Shapes, *, network: str, hint: str) -> dict[str, np.ndarray]:
    """The tensors of a network from a file of PyTorch or safetensors.

    Counters of training steps, which PyTorch keeps beside its normalizations, are left out.

    ``hint`` is the remedy if the file holds something else.

    Raises:
        UserError: If the file cannot be read, or its tensors differ from the expected ones.
    """
    value: Any = read_safetensors(path)[0] if file_kind(path) == "safetensors" else read_torch(path)
    if not isinstance(value, dict) or not all(isinstance(array, np.ndarray) for array in value.values()):
        raise UserError(f"{path} does not hold the weights of {network}: it is not a table of named tensors. {hint}")
    tensors = {name: array for name, array in value.items() if not str(name).endswith(".num_batches_tracked")}
    wrong = [
        f"{name} {tensors[name].shape} instead of {shape}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [str(name) for name in tensors if name not in expected],
        "of another shape": wrong,
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems.items() if names)
        raise UserError(f"{path} does not hold the weights of {network}. Tensors {listed}. {hint}")
    return tensors


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + rest
