"""Charts of numbers on matplotlib axes: as PNG files of the modes, and as SVG in the colors of a page."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from score_sde.report.figures import Z95, Estimate, clean, finite, number, tick_label, with_error
from score_sde.report.plots import new_figure, save_figure
from score_sde.report.svg import COLORS, FONT, GRID, INK, QUIET, TONES, WIDTH, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

MAX_POINTS = 240  # of a curve; a longer one is drawn as bucket means with their extremes
_TINY, _HUGE = 1e-150, 1e150  # magnitudes that an axis shows; their ratios and differences are numbers too
_MAX_NAME = 36  # characters of a name inside a chart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """A curve: finite points in order, perhaps with a band around them; ``mark`` is ``line``, ``dots`` or ``area``."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    mark: str = "line"
    tone: int = 0
    dashed: bool = False


class Level(NamedTuple):
    """A marked value: a dashed line with a name."""

    label: str
    value: float
    vertical: bool = False


class Chart(NamedTuple):
    """A chart, to be drawn on a page or in a picture."""

    title: str  # the subject
    label: str  # the subject and a description of the drawing
    draw: Callable[..., None]  # a function that draws it on axes
    drawn: tuple[Any, ...]  # the objects to draw
    unit: str = ""  # unit of the drawn values
    keys: tuple[tuple[str, str], ...] = ()  # the legend: a name in ``COLORS``, or ``dashed``, and its meaning
    note: str = ""  # a remark below
    height: float = 250.0  # height in points; a bar as wide as the page is lower than any other chart

    @property
    def svg(self) -> str:
        """The markup of the chart."""
        return svg(self.draw, self.drawn, self.label, self.height)


def save_charts(path: Path, *charts: Chart | None) -> Path | None:
    """Charts side by side in one PNG; nothing is written if there are none."""
    found = [chart for chart in charts if chart is not None]
    if not found:
        return None
    width, height = WIDTH / 60.0, 0.5 + max(chart.height for chart in found) / 60.0
    figure, panels = new_figure(width * len(found), height, columns=len(found))
    for axes, chart in zip(np.atleast_1d(panels), found, strict=True):
        chart.draw(axes, *chart.drawn)
        axes.set_title(", ".join(filter(None, (chart.title, chart.unit))))
        for kind, name in chart.keys:
            color = {name: color for color, name in COLORS.items()}.get(kind, QUIET)
            axes.plot([], [], color=color, linestyle="--" if kind == "dashed" else "-", label=clean(name))
        if chart.keys:
            axes.legend(frameon=False)
    return save_figure(figure, path)


def curve_of(label: str, points: Iterable[Sequence[Any]], *, mark: str = "line", tone: int = 0) -> Curve:
    """A curve from ``(x, y)`` or ``(x, y, standard error)``, with a 95 % band; non-finite points are left out.

    A long curve becomes means over buckets of neighboring points, with the extremes of each bucket as a band.
    """
    rows = [(finite(p[0]), finite(p[1]), finite(p[2]) if len(p) > 2 else None) for p in points]
    kept = [(_kept(x), _kept(y), abs(error or 0.0)) for x, y, error in rows if x is not None and y is not None]
    x, y, errors = zip(*kept, strict=True) if kept else ((), (), ())
    if len(kept) > MAX_POINTS:
        edges = [round(index * len(x) / MAX_POINTS) for index in range(MAX_POINTS + 1)]
        parts = [y[a:b] for a, b in itertools.pairwise(edges)]
        means = tuple(math.fsum(value / len(part) for value in part) for part in parts)
        low, high = (tuple(map(end, parts)) for end in (min, max))
        return Curve(label=label, x=tuple(x[b - 1] for b in edges[1:]), y=means, low=low, high=high, tone=tone)
    band: dict[str, Any] = {}
    if any(errors):
        for name, sign in (("low", -Z95), ("high", Z95)):
            band[name] = tuple(_kept(value + sign * error) for value, error in zip(y, errors, strict=True))
    return Curve(label=label, x=x, y=y, mark=mark, tone=tone, **band)


def line_chart(
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    levels: Sequence[Level] = (),
    note: str = "",
    zero: bool = False,
) -> Chart | None:
    """Curves over one axis, with a legend if there are several; None if there are no points.

    ``y_label`` is the unit of the y axis. An axis is logarithmic only if the values allow it; with ``zero`` the y axis
    begins there.
    """
    curves = tuple(curve for curve in curves if curve.x)
    if not curves:
        return None
    told = "; ".join(
        f"{c.label} from {number(c.y[0])} at {number(c.x[0])} to {number(c.y[-1])} at {number(c.x[-1])}" for c in curves
    )
    keys = [(f"tone{curve.tone % len(TONES)}", curve.label) for curve in curves]
    keys += [("dashed", each.label) for each in levels]
    drawn = (curves, x_label, log_x, log_y, tuple(levels), zero)
    return Chart(title, f"{title}: {told}", _draw_curves, drawn, y_label, tuple(keys) if len(keys) > 1 else (), note)


def histogram(
    values: np.ndarray, *, title: str, x_label: str, mean: float, interval: tuple[float, float], marks: dict[str, float]
) -> Chart:
    """A histogram of finite values, with their mean, its interval, and named reference values."""
    # Bars: twice the square root of the number of values. For a few hundred values the eye can use no more.
    bars = np.histogram(values, bins=int(np.clip(2 * math.sqrt(len(values)), 5, 60)))
    counts, edges = (tuple(each.tolist()) for each in bars)
    drawn = (counts, edges, x_label, _kept(mean), tuple(map(_kept, interval)), tuple(map(_kept, marks.values())))
    span = f"{len(values)} values from {number(edges[0])} to {number(edges[-1])}"
    label = f"{title}: {span}, mean {number(mean)}"
    keys = [("tone0", f"mean {number(mean)}, with its 95 % interval")]
    keys += [("dashed", f"{name} {number(value)}") for name, value in marks.items()]
    return Chart(title, label, _draw_histogram, drawn, f"{len(values):,} in all", tuple(keys))


def intervals(rows: Sequence[tuple[str, Estimate, int]], *, title: str, unit: str) -> Chart | None:
    """Estimates with their 95 % intervals, one per row ``(name, estimate, color)``; None if there are none."""
    rows = [row for row in rows if math.isfinite(row[1].value)]
    if not rows:
        return None
    label = f"{title}: " + "; ".join(f"{name} {with_error(found)}" for name, found, _ in rows)
    height = 46.0 * len(rows) + 48.0
    return Chart(title, label, _draw_intervals, (tuple(rows), unit), "with 95 % intervals", height=height)


def stacked(parts: Sequence[tuple[str, float]], *, title: str, unit: str, note: str) -> Chart | None:
    """Nonnegative parts of a whole as one bar, with a legend of their sizes; None if all are zero."""
    total = math.fsum(size for _, size in parts)
    if not total > 0.0 or not math.isfinite(total):
        return None
    label = f"{title}: " + ", ".join(f"{name} {number(size, 2)} {unit}" for name, size in parts)
    keys = tuple((f"tone{index}", f"{name} {number(size, 2)}") for index, (name, size) in enumerate(parts))
    shares = tuple(size / total for _, size in parts)
    return Chart(title, label, _draw_stacked, (shares,), unit, keys, note, height=22.0)


def _draw_curves(
    axes: "Axes",
    curves: Sequence[Curve],
    x_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    levels: Sequence[Level] = (),
    zero: bool = False,
) -> None:
    log_y = log_y and min(value for curve in curves for value in curve.y) > 0.0
    heights = [value for curve in curves for value in (*curve.y, *curve.low, *curve.high) if value > 0.0 or not log_y]
    heights += [level.value for level in levels if not level.vertical] + [0.0] * (zero and not log_y)
    places = [value for curve in curves for value in curve.x] + [level.value for level in levels if level.vertical]
    low = _scale(axes.yaxis, heights, log=log_y, floor=min(heights) if zero else None)[0]
    _scale(axes.xaxis, places, log=log_x, tight=True)
    for level in levels:
        line = axes.axvline if level.vertical else axes.axhline
        line(level.value, color=QUIET, linewidth=1.0, linestyle="--")
    for curve in curves:
        color = TONES[curve.tone % len(TONES)]
        top, base = (curve.y, (low,) * len(curve.y)) if curve.mark == "area" else (curve.high, curve.low)
        if top:
            edge = [*top, *(max(value, low) for value in reversed(base))]
            axes.fill([*curve.x, *reversed(curve.x)], edge, color=color, alpha=0.16, linewidth=0.0)
        dots = curve.mark == "dots" or len(curve.x) == 1
        style = {"linestyle": (0, (6, 5)) if curve.dashed else "-", "linewidth": 1.2 if dots else 1.9}
        axes.plot(curve.x, curve.y, color=color, marker="o" if dots else "", markersize=5.0, **style)
    axes.set_xlabel(x_label)


def _draw_histogram(
    axes: "Axes",
    counts: Sequence[int],
    edges: Sequence[float],
    x_label: str,
    mean: float,
    interval: tuple[float, float],
    marks: Sequence[float],
) -> None:
    _scale(axes.xaxis, [edges[0], edges[-1], mean, *interval, *marks])
    _scale(axes.yaxis, [0.0, 1.05 * max(counts)], tight=True)
    axes.bar(edges[:-1], counts, width=0.94 * np.diff(edges), align="edge", color=TONES[0], alpha=0.35, linewidth=0.0)
    axes.axvspan(*interval, color=TONES[0], alpha=0.28, linewidth=0.0)
    axes.axvline(mean, color=TONES[0], linewidth=2.0)
    for value in marks:
        axes.axvline(value, color=QUIET, linewidth=1.0, linestyle="--")
    axes.set_xlabel(x_label)


def _draw_intervals(axes: "Axes", rows: Sequence[tuple[str, Estimate, int]], unit: str) -> None:
    ends = []
    for _, found, _ in rows:
        half = Z95 * (found.std_error or 0.0)
        ends.append(tuple(map(_kept, found.interval or (found.value - half, found.value + half))))
    _scale(axes.xaxis, [end for pair in ends for end in pair])
    axes.set_ylim(len(rows), 0.0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x", color=GRID)
    place = axes.get_yaxis_transform()  # x: share of the width; y: number of the row
    for index, ((name, found, tone), pair) in enumerate(zip(rows, ends, strict=True)):
        style = {"color": TONES[tone % len(TONES)], "linewidth": 1.8}
        axes.plot(pair, (index + 0.7,) * 2, marker="|", markersize=10.0, markeredgewidth=1.8, **style)
        axes.plot(_kept(found.value), index + 0.7, marker="o", markersize=8.0, **style)
        name = name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"
        for x, words, side in ((0.0, " ".join(clean(name).split()), "left"), (1.0, with_error(found), "right")):
            axes.text(x, index + 0.38, words, transform=place, ha=side, color=INK, fontsize=FONT, parse_math=False)
    axes.set_xlabel(unit)


def _draw_stacked(axes: "Axes", shares: Sequence[float]) -> None:
    axes.set_axis_off()
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(0.0, 1.0)
    left = 0.0
    for index, share in enumerate(shares):
        axes.barh(0.5, max(share - 0.003, 0.0), height=1.0, left=left, color=TONES[index], linewidth=0.0)
        left += share


def _scale(
    axis: "Axis", values: Sequence[float], *, log: bool = False, tight: bool = False, floor: float | None = None
) -> tuple[float, float]:
    """Set the limits and ticks of an axis: round numbers, and a margin at both ends unless it is tight.

    Equal values get an axis too. Values whose differences overflow a double are clipped.

    A logarithmic axis needs positive values, else it is linear; a tight one ends at the smallest and the largest value;
    a linear one may start at ``floor``.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    values = [_kept(value) for value in values]
    low, high = min(values), max(values)
    log = log and low > 0.0
    if log:
        room = 1.0 if tight else max((high / low) ** 0.05, 1.02)
        low, high = low / room, high * room
        high = high if high > low else 2.0 * low
    else:
        room = 0.0 if tight else 0.06 * (high - low)
        if high - low <= 1e-12 * max(abs(low), abs(high)):
            room = 0.5 * abs(low) or 0.5
        low, high = low - room if floor is None else floor, high + room
    name = "x" if axis is axis.axes.xaxis else "y"
    axis.axes.set(**{f"{name}scale": "log" if log else "linear", f"{name}lim": (low, high)})
    locator = MaxNLocator(5, steps=[1, 2, 5, 10])
    if log and high / low > 4.0:  # powers of ten alone would leave one tick or none
        decades = math.log10(high / low)
        subs = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0, 3.0) if decades < 3.5 else (1.0,)
        locator = LogLocator(subs=subs, numticks=8)
    axis.set_major_locator(locator)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value)))
    return low, high


def _kept(value: float) -> float:
    return min(max(value, -_HUGE), _HUGE) if abs(value) > _TINY else 0.0
