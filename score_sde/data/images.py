"""Encoded images: what is in one, and its pixels."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from score_sde.errors import UserError

_GREY_MODES = frozenset({"1", "L", "LA"})
_COLOUR_MODES = frozenset({"RGB", "RGBA", "P"})


class ImageFormat(NamedTuple):
    """Size and kind of an image.

    Attributes:
        height: in pixels.
        width: in pixels.
        channels: 1 if it is grey, else 3.
    """

    height: int
    width: int
    channels: int


def image_format(file: Path | bytes, name: str) -> ImageFormat:
    """The format of an image, from its header alone.

    Args:
        file: the image's path, or the bytes of its file.
        name: what to call it in errors.

    Raises:
        UserError: for a damaged file, or more than 8 bits per channel.
    """
    from PIL import Image

    with _reading(name), Image.open(_openable(file)) as image:
        if image.mode not in _GREY_MODES | _COLOUR_MODES:
            raise UserError(
                f"{name} has pixel format {image.mode}, expected 8-bit grey or RGB. Convert it, for example: "
                "mogrify -colorspace sRGB -depth 8 FILE."
            )
        return ImageFormat(image.height, image.width, 1 if image.mode in _GREY_MODES else 3)


def decode_image(file: Path | bytes, name: str, channels: int) -> np.ndarray:
    """The pixels of an image: uint8 ``(height, width, channels)``.

    Args:
        file: the image's path, or the bytes of its file.
        name: what to call it in errors.
        channels: 1 or 3; a grey image has three equal channels if 3 are asked for.

    Raises:
        UserError: for a damaged file, or transparent pixels.

    Example:
        >>> pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
        >>> bool((decode_image(encode_png(pixels), "tiny", 3) == pixels).all())
        True
    """
    from PIL import Image

    with _reading(name), Image.open(_openable(file)) as image:
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise UserError(
                f"{name} has transparent pixels, expected an opaque image, because what lies behind them is a choice. "
                "Flatten it, for example: mogrify -background white -alpha remove FILE."
            )
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        return pixels.reshape(*pixels.shape[:2], channels)


def encode_png(pixels: np.ndarray) -> bytes:
    """An image as the bytes of a PNG file.

    Args:
        pixels: uint8 ``(height, width, channels)`` with 1 or 3 channels.
    """
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)).save(sink, format="PNG")
    return sink.getvalue()


def _openable(file: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(file) if isinstance(file, bytes) else file


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what Pillow raises over a damaged file into an error that names the file."""
    from PIL import Image

    try:
        yield
    # Which of these a damaged file raises depends on its format and on where the damage is.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{name} cannot be read ({error}), expected an intact image. Repair or remove it.") from error
