"""Charts of few numbers: a histogram, estimates with their intervals, and parts of an error."""

import math
from collections.abc import Sequence

import numpy as np

from score_sde.report.page.charts import BOTTOM, HEIGHT, RIGHT, TOP, WIDTH, canvas, figure, legend, rule, text, x_axis
from score_sde.report.page.figures import Z95, Estimate, number, with_error
from score_sde.report.page.markup import Markup, element
from score_sde.report.page.scales import scale_of, tick_label

_ROW = 46.0


def histogram(
    values: np.ndarray, *, title: str, x_label: str, mean: float, interval: tuple[float, float], marks: dict[str, float]
) -> Markup:
    """How values are distributed, with their mean, the interval of the mean and other values to compare with.

    Args:
        values: Finite numbers: ``(n,)``.
        title: What they are.
        x_label: Their unit.
        mean: Drawn as a line.
        interval: Drawn as a band behind it.
        marks: Other values by name, as dashed lines.
    """
    # Two bars per square root of the values: for some hundreds as many as the eye can use.
    counts, edges = np.histogram(values, bins=int(np.clip(2 * math.sqrt(len(values)), 5, 60)))
    y = scale_of([0.0, float(counts.max()) * 1.05], HEIGHT - BOTTOM, TOP, tight=True)
    left = 14.0 + 6.6 * max(len(tick_label(tick)) for tick in y.ticks())
    x = scale_of([float(edges[0]), float(edges[-1]), *marks.values()], left, WIDTH - RIGHT)
    grid = [rule(x.start, y(tick), x.end, y(tick), "grid") for tick in y.ticks()]
    grid += [text(left - 7, y(tick) + 4, tick_label(tick), anchor="end") for tick in y.ticks()]
    bars = [
        _box(x(float(a)), y(float(count)), x(float(b)), y.start, "bar")
        for count, a, b in zip(counts, edges, edges[1:], strict=False)
        if count
    ]
    band = _box(x(interval[0]), TOP, x(interval[1]), y.start, "interval")
    lines = [rule(x(value), TOP, x(value), y.start, "level") for value in marks.values()]
    svg = canvas(
        *grid,
        element("g", *bars, class_="tone0"),
        band,
        rule(x(mean), TOP, x(mean), y.start, "mean"),
        *lines,
        x_axis(x, HEIGHT - BOTTOM, x_label),
        label=f"{title}: {len(values)} values from {number(float(edges[0]))} to {number(float(edges[-1]))}, "
        f"mean {number(mean)}",
    )
    keys = legend(
        [
            ("line", f"mean {number(mean)}, with its 95 % interval"),
            *(("dashed", f"{name} {number(value)}") for name, value in marks.items()),
        ]
    )
    return figure(svg, title=title, unit=f"{len(values):,} in all", keys=keys)


def intervals(rows: Sequence[tuple[str, Estimate, int]], *, title: str, unit: str) -> Markup:
    """Estimates below one another on one axis, with their 95 % intervals.

    Args:
        rows: Name, estimate and colour of each; those that are not finite are left out.
        title: What they are.
        unit: Of all of them.
    """
    rows = [row for row in rows if math.isfinite(row[1].value)]
    if not rows:
        return Markup("")
    spans = [_ends(found) for _, found, _ in rows]
    x = scale_of([end for ends in spans for end in ends], 24.0, WIDTH - 24.0)
    bottom = TOP + _ROW * len(rows)
    shapes = [rule(x(tick), TOP, x(tick), bottom, "grid") for tick in x.ticks()]
    for index, ((name, found, tone), (low, high)) in enumerate(zip(rows, spans, strict=True)):
        y = TOP + _ROW * index + 32.0
        centre, cap = x(found.value), 5.0
        shapes.append(text(x.start, y - 15, name, class_="name"))
        shapes.append(text(x.end, y - 15, with_error(found), anchor="end", class_="value"))
        whisker = [rule(x(low), y, x(high), y, "whisker")]
        whisker += [rule(x(end), y - cap, x(end), y + cap, "whisker") for end in (low, high)]
        dot = element("circle", cx=f"{centre:.1f}", cy=f"{y:.1f}", r="4.5", class_="dot")
        shapes.append(element("g", *whisker, dot, class_=f"tone{tone}"))
    label = f"{title}: " + "; ".join(f"{name} {with_error(found)}" for name, found, _ in rows)
    svg = canvas(*shapes, x_axis(x, bottom + 4, unit), label=label, height=bottom + 44)
    return figure(svg, title=title, unit="with 95 % intervals")


def stacked(parts: Sequence[tuple[str, float]], *, title: str, unit: str, note: str) -> Markup:
    """Parts of a whole as one bar, with a legend that gives each its number.

    Args:
        parts: Name and size, not negative.
        title: What the whole is.
        unit: Of the sizes.
        note: What the sizes mean.
    """
    total = math.fsum(size for _, size in parts)
    if not total > 0.0 or not math.isfinite(total):
        return Markup("")
    x, boxes = 0.0, []
    for index, (_, size) in enumerate(parts):
        width = WIDTH * size / total
        boxes.append(element("g", _box(x, 1.0, max(x, x + width - 1.5), 21.0, "part"), class_=f"tone{index}"))
        x += width
    label = f"{title}: " + ", ".join(f"{name} {number(size, 2)} {unit}" for name, size in parts)
    keys = legend([(f"tone{index}", f"{name} {number(size, 2)}") for index, (name, size) in enumerate(parts)])
    bar = canvas(*boxes, label=label, height=22.0)
    return figure(bar, title=title, unit=unit, keys=keys, note=note, class_="wide")


def _ends(found: Estimate) -> tuple[float, float]:
    if found.interval is not None:
        return found.interval
    half = Z95 * (found.std_error or 0.0)
    return found.value - half, found.value + half


def _box(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A rectangle between two corners."""
    width, height = max(x2 - x1 - 0.6, 0.4), max(y2 - y1, 0.0)
    return element("rect", x=f"{x1:.2f}", y=f"{y1:.2f}", width=f"{width:.2f}", height=f"{height:.2f}", class_=class_)
