"""Charts put values where they belong, mark round numbers, and thin long curves without hiding their extremes."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from score_sde.report import charts
from score_sde.report.charts import MAX_POINTS, Level, curve_of, histogram, intervals, line_chart, stacked
from score_sde.report.figures import Estimate, number, with_error


def _paths(chart, **wanted):
    """The corners of the paths of a chart that have these attributes."""
    found = [path for path in ElementTree.fromstring(chart.svg).iter("path")]
    found = [path for path in found if all(path.get(name.replace("_", "-")) == value for name, value in wanted.items())]
    return [np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path.get("d")), float) for path in found]


def _curve(chart):
    return _paths(chart, stroke="var(--tone0)", fill="none")[0]


def test_a_line_is_drawn_as_a_line_and_a_power_as_a_line_on_two_logarithmic_axes():
    x = np.arange(1.0, 30.0)
    line = line_chart([curve_of("a", zip(x, 3 * x - 7, strict=True))], title="t", x_label="x")
    power = line_chart([curve_of("a", zip(x, x**-1.5, strict=True))], title="t", x_label="x", log_x=True, log_y=True)
    for points, sign in ((_curve(line), -1.0), (_curve(power), 1.0)):  # down is more in an SVG
        slopes = np.diff(points[:, 1]) / np.diff(points[:, 0])
        assert len(points) == len(x) and sign * slopes[0] > 0
        np.testing.assert_allclose(slopes, slopes.mean(), rtol=1e-3)


def test_a_logarithmic_axis_is_refused_where_values_are_not_positive():
    for values, kind in (([0.0, 1.0], "linear"), ([1e-3, 1.0], "log")):
        axes = Figure().subplots()
        charts._scale(axes.yaxis, values, log=True)
        assert axes.get_yscale() == kind


@pytest.mark.parametrize("seed", range(5))
def test_ticks_are_few_round_and_on_the_axis(seed):
    rng = np.random.default_rng(seed)
    axis = Figure().subplots().xaxis
    for _ in range(40):
        low = float(rng.normal() * 10.0 ** rng.integers(-8, 8))
        high = low + float(10 ** rng.uniform(-3, 3)) * max(abs(low), 1e-9)
        charts._scale(axis, [low, high], tight=True)
        shown = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
        assert 2 <= len(shown) <= 11
        first = 10 ** float(rng.uniform(-9, 9))
        last = first * 10 ** float(rng.uniform(0.7, 12))
        charts._scale(axis, [first, last], log=True, tight=True)
        shown = [tick for tick in axis.get_majorticklocs() if first <= tick <= last]
        assert 1 <= len(shown) <= 9 and all(math.isclose(float(f"{tick:.0e}"), tick) for tick in shown)


def test_a_long_curve_is_thinned_and_its_peak_stays():
    y = np.ones(10_000)
    y[5000] = 50.0
    curve = curve_of("a", enumerate(y.tolist()))
    assert len(curve.x) == MAX_POINTS and max(curve.high) == 50.0 and curve.x[-1] == 9999.0
    assert math.isclose(np.mean(curve.y), y.mean(), rel_tol=0.02)


def test_what_is_drawn_is_told_in_words_and_numbers_that_are_none_are_left_out():
    chart = line_chart([curve_of("a < b", [(1, 0.5), (2, float("nan")), (3, 0.25)])], title="t", x_label="step")
    root = ElementTree.fromstring(chart.svg)
    assert root.get("aria-label") == "t: a < b from 0.5 at 1 to 0.25 at 3" and root.get("role") == "img"
    assert len(_curve(chart)) == 2 and "step" in [text.text for text in root.iter("text")]


def test_a_chart_is_drawn_without_styles_and_ids_and_in_the_colors_of_the_page():
    """So that several fit on one page, which allows no style but its own and has a dark scheme."""
    rows = [
        ("$a_1$ <b>", Estimate(1.0, 0.1), 0),
        ("x\x00y \N{SNOWMAN} \N{CJK UNIFIED IDEOGRAPH-4E2D}" * 9, Estimate(2.0), 1),
    ]
    drawn = [
        intervals(rows, title="t", unit="u"),
        line_chart(
            [curve_of("a", [(1, 1.0, 0.5), (2, 2.0, 0.1)], mark="dots")],
            title="t",
            x_label="x",
            levels=[Level("l", 1.5)],
        ),
        histogram(np.arange(50.0), title="t", x_label="x", mean=20.0, interval=(19.0, 21.0), marks={"m": 30.0}),
        stacked([("a", 1.0), ("b", 2.0)], title="t", unit="u", note=""),
    ]
    for chart in drawn:
        parts = list(ElementTree.fromstring(chart.svg).iter())
        assert {part.tag for part in parts} <= {"svg", "g", "path", "text"}
        assert not {name for part in parts for name in part.attrib} & {"id", "style", "clip-path"}
        assert {part.get(name, "none")[:6] for part in parts for name in ("fill", "stroke")} <= {"none", "var(--"}
    assert "$a_1$ &lt;b&gt;" in drawn[0].svg


def test_a_chart_of_nothing_is_nothing():
    assert line_chart([curve_of("a", [])], title="t", x_label="x") is None
    assert stacked([("a", 0.0)], title="t", unit="", note="") is None
    assert intervals([("a", Estimate(math.nan), 0)], title="t", unit="") is None


@pytest.mark.parametrize("values", [(1e308, -1e308), (1e-320, 2e-320), (5.0, 5.0), (1e150, 1.0), (0.0, 0.0)])
def test_any_finite_numbers_can_be_drawn(values):
    points = [(value, value, abs(value)) for value in values]
    for log in (False, True):
        chart = line_chart([curve_of("a", points, mark="dots")], title="t", x_label="x", log_x=log, log_y=log, zero=log)
        assert "nan" not in chart.svg and "inf" not in chart.svg.replace("inform", "")
    assert intervals([("a", Estimate(value, value), 0) for value in values], title="t", unit="").svg


def test_bars_add_up():
    values = np.random.default_rng(0).normal(size=400)
    bars = _paths(histogram(values, title="t", x_label="x", mean=0.0, interval=(-0.1, 0.1), marks={}), opacity="0.35")
    heights = np.array([np.ptp(bar[:, 1]) for bar in bars])
    counts = np.histogram(values, bins=40)[0]
    np.testing.assert_allclose(heights / heights.sum(), counts / 400, atol=1e-3)


def test_parts_of_a_whole_are_as_long_as_they_are_large():
    chart = stacked([("a", 1.0), ("b", 3.0), ("c", 6.0)], title="t", unit="", note="")
    starts = np.array([_paths(chart, fill=f"var(--tone{index})")[0][:, 0].min() for index in range(3)])
    np.testing.assert_allclose(starts, 420.0 * np.array([0.0, 0.1, 0.4]), atol=0.01)


def test_numbers_are_written_so_that_they_read_back():
    rng = np.random.default_rng(0)
    for value in (10 ** rng.uniform(-12, 12, 200) * rng.choice([-1, 1], 200)).tolist():
        text = number(value).replace("\N{MINUS SIGN}", "-").replace(",", "")
        mantissa, _, power = text.partition(" \N{MULTIPLICATION SIGN} 10")
        exponent = int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)
        assert math.isclose(float(mantissa) * 10.0**exponent, value, rel_tol=6e-4), text
        shown, _, error = with_error(Estimate(value, abs(value) / 50)).replace(",", "").partition(" ± ")
        if error and "10" + "⁻" not in shown:
            assert abs(float(shown.replace("\N{MINUS SIGN}", "-")) - value) <= 0.06 * float(error)
