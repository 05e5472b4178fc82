"""Charts of the results of the modes: the same on the page of a run and in its pictures."""

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.files import jsonable, read_json_lines
from score_sde.report.charts import Chart, Level, curve_of, histogram, intervals, line_chart, save_charts, stacked
from score_sde.report.figures import Z95, dig, estimate, finite, number, series
from score_sde.report.quantities import comparable, quantities_of
from score_sde.report.results import bits_unit

log = logging.getLogger(__name__)

Report = Mapping[str, Any]
Arrays = Mapping[str, np.ndarray]


def loss_chart(records: Sequence[Report]) -> Chart | None:
    """Training and held-out loss, from the records of a ``metrics.jsonl``."""
    training, held_out, errors = (series(records, name) for name in ("loss", "eval_loss", "eval_loss_std_error"))
    dropped = sum(finite(value) is None for _, value in (*training, *held_out))
    rows = [(step, value, dict(errors).get(step)) for step, value in held_out]
    return line_chart(
        [curve_of("training", training), curve_of("held out, 95 % band", rows, mark="dots", tone=1)],
        title="Loss",
        x_label="step",
        log_y=True,
        note=f"{dropped} values are no finite numbers and are left out." if dropped else "",
    )


def loss_curve(metrics_path: Path, path: Path) -> Path | None:
    """Draw the losses in a ``metrics.jsonl``; without any, nothing is drawn and a message says so."""
    drawn = save_charts(path, loss_chart(read_json_lines(metrics_path) or []))
    if drawn is None:
        log.warning("There is no loss in %s, and %s is not drawn.", metrics_path, path)
    return drawn


def _histogram(report: Report, arrays: Arrays) -> list[Chart | None]:
    """The distribution of the likelihood over images, with its mean and the mean of a baseline."""
    discrete = "bits_per_dim" in report
    values = arrays.get("bits_per_dim" if discrete else "nats")
    if values is None or values.dtype.kind not in "fiu" or values.ndim != 1:
        return []
    success = arrays.get("success")
    if success is not None and success.shape == values.shape:
        values = values[success.astype(bool)]
    values = (1.0 if discrete else -1.0) * values[np.isfinite(values)].astype(np.float64)
    # Beyond that a histogram's edges have no digits left.
    if len(values) < 2 or np.abs(values).max() > 1e15:
        return []
    mean = float(values.mean())
    spread = Z95 * float(values.std(ddof=1)) / math.sqrt(len(values))
    found = estimate(mean, None, report.get("interval"))
    interval = (mean - spread, mean + spread) if found is None or found.interval is None else found.interval
    mixture = finite(dig(report, "baseline", "bits_per_dim"))
    marks = {} if mixture is None else {"Gaussian mixture": mixture}
    words = f"{'bits per dimension' if discrete else 'nats per example'} (fewer is better)"
    return [histogram(values, title="Held-out images", x_label=words, mean=mean, interval=interval, marks=marks)]


def _bounds(report: Report, arrays: Arrays) -> list[Chart | None]:
    """Likelihood and bounds of one model: their gap shows how consistent its score is."""
    found = comparable(quantities_of("likelihood.json", report))
    rows = [(each.label, each.found, int(each.key == "baseline")) for each in found]
    return [intervals(rows, title="Likelihood and bounds", unit=bits_unit(report))] if len(rows) > 1 else []


def _noise_levels(report: Report, arrays: Arrays) -> list[Chart | None]:
    """Bits by noise level, and the spread of one draw of the loss there."""
    levels = report.get("noise_levels")
    edges, bits, *stds = (_numbers(dig(levels, name)) for name in ("log_snr", "bits", "importance_std", "uniform_std"))
    if len(edges) != len(bits) + 1 or not bits:
        return []
    middles = [-(a + b) / 2.0 for a, b in itertools.pairwise(edges)]
    spreads = [
        curve_of(f"{label} times", zip(middles, values, strict=True), tone=tone)
        for tone, (label, values) in enumerate(zip(("importance-sampled", "uniform"), stds, strict=True))
        if len(values) == len(bits)
    ]
    axis, unit, ratio = "log noise-to-signal ratio", bits_unit(report), finite(dig(levels, "variance_ratio"))
    words = "" if ratio is None else f"An importance-sampled batch is worth {number(ratio, 3)} with uniform times."
    spent, spread = "Where the bits are spent", "Spread of one draw of the loss"
    curve = curve_of("bits", zip(middles, bits, strict=True), mark="area")
    return [
        line_chart([curve], title=spent, x_label=axis, y_label=f"{unit} per level", zero=True),
        line_chart(spreads, title=spread, x_label=axis, y_label=unit, log_y=True, note=words),
    ]


def _chain(report: Report, arrays: Arrays) -> list[Chart | None]:
    """Bits per step of a chain, and its rate-distortion curve (Ho et al. 2020, figure 5)."""
    rate, distortion, bits = (arrays.get(f"chain_{name}") for name in ("rate", "distortion", "level_bits"))
    if rate is None or distortion is None or rate.shape != distortion.shape or rate.ndim != 1 or rate.dtype.kind != "f":
        return []
    points = zip(rate.tolist(), distortion.tolist(), strict=True)
    curve, axis = curve_of("distortion", points), "rate, bits per dimension"
    unit = "root mean squared error"
    drawn = [line_chart([curve], title="Rate and distortion", x_label=axis, y_label=unit, zero=True)]
    if bits is not None and bits.ndim == 1 and bits.dtype.kind == "f":
        costs = [(len(bits) + 1 - index, cost) for index, cost in enumerate(bits.tolist())]
        curve, axis, unit = curve_of("cost", costs), "level (1 is next to the data)", "bits per dimension"
        drawn.append(line_chart([curve], title="Cost of each step", x_label=axis, y_label=unit, log_y=True))
    return drawn


def budget_chart(report: Report) -> Chart | None:
    """The parts of the error as one bar, lengths in proportion."""
    budget = report.get("budget")
    images, probes = finite(dig(budget, "images")), finite(dig(budget, "probes"))
    if images is None or probes is None:
        return None
    alone = math.sqrt(max(images**2 - probes**2, 0.0)) if abs(images) < 1e150 else images
    shifts = {"solver": ("solver", "mean"), "truncation": ("truncation", "mean"), "prior": ("prior",)}
    sizes = [(name, finite(dig(budget, *keys))) for name, keys in shifts.items()]
    parts = [("images alone", alone), ("probes", probes), *((name, size) for name, size in sizes if size is not None)]
    words = (
        "Standard errors of the first two, shifts for the rest. The interval holds images, probes and solver; errors "
        "add in squares, so it is shorter than their sum."
    )
    return stacked(
        [(name, abs(size)) for name, size in parts], title="Error budget", unit=bits_unit(report), note=words
    )


def pareto_chart(report: Report) -> Chart | None:
    """Distance against evaluations: one line per solver on its best grid, and the best reference."""
    points, references = (found if isinstance(found := report.get(n), list) else [] for n in ("points", "references"))
    lines: dict[str, dict[float, float]] = {}
    for point in points:
        evals, distance = finite(dig(point, "num_evals")), finite(dig(point, "distance"))
        if evals is not None and distance is not None:
            line = lines.setdefault(str(dig(point, "setting", "solver")), {})
            line[evals] = min(distance, line.get(evals, math.inf))
    level = min((found for point in references if (found := finite(dig(point, "distance"))) is not None), default=None)
    return line_chart(
        [
            curve_of(name, sorted(line.items()), mark="dots", tone=tone)
            for tone, (name, line) in enumerate(sorted(lines.items()))
        ],
        title="Quality against cost",
        x_label="evaluations of the score per sample",
        y_label="Fréchet distance of pixels",
        log_x=True,
        log_y=True,
        levels=[] if level is None else [Level("reference, 1000 steps", level)],
    )


def classifier_chart(report: Report) -> Chart | None:
    """The accuracy of a classifier of noisy data against the noise."""
    levels = report.get("levels")
    rows = []
    for each in levels if isinstance(levels, list) else []:
        ends = _numbers(dig(each, "accuracy_interval"))
        error = (ends[1] - ends[0]) / (2.0 * Z95) if len(ends) == 2 else None
        rows.append((dig(each, "log_noise"), dig(each, "accuracy"), error))
    curve = curve_of("accuracy, 95 % band", rows, mark="dots")
    return line_chart([curve], title="Accuracy by noise level", x_label="log noise-to-signal ratio", zero=True)


def scaling_chart(report: Report) -> Chart | None:
    """Scaling efficiency against devices, with communication hidden and exposed."""
    scaling = report.get("scaling")
    curves = [
        curve_of(
            label,
            [(dig(each, "chips"), dig(each, name)) for each in scaling] if isinstance(scaling, list) else [],
            mark="dots",
            tone=tone,
        )
        for tone, (label, name) in enumerate(
            (("communication not hidden", "efficiency_serial"), ("hidden", "efficiency_overlapped"))
        )
    ]
    return line_chart(curves, title="Efficiency on more devices", x_label="devices", log_x=True, zero=True)


#: The pictures of a likelihood: a description and the charts of each.
LIKELIHOOD: dict[str, tuple[str, Callable[[Report, Arrays], list[Chart | None]]]] = {
    "likelihood.png": ("Held-out images", _histogram),
    "bounds.png": ("Likelihood and bounds", _bounds),
    "noise_levels.png": ("Bits by noise level", _noise_levels),
    "rate_distortion.png": ("Rate and distortion", _chain),
}


def draw_likelihood(place: Path, report: Report, arrays: Arrays) -> None:
    """Draw the pictures of a measured likelihood."""
    for name, (_, charts) in LIKELIHOOD.items():
        save_charts(place / name, *charts(jsonable(report), arrays))


def _numbers(values: Any) -> list[float]:
    """A list of finite numbers; anything else gives an empty list."""
    found = [finite(value) for value in values] if isinstance(values, list) else []
    return [value for value in found if value is not None] if None not in found else []
