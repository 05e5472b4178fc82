"""Pure NumPy functions of a batch."""

import numpy as np

from score_sde.data.base import SourceInfo
from score_sde.errors import UserError


def random_flip(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror each image left to right with probability one half.

    Exactly one uniform number is drawn per image, in order, so that a generator advanced by ``k`` flips the images
    ``k, k + 1, ...`` of a stream exactly as one that has processed all earlier images.

    >>> image = np.arange(3).reshape(1, 1, 3, 1)
    >>> random_flip(image, np.random.default_rng(1)).ravel().tolist()
    [0, 1, 2]
    >>> random_flip(image, np.random.default_rng(3)).ravel().tolist()
    [2, 1, 0]
    """
    flip = rng.random(len(images)) < 0.5
    flipped = images.copy()
    flipped[flip] = images[flip, :, ::-1]
    return flipped


def check_images(batch: np.ndarray, info: SourceInfo) -> None:
    """Refuse a batch that disagrees with ``info``.

    A batch ``(n, *info.shape)`` holds uint8 levels below ``info.num_grey_levels``, or finite float32 if that is None.

    Raises:
        UserError: for a wrong shape, number of channels, dtype or range.

    >>> info = SourceInfo("digits", (8, 8, 1), 17, 10)
    >>> check_images(np.zeros((2, 8, 8, 1), np.uint8), info)
    >>> check_images(np.full((2, 8, 8, 1), 17, np.uint8), info)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    score_sde.errors.UserError: digits: found level 17, expected 0 to 16. ...
    """
    if batch.shape[1:] != tuple(info.shape):
        raise UserError(
            f"{info.name}: a batch has shape {batch.shape}, expected (n, {', '.join(map(str, info.shape))})."
            f"{_shape_hint(batch.shape, tuple(info.shape))}"
        )
    if info.num_grey_levels is None:
        _check_continuous(batch, info.name)
        return
    if batch.dtype != np.uint8:
        raise UserError(
            f"{info.name}: images are {batch.dtype}, expected uint8 levels 0 to {info.num_grey_levels - 1}. Pass the "
            "integer levels; scaling to [-1, 1] happens after dequantization."
        )
    highest = int(batch.max(initial=0))
    if highest >= info.num_grey_levels:
        raise UserError(
            f"{info.name}: found level {highest}, expected 0 to {info.num_grey_levels - 1}. State the true number of "
            "levels (256 for 8-bit images) or rescale the images."
        )


def _check_continuous(batch: np.ndarray, name: str) -> None:
    if batch.dtype != np.float32:
        raise UserError(
            f"{name}: continuous data are {batch.dtype}, expected float32. Convert with .astype('float32')."
        )
    if not np.isfinite(batch).all():
        bad = int(np.argmax(~np.isfinite(batch).reshape(len(batch), -1).all(axis=1)))
        raise UserError(
            f"{name}: example {bad} of a batch is not finite, expected finite numbers. Remove or repair it."
        )


def _shape_hint(got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """The likeliest mistake behind a wrong image shape."""
    if len(expected) != 3:
        return " Reshape the data."
    height, width, channels = expected
    if got[1:] == (channels, height, width):
        return " The channels seem to come first: transpose with .transpose(0, 2, 3, 1)."
    if got[1:] == (height, width):
        return " The channel axis is missing: add it with [..., None]."
    if len(got) == 4 and got[1:3] == (height, width):
        return f" The images have {got[3]} channels instead of {channels}: convert them, or choose another source."
    return " Resize the images, or choose the configuration that fits them."
