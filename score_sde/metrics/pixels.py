r"""Distances between sets of images, or of vectors, that need no extractor."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from score_sde.errors import UserError
from score_sde.metrics.checks import finite_rows, same_dimension
from score_sde.metrics.intervals import jackknife_error, normal_interval, random_groups
from score_sde.metrics.pairs import mean_discrepancy, squared_distances


class SlicedWasserstein(NamedTuple):
    """The squared sliced Wasserstein-2 distance of two sets of examples, and of the distributions behind them."""

    value: float  # of the examples, biased upwards
    std_error: float  # over fresh samples, the reference and the directions held
    corrected: float  # minus its estimated bias; may be negative
    low: float  # of the interval for the distance of the samples' distribution to the reference
    high: float
    distance: float  # the root of value, in units of the examples


class EnergyDistance(NamedTuple):
    """An energy distance with its errors and its interval."""

    value: float  # unbiased, so it may be negative
    std_error: float  # over fresh examples on both sides
    std_error_samples: float  # over fresh samples, the reference held
    low: float  # of the interval, from std_error
    high: float


def sliced_wasserstein(
    x: np.ndarray,
    y: np.ndarray,
    *,
    num_projections: int = 512,
    seed: int = 0,
    confidence: float = 0.95,
    num_groups: int = 20,
) -> SlicedWasserstein:
    r"""``E_theta W_2^2(theta·x, theta·y)`` over random directions (Rabin et al. 2011; Bonneel et al. 2015, eq. 8).

    In one dimension the optimal plan pairs quantiles, so each term is an integral of squared differences of two step
    functions, which is exact for sets of unequal sizes too. Error and bias come from a delete-a-group jackknife over
    samples ``x``. It costs ``num_groups`` sorted passes over ``(n + m) num_projections`` numbers.

    Raises:
        UserError: For values that are not finite, sets of different dimensions, and fewer samples than twice the
        groups.

    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> round(sliced_wasserstein(x, x + np.array([1.0, 0.0])).value, 1)  # (theta·shift)^2 has mean 1/2
    0.5
    """
    x, y = finite_rows(x, "samples"), finite_rows(y, "references")
    same_dimension(x, y, "examples")
    if num_projections < 1:
        raise UserError(f"{num_projections} directions were asked for; expected one or more.")
    groups = random_groups(len(x), num_groups, seed)
    value, without = 0.0, np.zeros(num_groups)
    for directions in _directions(x.shape[1], num_projections, seed):
        order = np.argsort(x @ directions, axis=0)
        on_x, on_y = np.take_along_axis(x @ directions, order, axis=0), np.sort(y @ directions, axis=0)
        value += _squared_transport(on_x, on_y)
        sorted_groups = groups[order]
        for group in range(num_groups):
            # Every column loses as many entries, and stays sorted.
            rest = on_x.T[sorted_groups.T != group].reshape(on_x.shape[1], -1).T
            without[group] += _squared_transport(rest, on_y)
    value, without = value / num_projections, without / num_projections
    error = jackknife_error(without)
    corrected = float(value - (num_groups - 1) * (without.mean() - value))
    low, high = normal_interval(corrected, error, confidence)
    return SlicedWasserstein(value, error, corrected, low, high, math.sqrt(value))


def energy_distance(x: np.ndarray, y: np.ndarray, *, confidence: float = 0.95) -> EnergyDistance:
    r"""``2 E|x - y| - E|x - x'| - E|y - y'|`` as an unbiased U-statistic (Székely & Rizzo 2013, eq. 2).

    It is zero only for equal distributions; its estimate is then negative about as often as positive. Pairs of an
    example with itself are left out; with them (a V-statistic) it would be biased upwards.
    ``scipy.stats.energy_distance`` is the square root of the V-statistic, in one dimension.

    Raises:
        UserError: For values that are not finite, sets of different dimensions and fewer than two examples.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(300, 3)), rng.normal(size=(200, 3))
    >>> energy_distance(x, y).low < 0.0 < energy_distance(x + 1.0, y).low
    True
    """
    x, y = finite_rows(x, "samples"), finite_rows(y, "references")
    same_dimension(x, y, "examples")
    mean = y.mean(axis=0, dtype=np.float64)
    found = mean_discrepancy(x - mean, y - mean, lambda a, b: -np.sqrt(squared_distances(a, b)))
    return EnergyDistance(*found, *normal_interval(found.value, found.std_error, confidence))


def _directions(dimension: int, count: int, seed: int, block: int = 64) -> Iterator[np.ndarray]:
    """Uniform directions, as columns of ``(d, block)``."""
    rng = np.random.default_rng(seed)
    for first in range(0, count, block):
        normal = rng.normal(size=(min(block, count - first), dimension))
        yield (normal / np.linalg.norm(normal, axis=1, keepdims=True)).T


def _squared_transport(x: np.ndarray, y: np.ndarray) -> float:
    """The sum over columns of squared one-dimensional Wasserstein-2 distances of sorted columns."""
    n, m = len(x), len(y)
    if n == m:
        return float(np.square(x - y).sum() / n)
    # Where either quantile function steps, in units of 1/(n m), which are whole.
    steps = np.union1d(np.arange(n) * m, np.arange(m) * n)
    widths = np.diff(steps, append=n * m) / (n * m)
    return float(widths @ np.square(x[steps // m] - y[steps // n]).sum(axis=1))
