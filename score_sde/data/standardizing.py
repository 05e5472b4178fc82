"""The standardization of continuous data: the statistics of their training split."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from score_sde.data.base import Source
from score_sde.data.transforms import check_images
from score_sde.errors import UserError, plural
from score_sde.standardization import Standardization

_CHUNK = 2**22  # numbers read at once
_LISTED = 5  # columns that a message names


def column_statistics(source: Source) -> Standardization:
    """Mean and standard deviation of every column over all examples: the last axis of an event has the columns.

    Of a table these are its columns, of a series ``(length, channels)`` and of images and volumes of floats their
    channels, over all places. The sums are of double precision, and the result of single, like the data.

    Raises:
        UserError: For data of gray levels, which have a scale of their own; for numbers that are not finite; for a
            column that is constant, which has no spread to divide by and no density.

    >>> from score_sde.data.base import ArraySource, SourceInfo
    >>> table = np.float32([[0.0, 10.0], [2.0, 30.0]])
    >>> found = column_statistics(ArraySource(SourceInfo("table", (2,), None, None), table))
    >>> found.mean.tolist(), found.std.tolist()
    ([1.0, 20.0], [1.0, 10.0])
    """
    info = source.info
    if info.num_grey_levels is not None:
        raise UserError(
            f"{info.name} has {info.num_grey_levels} gray levels, and only continuous data are standardized; expected "
            "config.data.standardize=none."
        )
    columns, total = info.shape[-1], 0
    mean, square = np.zeros(columns), np.zeros(columns)
    low, high = np.full(columns, np.inf), np.full(columns, -np.inf)
    size = max(1, _CHUNK // int(np.prod(info.shape)))
    for first in range(0, len(source), size):
        batch = source.gather(np.arange(first, min(first + size, len(source))))
        check_images(batch, info)
        values = batch.reshape(-1, columns).astype(np.float64)
        # Moments of two parts as moments of their union (Chan et al. 1979), which lose no digits to a large mean.
        count, own = len(values), values.mean(axis=0)
        square += np.square(values - own).sum(axis=0) + np.square(own - mean) * (total * count / (total + count))
        mean += (own - mean) * (count / (total + count))
        total += count
        low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
    std = np.sqrt(square / max(total, 1)).astype(np.float32)
    _check_spread(info.name, low, high, std)
    return Standardization(mean=mean.astype(np.float32), std=std)


def _check_spread(name: str, low: np.ndarray, high: np.ndarray, std: np.ndarray) -> None:
    if (flat := np.flatnonzero((low == high) | (std < np.finfo(np.float32).tiny))).size:
        shown = ", ".join(f"{column} ({low[column]:.6g})" for column in flat[:_LISTED]) + ", ..." * (
            len(flat) > _LISTED
        )
        raise UserError(
            f"{name}: {plural(len(flat), 'a column of the training split is', 'columns of the training split are')} "
            f"constant: {shown}; expected columns that vary, for the others have no standard deviation to divide by. "
            f"Leave {plural(len(flat), 'it', 'them')} out, or set config.data.standardize=none."
        )


#: How continuous data are standardized, by name; ``None`` for data that stay as they are.
STANDARDIZATIONS: Mapping[str, Callable[[Source], Standardization] | None] = MappingProxyType(
    {"none": None, "columns": column_statistics}
)
