"""The contract of a feature extractor, the extractors that are functions of images, and the pixels themselves."""

import abc
import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float, Num, UInt8

from score_sde.distributed import jit
from score_sde.errors import UserError
from score_sde.typing import Params

NO_WEIGHTS = hashlib.sha256(b"").hexdigest()  # the hash of an extractor without weights

FeatureArray: TypeAlias = Float[Array, "batch features"]
Forward: TypeAlias = Callable[[Params, Num[Array, "batch height width channels"]], tuple[FeatureArray, Array | None]]


class Features(NamedTuple):
    """The output of an extractor for ``n`` images."""

    features: np.ndarray  # float32 ``(n, d)``, for distances between sets
    # float32 ``(n, k)``, unnormalized log-probabilities of classes, or None where there are no classes.
    logits: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Extractor(abc.ABC):
    """Features of images. An image has the same features in any batch, up to rounding.

    A distance between sets of features is meaningful only with ``name`` and ``sha256``: if these agree, so do resizing,
    scaling, network and weights.
    """

    name: str  # the network and its preprocessing of images, such as ``"inception-2015"``
    sha256: str  # SHA-256 of the bytes of the file of weights, in hexadecimal; without weights, the hash of no bytes
    num_features: int  # length of a feature vector
    num_classes: int | None  # number of logits; None for an extractor without classes

    @abc.abstractmethod
    def __call__(self, images: np.ndarray) -> Features:
        """The features of uint8 images ``(n, height, width, channels)`` of levels ``0 .. num_levels - 1``."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ImageExtractor(Extractor):
    """An :class:`Extractor` made of a pure function, which is compiled once, for one batch size.

    A batch of any size is split, and its last part padded with black images.

    >>> def mean(params, x):
    ...     return x.astype("float32").mean((1, 2)) * params, None
    >>> brightness = ImageExtractor(
    ...     name="brightness", sha256=NO_WEIGHTS, num_features=3, num_classes=None, forward=mean, params=2.0,
    ...     shape=(4, 4, 3), num_levels=256
    ... )
    >>> isinstance(brightness, Extractor), brightness(np.ones((70, 4, 4, 3), np.uint8)).features.shape
    (True, (70, 3))
    """

    forward: Forward  # from parameters and a batch of images, as levels, to features and logits
    params: Params
    shape: tuple[int, ...]  # shape of an image, ``(height, width, channels)``
    num_levels: int  # the number of gray levels of an image
    batch_size: int = 32  # the number of images processed at once

    @functools.cached_property
    def _program(self) -> Callable[[np.ndarray], tuple[Array, Array | None]]:
        params = jax.device_put(self.params)  # once, not with every batch
        return functools.partial(jit(self.forward), params)

    def __call__(self, images: UInt8[np.ndarray, "n height width channels"]) -> Features:
        """The features of images.

        Raises:
            UserError: If the images do not have the shape and levels of this extractor.
        """
        self._check(images)
        count, size = len(images), self.batch_size
        features = np.empty((count, self.num_features), np.float32)
        logits = None if self.num_classes is None else np.empty((count, self.num_classes), np.float32)
        for start in range(0, count, size):
            part = images[start : start + size]
            padded = np.concatenate([part, np.zeros((size - len(part), *self.shape), np.uint8)])
            new_features, new_logits = jax.device_get(self._program(padded))
            features[start : start + size] = new_features[: len(part)]
            if logits is not None:
                logits[start : start + size] = new_logits[: len(part)]
        return Features(features, logits)

    def _check(self, images: np.ndarray) -> None:
        if images.shape[1:] != self.shape:
            raise UserError(
                f"Extractor {self.name} was given images of shape {images.shape[1:]}, expected {self.shape}, for which "
                "it was made. Make another one for these images."
            )
        if images.size and images.max() >= self.num_levels:
            raise UserError(
                f"Extractor {self.name} was given images with the level {images.max()}, expected levels below "
                f"{self.num_levels}. Give it images as they are in the data set, not scaled ones."
            )


def check_images(name: str, shape: tuple[int, ...], num_levels: int | None) -> int:
    """Refuse data other than images of at most 8 bits, for the named extractor; returns the number of levels.

    >>> check_images("pixels", (8, 8, 1), 17)
    17
    """
    if len(shape) != 3 or min(shape) < 1 or num_levels is None or not 2 <= num_levels <= 256:
        levels = "continuous values" if num_levels is None else f"{num_levels} levels"
        raise UserError(
            f"Extractor {name} cannot take data of shape {shape} with {levels}; expected images (height, width, "
            "channels) of 2 to 256 levels. For other data use a distance that needs no features."
        )
    return num_levels


def check_colors(name: str, shape: tuple[int, ...], num_levels: int | None) -> None:
    """Refuse input that a network for photographs cannot take: anything but gray or RGB images of 256 levels."""
    if check_images(name, shape, num_levels) != 256 or shape[-1] not in (1, 3):
        raise UserError(
            f"Extractor {name} cannot take images of shape {shape} with {num_levels} levels; expected 1 or 3 channels "
            "and 256 levels, which it was trained on. Choose 'pixels', or an extractor for this data set."
        )


def make_pixels(
    shape: tuple[int, ...], num_levels: int | None, weights: Path | None = None, *, batch_size: int = 256
) -> ImageExtractor:
    """An extractor whose features are the pixels, scaled to [0, 1] and flattened; it has no classes.

    Raises:
        UserError: If the data are not images of 2 to 256 levels, or a file of weights is given.

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
