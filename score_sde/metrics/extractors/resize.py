"""Bilinear resizing exactly as in other programs, because different resizing gives different distances."""

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.metrics.extractors.layers import Images


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
