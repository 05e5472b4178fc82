"""Pictures of continuous data: tables as marginals, points as scatter plots, series as curves, volumes as slices."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from score_sde.errors import plural
from score_sde.report.plots import BLUE, GRAY, image_grid, new_figure, save_figure, scatter, shown_channels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_COLUMNS = 12  # marginals of a table
MAX_CHANNELS = 4  # of series
MAX_CURVES = 24  # in one panel; more would hide each other
SLICES = 8  # of a volume, and volumes
BINS = 40

Known = list[tuple[np.ndarray, str, str]]  # examples, their name and their color


def show(samples: np.ndarray, data: np.ndarray | None, path: Path) -> Path:
    """Samples ``(n, *event)`` of one to four axes beside data of the same shape, if there are any.

    Of a table the marginals of its first columns are drawn, of two columns a scatter plot; of series the curves of
    their first channels; of images the samples, and of volumes slices along the first axis.

    Raises:
        UserError: If the file cannot be written.
    """
    if samples.ndim == 2 and samples.shape[1] == 2:
        return scatter(samples, data, path)
    if samples.ndim <= 3:
        return save_figure((marginals if samples.ndim == 2 else curves)(samples, data), path)
    if samples.ndim == 4:
        return image_grid(_unit(samples[:100], data), path, num_grey_levels=2)
    slices = _slices(samples, data)
    return image_grid(slices.reshape(-1, *slices.shape[2:]), path, num_grey_levels=2, columns=slices.shape[1])


def _known(samples: np.ndarray, data: np.ndarray | None) -> Known:
    shown = [(samples, "samples", BLUE)]
    return shown if data is None else [(data, "data", GRAY), *shown]


def marginals(samples: np.ndarray, data: np.ndarray | None) -> "Figure":
    """A histogram of every column, of data and samples over each other; what lies outside is in the outer bins."""
    dim = samples.shape[1]
    count = min(dim, MAX_COLUMNS)
    columns = min(count, 4)
    rows = math.ceil(count / columns)
    figure, panels = new_figure(2.6 * columns + 0.4, 2.0 * rows + 0.8, columns=columns, rows=rows)
    known = _known(samples, data)
    for index, axes in enumerate(np.atleast_1d(panels)):
        if index >= count:
            axes.set_visible(False)
            continue
        low, high = _range(known[0][0][:, index], 0.002)
        for values, name, color in known:
            options = {"bins": BINS, "range": (low, high), "density": True, "color": color}
            kind = {"alpha": 0.35} if name == "data" else {"histtype": "step", "linewidth": 1.4}
            axes.hist(np.clip(values[:, index], low, high), label=name, **options, **kind)
        axes.set(title=f"$x_{{{index + 1}}}$", yticks=[])
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
    np.atleast_1d(panels)[0].legend(frameon=False, fontsize=8)
    more = f" (the first {count} of {dim} columns)" if dim > count else ""
    figure.suptitle(f"Marginals of {len(samples)} {plural(len(samples), 'sample')}{more}", fontsize=12)
    return figure


def curves(samples: np.ndarray, data: np.ndarray | None) -> "Figure":
    """A row of panels per channel, one for data and one for samples."""
    known, channels = _known(samples, data), min(samples.shape[2], MAX_CHANNELS)
    size = {"columns": len(known), "rows": channels}
    figure, panels = new_figure(4.2 * len(known), 2.0 * channels + 0.8, **size)
    for index, axes in enumerate(np.atleast_1d(panels)):
        channel, column = divmod(index, len(known))
        values, name, color = known[column]
        low, high = _range(known[0][0][..., channel], 0.001)
        _draw(axes, values[..., channel], color, (low, high))
        if channel == 0:
            count = min(len(values), MAX_CURVES)
            axes.set_title(f"{name} ({count} {plural(count, 'series', 'series')})")
        if column == 0 and samples.shape[2] > 1:
            axes.set_ylabel(f"channel {channel + 1}")
    if samples.shape[2] > channels:
        figure.suptitle(f"The first {channels} of {samples.shape[2]} channels", fontsize=12)
    return figure


def _draw(axes: "Axes", series: np.ndarray, color: str, limits: tuple[float, float]) -> None:
    """Some series ``(n, length)`` over each other."""
    for curve in series[:MAX_CURVES]:
        axes.plot(curve, color=color, alpha=0.5, linewidth=0.9)
    margin = 0.1 * (limits[1] - limits[0])
    axes.set(ylim=(limits[0] - margin, limits[1] + margin), xlim=(0, max(series.shape[1] - 1, 1)))


def _slices(samples: np.ndarray, data: np.ndarray | None) -> np.ndarray:
    """Evenly spaced slices of some volumes along the first axis, of shape ``(volumes, slices, height, width, c)``."""
    places = np.unique(np.linspace(0, samples.shape[1] - 1, SLICES).round().astype(int))
    return _unit(samples[:SLICES], data)[:, places]


def _unit(samples: np.ndarray, data: np.ndarray | None) -> np.ndarray:
    """Values between 0, black, and 1, white: the range of all but the extremes of the data, else of the samples."""
    shown = shown_channels(samples)
    low, high = _range(shown if data is None else shown_channels(data), 0.002)
    return np.clip((shown - low) / (high - low), 0.0, 1.0)


def _range(values: np.ndarray, share: float) -> tuple[float, float]:
    """The range of all values but a share at either end; of equal values one around them."""
    low, high = (float(end) for end in np.quantile(values.astype(np.float64), [share, 1.0 - share]))
    return (low, high) if high > low else (low - 0.5, high + 0.5)
