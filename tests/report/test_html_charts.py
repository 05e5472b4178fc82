"""Charts put values where they belong, mark round numbers, and thin long curves without hiding their extremes."""

import json
import math
import re

import numpy as np
import pytest

from score_sde.report.page.bars import histogram, stacked
from score_sde.report.page.charts import MAX_POINTS, WIDTH, line_chart, series_of
from score_sde.report.page.figures import Estimate, number, with_error
from score_sde.report.page.scales import linear_ticks, log_ticks, scale_of


def _points(svg):
    """The corners of the first curve of a chart."""
    found = re.search(r'<polyline points="([^"]+)"', svg)
    return np.array([[float(v) for v in pair.split(",")] for pair in found[1].split()])


def test_a_line_is_drawn_as_a_line_and_a_power_as_a_line_on_two_logarithmic_axes():
    x = np.arange(1.0, 30.0)
    straight = _points(line_chart([series_of("a", zip(x, 3 * x - 7, strict=True))], title="t", x_label="x"))
    power = line_chart([series_of("a", zip(x, x**-1.5, strict=True))], title="t", x_label="x", log_x=True, log_y=True)
    for points in (straight, _points(power)):
        slopes = np.diff(points[:, 1]) / np.diff(points[:, 0])
        np.testing.assert_allclose(slopes, slopes.mean(), rtol=0.15)  # pixels are written with one decimal
    assert np.all(np.diff(straight[:, 1]) < 0) and np.all(np.diff(_points(power)[:, 1]) > 0)


def test_a_logarithmic_axis_is_refused_where_values_are_not_positive():
    assert not scale_of([0.0, 1.0], 0.0, 1.0, log=True).log
    assert scale_of([1e-3, 1.0], 0.0, 1.0, log=True).log


@pytest.mark.parametrize("seed", range(5))
def test_ticks_are_few_round_and_on_the_axis(seed):
    rng = np.random.default_rng(seed)
    for _ in range(200):
        low = float(rng.normal() * 10.0 ** rng.integers(-8, 8))
        high = low + float(10 ** rng.uniform(-3, 3)) * max(abs(low), 1e-9)
        ticks = linear_ticks(low, high)
        assert 2 <= len(ticks) <= 11 and low - 1e-6 * abs(low) <= ticks[0] and ticks[-1] <= high + 1e-6 * abs(high)
        first = 10 ** float(rng.uniform(-9, 9))
        powers = log_ticks(first, first * 10 ** float(rng.uniform(0.7, 12)))
        assert 1 <= len(powers) <= 9 and all(float(f"{tick:.0e}") == tick for tick in powers)


def test_a_long_curve_is_thinned_and_its_peak_stays():
    y = np.ones(10_000)
    y[5000] = 50.0
    curve = series_of("a", enumerate(y.tolist()))
    assert len(curve.x) == MAX_POINTS and max(curve.high) == 50.0 and curve.x[-1] == 9999.0
    assert math.isclose(np.mean(curve.y), y.mean(), rel_tol=0.02)


def test_what_is_read_out_is_what_was_drawn():
    svg = line_chart([series_of("a < b", [(1, 0.5), (2, float("nan")), (3, 0.25)])], title="t", x_label="step")
    data = json.loads(re.search(r'data-chart="([^"]+)"', svg)[1].replace("&quot;", '"').replace("&lt;", "<"))
    assert data["curves"][0]["label"] == "a < b"
    assert [point[2:] for point in data["curves"][0]["points"]] == [["1", "0.5"], ["3", "0.25"]]
    np.testing.assert_allclose(_points(svg), [point[:2] for point in data["curves"][0]["points"]], atol=0.06)


def test_a_chart_of_nothing_is_nothing():
    assert line_chart([series_of("a", [])], title="t", x_label="x") == ""
    assert stacked([("a", 0.0)], title="t", unit="", note="") == ""


def test_bars_add_up():
    values = np.random.default_rng(0).normal(size=400)
    svg = histogram(values, title="t", x_label="x", mean=0.0, interval=(-0.1, 0.1), marks={})
    heights = [float(found) for found in re.findall(r'height="([\d.]+)" class="bar"', svg)]
    counts = np.histogram(values, bins=40)[0]
    np.testing.assert_allclose(np.array(heights) / sum(heights), counts[counts > 0] / 400, atol=1e-3)


def test_parts_of_a_whole_are_as_long_as_they_are_large():
    svg = stacked([("a", 1.0), ("b", 3.0), ("c", 6.0)], title="t", unit="", note="")
    starts = [float(found) for found in re.findall(r'<rect x="([\d.]+)"', svg)]
    np.testing.assert_allclose(starts, [0.0, 0.1 * WIDTH, 0.4 * WIDTH])


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
