"""Two-dimensional distributions of familiar shape: continuous, drawn from a fixed seed per split.

Each fills about ``[-1, 1]^2``, so it needs no scaling and its standard deviation per axis lies between 0.3 and 0.8.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from score_sde.data.base import ArraySource, SourceInfo
from score_sde.errors import unknown

TOY_SEED = 20210503
TOY_SIZES = {"train": 50_000, "test": 10_000}

GAUSSIANS_RADIUS, GAUSSIANS_STD = 0.9, 0.08
MOONS_STD = 0.04
RINGS_RADII, RINGS_STD = (0.25, 0.5, 0.75, 1.0), 0.02
SWISSROLL_STD = 0.02


class Toy(NamedTuple):
    """A sample of a toy distribution."""

    points: np.ndarray  # ``(n, 2)``
    # The part of the distribution that each point comes from, ``(n,)``; None for one of a single part.
    part: np.ndarray | None = None


def checkerboard(rng: np.random.RandomState, n: int) -> Toy:
    """Uniform over the 8 dark squares (row + column even) of a 4 x 4 board on ``[-1, 1]^2``, column by column."""
    column = rng.randint(4, size=n)
    upper = rng.randint(2, size=n)
    row = 2 * upper + column % 2
    points = (np.stack([column, row], axis=1) + rng.uniform(size=(n, 2))) / 2.0 - 1.0
    return Toy(points, 2 * column + upper)


def moons(rng: np.random.RandomState, n: int) -> Toy:
    """Two interleaved half circles of radius 2/3, the upper and the lower, blurred by ``MOONS_STD``."""
    angle = np.pi * rng.uniform(size=n)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1.0 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    part = rng.randint(2, size=(n, 1))
    points = np.where(part == 0, upper, lower) - np.array([0.5, 0.25])
    return Toy(points / 1.5 + MOONS_STD * rng.standard_normal((n, 2)), part[:, 0])


def rings(rng: np.random.RandomState, n: int) -> Toy:
    """Four equally likely circles of radii ``RINGS_RADII``, blurred by ``RINGS_STD``."""
    part = rng.randint(len(RINGS_RADII), size=n)
    radius = np.asarray(RINGS_RADII)[part]
    angle = 2.0 * np.pi * rng.uniform(size=n)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Toy(points + RINGS_STD * rng.standard_normal((n, 2)), part)


def gaussians(rng: np.random.RandomState, n: int) -> Toy:
    """Eight equally likely isotropic Gaussians on a circle, std ``GAUSSIANS_STD``."""
    part = rng.randint(8, size=n)
    angle = 2.0 * np.pi * part / 8.0
    centers = GAUSSIANS_RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Toy(centers + GAUSSIANS_STD * rng.standard_normal((n, 2)), part)


def swissroll(rng: np.random.RandomState, n: int) -> Toy:
    """A spiral of one and a half turns, radius 1/3 to 1, blurred by ``SWISSROLL_STD``."""
    angle = 1.5 * np.pi * (1.0 + 2.0 * rng.uniform(size=n))
    points = angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1) / (4.5 * np.pi)
    return Toy(points + SWISSROLL_STD * rng.standard_normal((n, 2)))


TOYS: dict[str, Callable[[np.random.RandomState, int], Toy]] = {
    "checkerboard": checkerboard,
    "moons": moons,
    "rings": rings,
    "gaussians": gaussians,
    "swissroll": swissroll,
}
_PARTS = {"checkerboard": 8, "moons": 2, "rings": len(RINGS_RADII), "gaussians": 8}


def toy_info(name: str) -> SourceInfo:
    """The info of ``toy:name``.

    Raises:
        UserError: for a name that is not a toy; the nearest one is suggested.

    >>> toy_info("moons").shape
    (2,)
    """
    if name not in TOYS:
        raise unknown("toy data set", name, TOYS)
    return SourceInfo(f"toy:{name}", (2,), None, _PARTS.get(name))


def load_toy(name: str, split: str) -> ArraySource:
    """The fixed sample of a toy distribution: float32 ``(50000, 2)`` for "train", ``(10000, 2)`` for "test".

    Its labels are the parts that the points come from, where there are several.

    >>> load_toy("rings", "test").gather(np.arange(3)).shape
    (3, 2)
    """
    info = toy_info(name)
    # RandomState's streams are frozen by NumPy for good, unlike those of Generator: the sample never changes.
    rng = np.random.RandomState([TOY_SEED, zlib.crc32(f"{name}/{split}".encode())])
    points, part = TOYS[name](rng, TOY_SIZES[split])
    return ArraySource(info, points.astype(np.float32), part)
