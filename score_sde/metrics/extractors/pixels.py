"""The pixels themselves, for data that no network was trained on."""

import math
from pathlib import Path

from jaxtyping import Array, Num

from score_sde.errors import UserError
from score_sde.metrics.extractors.base import NO_WEIGHTS, ImageExtractor, check_images
from score_sde.typing import Params


def make_pixels(
    shape: tuple[int, ...], num_levels: int | None, weights: Path | None = None, *, batch_size: int = 256
) -> ImageExtractor:
    """An extractor whose features are the pixels, scaled to [0, 1] and flattened; it has no classes.

    Raises:
        UserError: If the data are not images of 2 to 256 levels, or a file of weights is given.

    >>> import numpy as np
    >>> make_pixels((2, 2, 1), 17)(np.full((1, 2, 2, 1), 4, np.uint8)).features
    array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """
    if weights is not None:
        raise UserError(f"Extractor pixels has no weights, and was given {weights}. Leave the file out.")
    levels = check_images("pixels", shape, num_levels)

    def forward(params: Params, images: Num[Array, "batch height width channels"]) -> tuple[Array, None]:
        return images.astype("float32").reshape(len(images), -1) / (levels - 1), None

    return ImageExtractor(
        name="pixels",
        sha256=NO_WEIGHTS,
        num_features=math.prod(shape),
        num_classes=None,
        forward=forward,
        params=(),
        shape=shape,
        num_levels=levels,
        batch_size=batch_size,
    )
