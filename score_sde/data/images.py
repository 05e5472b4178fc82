"""Encoded images: their formats and pixels.

An image comes upright, by its orientation tag. Palettes become colors, and gray levels of 1, 2 or 4 bits become 8-bit
ones. A color profile is ignored: the numbers in the file are used. Of a camera's file of several pictures the first is
read. Images that would lose information are refused: transparency, animation, more than 8 bits, other color spaces.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from score_sde.errors import UserError, explained
from score_sde.files import reason_of

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # no others are tried, whatever a file claims to be
_GRAY_MODES = frozenset({"1", "L", "LA"})
_COLOR_MODES = frozenset({"RGB", "RGBA", "P"})
_ORIENTATION = 0x0112  # the tag of EXIF
_SIDEWAYS = (5, 6, 7, 8)  # its values that exchange height and width


class ImageFormat(NamedTuple):
    """Size and kind of an image."""

    height: int  # in pixels, of the upright image
    width: int  # in pixels, likewise
    channels: int  # 1 if it is gray, else 3
    turned: bool = False  # whether its orientation tag requires turning or mirroring
    profiled: bool = False  # whether it has a color profile other than sRGB


def image_format(file: Path | bytes, name: str) -> ImageFormat:
    """The format of an image, from its header alone.

    ``file`` is a path, or the bytes of a file; errors call the image ``name``.

    Raises:
        UserError: for a damaged file, an animation, more than 8 bits per channel, or another color space than gray
            and RGB.
    """
    with _opened(file, name) as image:
        return _checked_format(image, name)


def decode_image(file: Path | bytes, name: str, channels: int) -> np.ndarray:
    """The pixels of an image, upright: uint8 ``(height, width, channels)``.

    The first two arguments are as of :func:`image_format`. With 3 channels, a gray image has three equal ones.

    Raises:
        UserError: as :func:`image_format`, and for transparent pixels.

    >>> pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    >>> bool((decode_image(encode_png(pixels), "tiny", 3) == pixels).all())
    True
    """
    from PIL import ImageOps

    with _opened(file, name) as image:
        _checked_format(image, name)
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise UserError(
                f"{name} has transparent pixels, expected an opaque image, because what lies behind them is a choice. "
                "Flatten it, for example: mogrify -background white -alpha remove FILE."
            )
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB"))
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


@contextlib.contextmanager
def _opened(file: Path | bytes, name: str) -> "Iterator[PILImage]":
    """An image whose pixels are not read yet; any exception of Pillow becomes an error that names the image."""
    from PIL import Image, UnidentifiedImageError

    def explain(error: Exception) -> UserError:
        reason = "it is no image of a known kind" if isinstance(error, UnidentifiedImageError) else reason_of(error)
        return UserError(
            f"{name} cannot be read ({reason}), expected an intact image (PNG, JPEG, WebP or BMP). Repair or remove it."
        )

    # A damaged file may raise any of a dozen errors, by its format and the place of the damage.
    content = io.BytesIO(file) if isinstance(file, bytes) else file
    with explained(explain), Image.open(content, formats=_FORMATS) as image:
        yield image


def _checked_format(image: "PILImage", name: str) -> ImageFormat:
    from PIL.ImageFile import ImageFile

    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise UserError(
            f"{name} is an animation of {frames} frames, expected a still image, because which frame counts is a "
            "choice. Take one, for example: convert 'FILE[0]' STILL."
        )
    # Pillow would leave out half of the bits of a 16-bit color image.
    deep = isinstance(image, ImageFile) and any("16" in str(tile.args) for tile in image.tile)
    if deep or image.mode not in _GRAY_MODES | _COLOR_MODES:
        raise UserError(
            f"{name} has pixel format {image.mode}{' of 16 bits' if deep and '16' not in image.mode else ''}, expected "
            "8-bit gray or RGB. Convert it, for example: mogrify -colorspace sRGB -depth 8 FILE."
        )
    orientation = _orientation(image)
    height, width = (image.width, image.height) if orientation in _SIDEWAYS else (image.height, image.width)
    channels = 1 if image.mode in _GRAY_MODES else 3
    profiled = b"sRGB" not in image.info.get("icc_profile", b"sRGB")
    return ImageFormat(height, width, channels, orientation != 1, profiled)


def _orientation(image: "PILImage") -> int:
    # The tag of a PNG may also follow the pixels, and is then found when they are read.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    found = image.getexif().get(_ORIENTATION, 1)
    return found if found in range(1, 9) else 1
