"""Data and extractors of a user, as ``tests.own_data:NAME``: some keep their contracts, and one breaks every clause."""

import numpy as np

from score_sde.data import ArraySource, SourceInfo
from score_sde.metrics.extractors.base import NO_WEIGHTS, ImageExtractor
from tests.own_parts import called


# --- data -------------------------------------------------------------------------------------------------------------
def points(split, num_examples: int = 40, scale: float = 1.0):
    rng = np.random.RandomState(split == "test")
    return (scale * rng.randn(num_examples, 2)).astype(np.float32)


def labeled():
    rng = np.random.RandomState(0)
    return rng.randint(0, 256, (40, 4, 4, 1)).astype(np.uint8), np.arange(40) % 3


def named():
    return {"images": np.zeros((40, 4, 4, 1), np.uint8), "num_levels": np.asarray(16)}


array = np.random.RandomState(0).randn(40, 3)
nan_points = np.full((40, 2), np.nan)
flat_points = np.zeros(40)
words = np.array(["a", "b"])


def no_arrays():
    return None


def source(split):
    return ArraySource(SourceInfo("mine", (2,), None, None), points(split))


class WrongSource(ArraySource):
    def __init__(self):
        super().__init__(SourceInfo("mine", (3,), None, None), points("train"))


class NanSource(ArraySource):
    def __init__(self):
        super().__init__(SourceInfo("mine", (2,), None, None), np.full((40, 2), np.nan, np.float32))


class CountingSource(ArraySource):
    def __init__(self):
        super().__init__(SourceInfo("mine", (2,), None, None), points("train"))

    def gather(self, indices):
        return super().gather(indices) * called()


class UnlabeledSource(ArraySource):
    def __init__(self):
        super().__init__(SourceInfo("mine", (2,), None, 3), points("train"))


class EmptySource(ArraySource):
    def __init__(self):
        super().__init__(SourceInfo("mine", (2,), None, None), np.zeros((0, 2), np.float32))


# --- extractors -------------------------------------------------------------------------------------------------------
def brightness(images, power: float = 1.0):
    return images.reshape(len(images), -1).mean(axis=1, keepdims=True) ** power


def made_extractor(shape, num_levels):
    def forward(params, images):
        return images.astype("float32").mean((1, 2)), None

    return ImageExtractor(
        name="means",
        sha256=NO_WEIGHTS,
        num_features=shape[-1],
        num_classes=None,
        forward=forward,
        params=(),
        shape=shape,
        num_levels=num_levels,
    )


def flat_features(images):
    return images.mean(axis=(1, 2, 3))


def nan_features(images):
    return np.full((len(images), 2), np.nan)


def counted_features(images):
    return np.full((len(images), 2), called())


def no_extractor(shape):
    return shape
