"""Line charts as SVG in the colours of the page; a small script reads them out under the pointer."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from score_sde.report.page.figures import finite, number
from score_sde.report.page.markup import Markup, element, join
from score_sde.report.page.scales import Scale, scale_of, tick_label

WIDTH, HEIGHT = 460.0, 264.0
TOP, RIGHT, BOTTOM = 10.0, 12.0, 40.0
TONES = 6  # colours of series, after which they repeat
MAX_POINTS = 240  # of a curve; longer ones are drawn as means of buckets with their extremes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """One curve: finite points in order, perhaps with a band around them.

    ``mark`` is ``line``, ``dots`` (joined by a thin line), ``points`` (not joined), ``steps`` or ``area``.
    """

    label: str
    x: list[float]
    y: list[float]
    low: list[float] | None = None
    high: list[float] | None = None
    mark: str = "line"
    tone: int = 0
    dashed: bool = False


def series_of(
    label: str, points: Iterable[Sequence[Any]], *, mark: str = "line", tone: int = 0, z: float = 1.0
) -> Series:
    """A curve from ``(x, y)`` or ``(x, y, standard error)``; points that are not finite are left out.

    Args:
        label: What it shows.
        points: Numbers, of which the error may be None: then the band has no width there.
        mark: See :class:`Series`.
        tone: Its colour.
        z: Half the width of the band in standard errors.
    """
    rows = [(finite(p[0]), finite(p[1]), finite(p[2]) if len(p) > 2 else None) for p in points]
    kept = [(x, y, error) for x, y, error in rows if x is not None and y is not None]
    x, y = [x for x, _, _ in kept], [y for _, y, _ in kept]
    if len(kept) > MAX_POINTS:
        return _thinned(label, x, y, tone)
    low = high = None
    if any(error for _, _, error in kept):
        low = [y - z * (error or 0.0) for _, y, error in kept]
        high = [y + z * (error or 0.0) for _, y, error in kept]
    return Series(label=label, x=x, y=y, low=low, high=high, mark=mark, tone=tone)


def _thinned(label: str, x: list[float], y: list[float], tone: int) -> Series:
    """Means of equal numbers of neighbours, with the smallest and the largest of each as a band."""
    edges = [round(index * len(x) / MAX_POINTS) for index in range(MAX_POINTS + 1)]
    buckets = [range(a, b) for a, b in itertools.pairwise(edges) if b > a]
    return Series(
        label=label,
        x=[x[bucket[-1]] for bucket in buckets],
        y=[math.fsum(y[i] / len(bucket) for i in bucket) for bucket in buckets],
        low=[min(y[i] for i in bucket) for bucket in buckets],
        high=[max(y[i] for i in bucket) for bucket in buckets],
        tone=tone,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
    """A marked value: a dashed line with a name."""

    label: str
    value: float
    vertical: bool = False


def line_chart(
    curves: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    levels: Sequence[Level] = (),
    note: str = "",
    zero: bool = False,
) -> Markup:
    """Curves over one axis, with a legend if there are several.

    Args:
        curves: What to draw; those without points are left out.
        title: What the chart is about.
        x_label: What runs along it.
        y_label: The unit of what is drawn.
        log_x: Whether the axis is to be logarithmic, if the values allow it.
        log_y: Likewise.
        levels: Values to mark.
        note: A remark below.
        zero: Whether the axis upwards is to begin at zero.
    """
    curves = [curve for curve in curves if curve.x]
    if not curves:
        return Markup("")
    heights = [value for curve in curves for value in (*curve.y, *_band_values(curve, log_y=log_y))]
    heights += [level.value for level in levels if not level.vertical]
    y = scale_of(heights + ([0.0] if zero and not log_y else []), HEIGHT - BOTTOM, TOP, log=log_y)
    if zero and not y.log:
        y = dataclasses.replace(y, low=min(0.0, min(heights)))
    places = [value for curve in curves for value in curve.x] + [level.value for level in levels if level.vertical]
    left = 14.0 + 6.6 * max(len(tick_label(tick)) for tick in (y.ticks() or [0.0]))
    x = scale_of(places, left, WIDTH - RIGHT, log=log_x, tight=True)
    drawn = [_drawn(curve, x, y) for curve in curves]
    marked = [_level(level, x, y) for level in levels]
    svg = canvas(
        _axes(x, y, x_label),
        *marked,
        *drawn,
        element("g", class_="cursor"),
        label=f"{title}: {_described(curves)}",
        chart=_readable(curves, x, y, x_label),
    )
    return figure(svg, title=title, unit=y_label, keys=_keys(curves, levels), note=note)


def canvas(*children: Any, label: str, height: float = HEIGHT, chart: str | None = None) -> Markup:
    """An SVG with a description in words; with data to read out it can be reached by the keyboard."""
    focus = {"tabindex": "0", "data_chart": chart} if chart else {}
    return element(
        "svg", *children, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label=label, class_="chart", **focus
    )


def figure(
    svg: Markup, *, title: str, unit: str = "", keys: Markup | None = None, note: str = "", class_: str = ""
) -> Markup:
    """A chart with its title, its unit, its legend and a line for what is read out."""
    caption = element("figcaption", element("strong", title), element("span", unit, class_="unit") if unit else None)
    remark = element("p", note, class_="note") if note else None
    readout = element("output", class_="readout") if "data-chart" in svg else None
    return element("figure", caption, keys, svg, readout, remark, class_=f"chart {class_}".strip())


def text(x: float, y: float, content: str, *, anchor: str = "start", class_: str = "tick") -> Markup:
    """Words in a chart."""
    return element("text", content, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=class_)


def rule(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line in a chart."""
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=class_)


def x_axis(x: Scale, bottom: float, label: str) -> Markup:
    """Ticks and a name below a chart."""
    ticks = [text(x(tick), bottom + 16, tick_label(tick), anchor="middle") for tick in x.ticks()]
    name = text((x.start + x.end) / 2, bottom + 34, label, anchor="middle", class_="axis")
    return join(rule(x.start, bottom, x.end, bottom, "base"), *ticks, name)


def _axes(x: Scale, y: Scale, x_label: str) -> Markup:
    grid = []
    for tick in y.ticks():
        grid.append(rule(x.start, y(tick), x.end, y(tick), "grid"))
        grid.append(text(x.start - 7, y(tick) + 4, tick_label(tick), anchor="end"))
    return element("g", *grid, x_axis(x, HEIGHT - BOTTOM, x_label), aria_hidden="true")


def _band_values(curve: Series, *, log_y: bool) -> list[float]:
    """The ends of the band that belong on the axis: on a logarithmic one none from zero down."""
    ends = [*(curve.low or []), *(curve.high or [])]
    positive = log_y and min(curve.y) > 0.0
    return [end for end in ends if end > 0.0] if positive else ends


def _drawn(curve: Series, x: Scale, y: Scale) -> Markup:
    points = [(x(a), y(b)) for a, b in zip(curve.x, curve.y, strict=True)]
    style = f"{'thin' if curve.mark == 'dots' else 'curve'}{' dash' if curve.dashed else ''}"
    shapes = []
    if curve.low is not None and curve.high is not None:
        band = [(x(a), y(b)) for a, b in zip(curve.x, curve.high, strict=True)]
        band += [(x(a), y(b)) for a, b in zip(reversed(curve.x), reversed(curve.low), strict=True)]
        shapes.append(element("polygon", points=_path(band), class_="band"))
    if curve.mark == "steps":
        points_ = [corner for a, b in itertools.pairwise(points) for corner in (a, (b[0], a[1]))]
        shapes.append(element("polyline", points=_path([*points_, points[-1]]), class_="curve"))
    elif curve.mark == "area":
        base = [(points[-1][0], y.start), (points[0][0], y.start)]
        shapes.append(element("polygon", points=_path([*points, *base]), class_="band"))
        shapes.append(element("polyline", points=_path(points), class_="curve"))
    elif curve.mark != "points":
        shapes.append(element("polyline", points=_path(points), class_=style))
    if curve.mark in ("dots", "points") or len(points) == 1:
        shapes += [element("circle", cx=f"{a:.1f}", cy=f"{b:.1f}", r="3", class_="dot") for a, b in points]
    return element("g", *shapes, class_=f"tone{curve.tone % TONES}")


def _level(level: Level, x: Scale, y: Scale) -> Markup:
    if level.vertical:
        return rule(x(level.value), y.start, x(level.value), y.end, "level")
    return rule(x.start, y(level.value), x.end, y(level.value), "level")


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in points)


def _keys(curves: Sequence[Series], levels: Sequence[Level]) -> Markup | None:
    if len(curves) + len(levels) < 2:
        return None
    return legend([(f"tone{c.tone % TONES}", c.label) for c in curves] + [("dashed", each.label) for each in levels])


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """What each colour stands for: the class of a swatch, and words."""
    items = [element("li", element("i", class_=f"swatch {class_}"), words) for class_, words in entries]
    return element("ul", *items, class_="legend")


def _described(curves: Sequence[Series]) -> str:
    return "; ".join(
        f"{c.label} from {number(c.y[0])} at {number(c.x[0])} to {number(c.y[-1])} at {number(c.x[-1])}" for c in curves
    )


def _readable(curves: Sequence[Series], x: Scale, y: Scale, x_label: str) -> str:
    """What the script reads out: per curve its name, its colour, and pixels and words for every point."""
    found = [
        {
            "label": curve.label,
            "tone": curve.tone % TONES,
            "points": [
                [round(x(a), 1), round(y(b), 1), number(a, 6), number(b)]
                for a, b in sorted(zip(curve.x, curve.y, strict=True))
            ],
        }
        for curve in curves
    ]
    return json.dumps({"x": x_label, "top": TOP, "bottom": HEIGHT - BOTTOM, "curves": found}, ensure_ascii=False)
