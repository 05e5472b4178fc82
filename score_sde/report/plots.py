"""Pictures of a run, from NumPy arrays to PNG files; every function replaces its file atomically and returns the path.

Images are upscaled by integer factors, pixel for pixel, so blur in a picture is blur in the image. Figures are
matplotlib objects on the Agg canvas, without pyplot: they need no display and leave no global state.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from score_sde.errors import plural
from score_sde.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from score_sde.quantization import Quantization

GRID_TILE, STRIP_TILE = 40, 64  # smallest side of an image in a grid and in a strip, in screen pixels
GAP = 2  # white pixels between images
MAX_POINTS = 5000  # of a scatter plot; more would hide each other
MAX_NAMED = 25  # classes whose counts are written out
BLUE, GRAY = "#2b6cb0", "#4a5568"
DPI = 130


def image_grid(levels: np.ndarray, path: Path, *, num_grey_levels: int, columns: int | None = None) -> Path:
    """A grid of images, row by row.

    Gray levels have shape ``(n, height, width, channels)`` with 1 or 3 channels; 0 is drawn black and the last one
    white. By default the grid is about square.
    """
    columns = columns or math.ceil(math.sqrt(len(levels)))
    rows = math.ceil(len(levels) / columns)
    pixels = np.rint(np.clip(levels / (num_grey_levels - 1), 0.0, 1.0) * 255.0).astype(np.uint8)
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(_tile(pixels, rows, columns, GRID_TILE)).save(temporary, format="PNG")
    return path


def trajectory_strip(path_values: np.ndarray, times: np.ndarray, path: Path, *, quantization: "Quantization") -> Path:
    """Samples on their way from noise (left) to data (right), one row per sample; else a row of panels.

    States are ``(frames, n, height, width, channels)``; of volumes, with one axis more, the middle slices are drawn.
    Panels show ``(frames, n, d)`` by the first two coordinates, and series ``(frames, n, length, channels)`` by the
    first channel. A frame that exceeds the interval of the scaled data, as noise does, is scaled down to its bulk, so
    that noise of any standard deviation is visible.
    """
    values = np.nan_to_num(np.asarray(path_values, np.float64))
    if values.ndim == 6:
        values = values[:, :, values.shape[2] // 2]
    if values.ndim == 5:
        return save_figure(_image_strip(shown_channels(values), times, quantization), path, dpi=100)
    if values.ndim == 4:
        return save_figure(_curve_strip(values[..., 0], times), path)
    return save_figure(_scatter_strip(values, times), path)


def shown_channels(images: np.ndarray) -> np.ndarray:
    """The channels that a picture shows: one or three; of other numbers the first."""
    return images if images.shape[-1] in (1, 3) else images[..., :1]


def restored_rows(columns: Sequence[tuple[str, np.ndarray]], path: Path) -> Path:
    """Images beside what was made of them, one row per image.

    A column has a title and images ``(n, height, width, channels)``, from 0 (black) to 1 (white).

    Raises:
        UserError: If the file cannot be written.
    """
    unit = np.nan_to_num(np.stack([images for _, images in columns], axis=1))
    pixels = np.rint(255.0 * np.clip(unit, 0.0, 1.0)).astype(np.uint8)
    canvas = _tile(pixels.reshape(-1, *pixels.shape[2:]), len(pixels), len(columns), STRIP_TILE)
    return save_figure(_titled(canvas, "Restored images", [title for title, _ in columns]), path, dpi=100)


def confusion(counts: np.ndarray, path: Path) -> Path:
    """The number of examples by their class (rows) and the class that they are taken for (columns).

    Args:
        counts: Of shape ``(classes, classes)``; the shade of a cell is its share of its row.
        path: The PNG to write.

    Raises:
        UserError: If the file cannot be written.
    """
    size = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(2.0 + 0.35 * size, 12.0)
    figure, axes = new_figure(side + 0.6, side)
    axes.grid(False)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set(xlabel="class of the highest likelihood", ylabel="true class", title="Held-out examples by class")
    if size <= MAX_NAMED:
        axes.set(xticks=range(size), yticks=range(size))
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else GRAY
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=color)
    return save_figure(figure, path)


def scatter(samples: np.ndarray, data: np.ndarray | None, path: Path) -> Path:
    """Data and samples side by side on the same axes; both ``(n, d)``, drawn by their first two coordinates.

    Without data, samples alone. Coordinates about zero of one size have equal axes, others each its own.
    """
    shown = [(samples, "samples", BLUE)] if data is None else [(data, "data", GRAY), (samples, "samples", BLUE)]
    figure, panels = new_figure(4.0 * len(shown), 4.3, columns=len(shown))
    limits = _limits(_plane(shown[0][0]))
    for axes, (points, title, color) in zip(np.atleast_1d(panels), shown, strict=True):
        _scatter_panel(axes, points, limits, color)
        count = min(len(points), MAX_POINTS)
        axes.set(title=f"{title} ({count} {plural(count, 'point')})", xlabel="$x_1$", ylabel="$x_2$")
    return save_figure(figure, path)


def _tile(pixels: np.ndarray, rows: int, columns: int, side: int) -> np.ndarray:
    """Images ``(n, h, w, c)`` of bytes on a white canvas, each upscaled by whole pixels to at least ``side``."""
    _, height, width, channels = pixels.shape
    scale = max(1, math.ceil(side / min(height, width)))
    height, width = height * scale, width * scale
    canvas = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, np.uint8)
    for index, image in enumerate(pixels):
        row, column = divmod(index, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        shown = image if channels == 3 else image[..., :1]
        canvas[top : top + height, left : left + width] = shown.repeat(scale, axis=0).repeat(scale, axis=1)
    return canvas


def _image_strip(values: np.ndarray, times: np.ndarray, quantization: "Quantization") -> "Figure":
    frames, n = values.shape[:2]
    center, half = (0.0, 1.0) if quantization.centered else (0.5, 0.5)
    if quantization.num_grey_levels is None:
        center = float(np.median(values[-1]))
        half = _radius(values[-1] - center, 0.98)
    scales = [max(half, _radius(frame - center, 0.98)) for frame in values]
    unit = [(frame - center) / (2.0 * scale) + 0.5 for frame, scale in zip(values, scales, strict=True)]
    # One row per sample: (n, frames, height, width, channels).
    pixels = np.rint(255.0 * np.clip(np.stack(unit, axis=1), 0.0, 1.0)).astype(np.uint8)
    canvas = _tile(pixels.reshape(n * frames, *pixels.shape[2:]), n, frames, STRIP_TILE)

    return _titled(canvas, "From noise to data", [_time_label(time) for time in times])


def _titled(canvas: np.ndarray, heading: str, titles: Sequence[str]) -> "Figure":
    """Tiles under a heading, with a title above every column."""
    from matplotlib.figure import Figure

    margin, header, dpi = 16, 58, 100
    width, height = max(canvas.shape[1] + 2 * margin, 400), canvas.shape[0] + margin + header
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    left = (width - canvas.shape[1]) // 2
    figure.figimage(canvas, xo=left, yo=margin, origin="upper")
    figure.text(0.5, 1.0 - 20 / height, heading, ha="center", va="center", fontsize=12)
    step = (canvas.shape[1] - GAP) / len(titles)
    for index, title in enumerate(titles):
        x = (left + GAP / 2 + (index + 0.5) * step) / width
        figure.text(x, 1.0 - 45 / height, title, ha="center", va="center", fontsize=9, color=GRAY)
    return figure


def _scatter_strip(values: np.ndarray, times: np.ndarray) -> "Figure":
    figure, panels = new_figure(1.6 * len(values) + 0.2, 2.4, columns=len(values))
    for axes, points, time in zip(panels, values, times, strict=True):
        limit = _radius(_plane(points), 0.99) * 1.2
        _scatter_panel(axes, points, ((-limit, limit), (-limit, limit)), BLUE)
        axes.set_title(_time_label(time), fontsize=9)
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(_limit_label(limit), fontsize=8, color=GRAY)
        axes.spines[["top", "right"]].set_visible(True)
    figure.suptitle("From noise to data", fontsize=12)
    return figure


def _curve_strip(values: np.ndarray, times: np.ndarray) -> "Figure":
    figure, panels = new_figure(1.9 * len(values) + 0.2, 2.4, columns=len(values))
    for axes, curves, time in zip(panels, values, times, strict=True):
        limit = _radius(curves, 0.995) * 1.2
        axes.plot(curves.T, color=BLUE, alpha=0.6, linewidth=0.9)
        axes.set(xticks=[], yticks=[], ylim=(-limit, limit), xlabel=_limit_label(limit))
        axes.set_title(_time_label(time), fontsize=9)
    figure.suptitle("From noise to data", fontsize=12)
    return figure


def _limit_label(limit: float) -> str:
    return f"±{limit:.2g}" if limit < 100.0 else f"±{limit:.0f}"


def _time_label(time: float) -> str:
    return f"t = {time:.{2 if time >= 0.1 else 1}g}".replace("e-0", "e-")


def _plane(points: np.ndarray) -> np.ndarray:
    """The first two coordinates of ``(n, d)``; a single coordinate is paired with zero."""
    flat = np.asarray(points, np.float64).reshape(len(points), -1)
    return np.pad(flat, ((0, 0), (0, 1)))[:, :2] if flat.shape[1] == 1 else flat[:, :2]


def _radius(values: np.ndarray, quantile: float) -> float:
    """A quantile of the magnitudes of the values, robust to outliers."""
    return max(float(np.quantile(np.abs(values), quantile)), 1e-6)


def _limits(points: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ends of both axes: the same about zero, unless this would leave most of the picture empty."""
    radius = _radius(points, 0.995) * 1.15
    ends = np.quantile(points, [0.0025, 0.9975], axis=0)
    low, high = ends[0] - 0.075 * np.ptp(ends, axis=0), ends[1] + 0.075 * np.ptp(ends, axis=0)
    if (high - low).min() > radius / 2.0 or not (high > low).all():
        return (-radius, radius), (-radius, radius)
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))


def _scatter_panel(
    axes: "Axes", points: np.ndarray, limits: tuple[tuple[float, float], tuple[float, float]], color: str
) -> None:
    x, y = _plane(points)[:MAX_POINTS].T
    size = float(np.clip(3000.0 / len(x), 1.5, 20.0))
    axes.scatter(x, y, s=size, c=color, alpha=0.6, linewidths=0)
    axes.set(xlim=limits[0], ylim=limits[1], aspect="equal" if limits[0] == limits[1] else "auto")
    axes.grid(False)


def new_figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple["Figure", Any]:
    """A figure in inches and its axes, one or an array of them, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e2e8f0", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, panels if len(panels) > 1 else panels[0]


def save_figure(figure: "Figure", path: Path, dpi: int = DPI) -> Path:
    """Write a figure as a PNG."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)
    return path
