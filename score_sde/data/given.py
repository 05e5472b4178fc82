"""A file of images, or of observations of images, that the user gives instead of a data set."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from score_sde.data.images import decode_image
from score_sde.errors import UserError
from score_sde.files import array_names, read_arrays

_REMEDY = "expected an image, or an intact .npz file of plain arrays"
_IMAGES = ("images", "x", "samples")


class Given(NamedTuple):
    """The contents of a file: images, or observations."""

    levels: np.ndarray | None  # gray levels of images ``(n, height, width, channels)``; ``None`` for observations
    y: np.ndarray | None = None  # observations ``(n, *observed)`` in the range of the network; ``None`` for images
    truth: np.ndarray | None = None  # the images behind the observations in this range, if they are known


def load_given(path: str, shape: tuple[int, ...], num_grey_levels: int) -> Given:
    """The images or observations in a file; images of other gray levels are rounded to those of the data.

    An ``.npz`` file with an array ``y`` holds observations, as floats, and the images behind them if it has ``truth``
    too. Any other holds gray levels under ``images``, ``x`` or ``samples``, of ``num_levels`` (256 by default). Every
    other file is an image of 8 bits.

    Raises:
        UserError: For a missing or unreadable file, and arrays of another kind or shape.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"config.conditioning.images is {path}, and there is no such file; {_REMEDY}.")
    if file.suffix.lower() != ".npz":
        pixels = decode_image(file, path, shape[-1])
        if pixels.shape != shape:
            height, width = pixels.shape[:2]
            raise UserError(
                f"{path} is an image of {height} x {width} pixels; expected {shape[0]} x {shape[1]}, the size of the "
                "images of the run. Resize or crop it."
            )
        return Given(_rounded(pixels[None], 256, num_grey_levels))
    names = array_names(file, remedy=_REMEDY) or []
    if "y" in names:
        arrays = read_arrays(file, ("y", "truth"), remedy=_REMEDY) or {}
        y, truth = arrays["y"], arrays.get("truth")
        _check_floats(path, "y", y)
        if truth is not None:
            _check_floats(path, "truth", truth)
            if truth.shape != (len(y), *shape):
                raise _unlike(path, "truth", truth, f"floats of shape {(len(y), *shape)}, an image for each of y")
        return Given(None, y.astype(np.float32), None if truth is None else truth.astype(np.float32))
    key = next((name for name in _IMAGES if name in names), None)
    if key is None:
        raise UserError(f"{path} has the arrays {sorted(names)}; expected images or x, or observations under y.")
    arrays = read_arrays(file, (key, "num_levels"), remedy=_REMEDY) or {}
    levels, own = arrays[key], arrays.get("num_levels", np.asarray(256))
    if levels.dtype != np.uint8 or levels.shape[1:] != shape or not len(levels):
        raise _unlike(path, key, levels, f"uint8 images of shape (n, {', '.join(map(str, shape))})")
    if own.ndim or own.dtype.kind not in "iu" or not max(int(levels.max()), 1) < int(own) <= 256:
        raise UserError(
            f"{path} has gray levels to {levels.max()}, and num_levels is {own}; expected one number above, up to 256."
        )
    return Given(_rounded(levels, int(own), num_grey_levels))


def _rounded(levels: np.ndarray, own: int, wanted: int) -> np.ndarray:
    """Gray levels of one number of levels as those of another.

    >>> _rounded(np.array([0, 100, 255], np.uint8), 256, 17).tolist()
    [0, 6, 16]
    """
    return levels if own == wanted else np.rint(levels * ((wanted - 1) / (own - 1))).astype(np.int32)


def _check_floats(path: str, name: str, values: np.ndarray) -> None:
    if values.dtype.kind != "f" or values.ndim < 2 or not values.size:
        raise _unlike(path, name, values, "floats with an axis of examples first")
    if not np.isfinite(values).all():
        raise UserError(f"{path} has numbers in {name} that are not finite; expected finite ones.")


def _unlike(path: str, name: str, values: np.ndarray, expected: str) -> UserError:
    return UserError(f"{path} has {values.dtype} of shape {values.shape} under {name}; expected {expected}.")
