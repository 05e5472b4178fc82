"""The second part of a page: likelihood, metrics of samples, checkpoints compared, samplers compared, the plan."""

import itertools
import math
from typing import Any

import numpy as np

from score_sde.errors import plural
from score_sde.report.page.bars import histogram, intervals, stacked
from score_sde.report.page.charts import Level, line_chart, series_of
from score_sde.report.page.figures import (
    DASH,
    Z95,
    dig,
    duration,
    estimate,
    finite,
    number,
    span,
    with_error,
)
from score_sde.report.page.markup import Markup, code, element, join, note, table
from score_sde.report.page.quantities import Quantity, bits_unit, estimate_of, metric_quantities, quantities
from score_sde.report.page.run import Run
from score_sde.report.page.sections import Section, missing, picture


def likelihood(run: Run) -> Section:
    """How likely held-out data are, how far that number may be off, and where the bits are spent."""
    report = run.report("likelihood.json")
    if not report:
        return Section("likelihood", "Likelihood", missing("Nothing has been measured yet:", "likelihood"))
    charts = [
        _histogram(run, report) or picture(run, "likelihood.png", "Held-out images", "likelihood"),
        _bounds(run, report) or picture(run, "bounds.png", "Likelihood and bounds", "likelihood"),
        *(_noise_levels(report) or [picture(run, "noise_levels.png", "Bits by noise level", "likelihood")]),
        *(_rate_distortion(run) or [picture(run, "rate_distortion.png", "Rate and distortion", "likelihood")]),
        _budget(report),
    ]
    body = join(
        element("p", report.get("protocol"), class_="protocol"),
        element("div", *(chart for chart in charts if chart), class_="grid"),
        table(["", "value", ""], _likelihood_rows(report), caption="Likelihood in numbers", class_="numbers"),
    )
    return Section("likelihood", "Likelihood", body)


def metrics(run: Run) -> Section:
    """How far samples are from data, each metric with its interval and protocol."""
    report = run.metrics
    found = metric_quantities(report)
    if not found:
        return Section("metrics", "Metrics of samples", missing("Nothing has been measured yet:", "eval"))
    rows = [[each.label, with_error(each.found), _interval(each), each.how] for each in found]
    warnings = sorted(
        {str(w) for e in report.values() if isinstance(w_ := dig(e, "details", "warnings"), list) for w in w_}
    )
    head = ["metric", "value ± s.e.", "95 % interval", "protocol"]
    body = join(
        table(head, rows, caption="Metrics of samples", class_="numbers"),
        *(element("p", warning, class_="problem") for warning in warnings),
        note("Of a biased metric, the interval is about the corrected value; the plain one is what others report."),
    )
    return Section("metrics", "Metrics of samples", body)


def evaluation(run: Run) -> Section:
    """The checkpoints of the run beside one another, with the best marked."""
    report = run.report("evaluation.json")
    listed = report.get("checkpoints")
    rows = [row for row in listed if finite(dig(row, "step")) is not None] if isinstance(listed, list) else []
    if not rows:
        return Section("checkpoints", "Checkpoints", missing("No checkpoints have been compared yet:", "eval"))
    best = finite(report.get("best"))
    names = list(dict.fromkeys(name for row in rows for name in _checkpoint_values(row)))
    charts, cells = [], []
    for name in names:
        points = [(row["step"], v.value, v.std_error) for row in rows if (v := _checkpoint_values(row).get(name))]
        marks = [] if best is None else [Level(label="best", value=best, vertical=True)]
        label = f"{name}, 95 % band" if any(error for _, _, error in points) else name
        curve = series_of(label, points, mark="dots", z=Z95)
        charts.append(line_chart([curve], title=name, x_label="step", levels=marks))
    for row in rows:
        step, values = row["step"], _checkpoint_values(row)
        mark = element("strong", number(step), " best", class_="best") if finite(step) == best else number(step)
        cells.append([mark, *(with_error(values.get(name)) for name in names)])
    body = join(
        element("div", *charts, class_="grid"),
        table(["step", *names], cells, caption="Checkpoints", class_="numbers dense"),
    )
    return Section("checkpoints", "Checkpoints", body)


def pareto(run: Run) -> Section:
    """Quality of samplers against their cost."""
    report = run.report("pareto.json")
    points = report.get("points")
    lines: dict[str, dict[float, float]] = {}
    for point in points if isinstance(points, list) else ():
        evals, distance = finite(dig(point, "num_evals")), finite(dig(point, "distance"))
        if evals is not None and distance is not None:
            line = lines.setdefault(str(dig(point, "setting", "solver")), {})
            line[evals] = min(distance, line.get(evals, math.inf))
    references = report.get("references")
    found = [finite(dig(point, "distance")) for point in references] if isinstance(references, list) else []
    level = min((each for each in found if each is not None), default=None)
    curves = [
        series_of(name, sorted(line.items()), mark="dots", tone=tone)
        for tone, (name, line) in enumerate(sorted(lines.items()))
    ]
    chart = line_chart(
        curves,
        title="Quality against cost",
        x_label="evaluations of the score per sample",
        y_label="Fréchet distance of pixels",
        log_x=True,
        log_y=True,
        levels=[] if level is None else [Level(label="reference, 1000 steps", value=level)],
    ) or picture(run, "pareto.png", "Quality against cost", "pareto")
    if not chart:
        return Section("samplers", "Samplers", missing("Samplers have not been compared yet:", "pareto"))
    chosen = report.get("recommended")
    setting = dig(chosen, "setting")
    words = (
        element("p", "Recommended: ", code(dig(setting, "solver")), " on the ", code(dig(setting, "grid")), " grid, ",
                f"{number(dig(chosen, 'num_evals'))} evaluations, distance ",
                with_error(estimate(dig(chosen, "distance"), dig(chosen, "std_error"))), ".")
        if isinstance(setting, dict)
        else None
    )  # fmt: skip
    return Section("samplers", "Samplers", join(words, element("div", chart, class_="grid")))


def plan(run: Run) -> Section | None:
    """What the run was expected to need; None if nothing was planned."""
    report = run.report("plan.json")
    if not report:
        return None
    gigabytes = [finite(dig(report, "bytes", name)) for name in ("total", "usable")]
    needed, usable = (DASH if each is None else f"{number(each / 1e9, 3)} GB" for each in gigabytes)
    bound = dig(report, "seconds", "bound")
    rows = [
        ["Chip", join(dig(report, "chip", "name"), ", compiled for ", report.get("compiled_for"))],
        ["Devices", f"{number(report.get('devices'))}, batch {number(report.get('batch_size'))}"],
        ["Work per step", f"{number(_scaled(report.get('flops_per_step'), 1e9))} GFLOP"],
        ["Memory per device", f"{needed} of {usable}: {'fits' if report.get('fits') is True else 'does not fit'}"],
        [
            "Steps per second at peak rates",
            join(number(report.get("steps_per_second_at_peaks"), 3), f", bound by {bound}"),
        ],
    ]
    rows = [row for row in rows if not row[1].startswith(DASH)]
    scaling = report.get("scaling")
    chips = [
        (dig(each, "chips"), dig(each, "efficiency_serial"), dig(each, "efficiency_overlapped"))
        for each in (scaling if isinstance(scaling, list) else ())
    ]
    chart = line_chart(
        [
            series_of("communication not hidden", [(n, serial) for n, serial, _ in chips], mark="dots"),
            series_of("hidden", [(n, hidden) for n, _, hidden in chips], mark="dots", tone=1),
        ],
        title="Efficiency on more devices",
        x_label="devices",
        log_x=True,
        zero=True,
    )
    advice = report.get("advice")
    listed = [element("li", line) for line in advice] if isinstance(advice, list) else []
    facts = table(["", "planned"], rows, caption="Plan", class_="numbers")
    body = join(element("div", facts, chart, class_="grid"), element("ul", *listed) if listed else None)
    return Section("plan", "Plan", body)


def _interval(each: Quantity) -> Markup:
    """An interval and what it is for."""
    told = each.interval_of if each.found.interval else ""
    return join(span(each.found) or DASH, element("div", told, class_="unit") if told else None)


def _scaled(value: Any, unit: float) -> float | None:
    found = finite(value)
    return None if found is None else found / unit


def _checkpoint_values(row: dict[str, Any]) -> dict[str, Any]:
    """The numbers of one checkpoint, by the names they are shown under."""
    found = {}
    for name, label in (("loss", "Loss"), ("bits_per_dim", "Bits per dimension")):
        error = row.get(f"{name}_std_error", row.get("std_error") if name == "loss" else None)
        value = estimate_of(row.get(name))
        found[label] = None if value is None else value._replace(std_error=value.std_error or finite(error))
    nested = row.get("metrics")
    for name, entry in nested.items() if isinstance(nested, dict) else ():
        labelled = metric_quantities({name: entry if isinstance(entry, dict) else {"value": entry}})
        found |= {each.label: each.found for each in labelled}
    return {label: value for label, value in found.items() if value is not None}


def _histogram(run: Run, report: dict[str, Any]) -> Markup | None:
    arrays = run.arrays("likelihood.npz")
    discrete = "bits_per_dim" in report
    values = arrays.get("bits_per_dim" if discrete else "nats")
    if values is None or values.dtype.kind not in "fiu" or values.ndim != 1:
        return None
    values = values.astype(np.float64)
    values = (values if discrete else -values)[np.isfinite(values)]
    # Beyond that a histogram's edges have no digits left.
    if len(values) < 2 or np.abs(values).max() > 1e15:
        return None
    mean = float(values.mean())
    spread = Z95 * float(values.std(ddof=1)) / math.sqrt(len(values))
    found = estimate(mean, None, report.get("interval"))
    interval = (mean - spread, mean + spread) if found is None or found.interval is None else found.interval
    mixture = finite(dig(report, "baseline", "bits_per_dim"))
    marks = {} if mixture is None else {"Gaussian mixture": mixture}
    label = "bits per dimension" if discrete else "nats per example"
    words = f"{label} (fewer is better)"
    return histogram(values, title="Held-out images", x_label=words, mean=mean, interval=interval, marks=marks)


def _bounds(run: Run, report: dict[str, Any]) -> Markup | None:
    rows = [(each.label, each.found, 0) for each in quantities(run) if each.key in ("nll", "bound", "chain")]
    mixture = estimate(dig(report, "baseline", "bits_per_dim"), dig(report, "baseline", "std_error"))
    if mixture is not None:
        rows.append(("Best Gaussian mixture", mixture, 1))
    return intervals(rows, title="Likelihood and bounds", unit=bits_unit(report)) if len(rows) > 1 else None


def _budget(report: dict[str, Any]) -> Markup | None:
    """The parts of the error, each as long as it is large."""
    budget = report.get("budget")
    images, probes = finite(dig(budget, "images")), finite(dig(budget, "probes"))
    solver, cut, prior = dig(budget, "solver", "mean"), dig(budget, "truncation", "mean"), dig(budget, "prior")
    if images is None or probes is None:
        return None
    parts = [
        ("images alone", math.sqrt(max(images**2 - probes**2, 0.0)) if abs(images) < 1e150 else images),
        ("probes", abs(probes)),
        *((name, abs(size)) for name, value in (("solver", solver), ("truncation", cut), ("prior", prior))
          if (size := finite(value)) is not None),
    ]  # fmt: skip
    words = (
        "Standard errors of the first two, shifts for the rest. The interval holds images, probes and solver; errors "
        "add in squares, so it is shorter than their sum."
    )
    return stacked(parts, title="Error budget", unit=bits_unit(report), note=words)


def _noise_levels(report: dict[str, Any]) -> list[Markup]:
    """Where the bits are spent, and how much one draw of the loss varies there."""
    levels = report.get("noise_levels")
    edges = _numbers(dig(levels, "log_snr"))
    bits = _numbers(dig(levels, "bits"))
    if len(edges) != len(bits) + 1 or not bits:
        return []
    middles = [-(a + b) / 2.0 for a, b in itertools.pairwise(edges)]
    spreads = [
        series_of(label, zip(middles, values, strict=True), tone=tone)
        for tone, (label, values) in enumerate(
            (
                ("importance-sampled times", _numbers(dig(levels, "importance_std"))),
                ("uniform times", _numbers(dig(levels, "uniform_std"))),
            )
        )
        if len(values) == len(bits)
    ]
    axis, unit = "log noise-to-signal ratio", bits_unit(report)
    ratio = finite(dig(levels, "variance_ratio"))
    words = "" if ratio is None else f"An importance-sampled batch is worth {number(ratio, 3)} with uniform times."
    return [
        line_chart(
            [series_of("bits", zip(middles, bits, strict=True), mark="area")],
            title="Where the bits are spent",
            x_label=axis,
            y_label=f"{unit} per level",
            zero=True,
        ),
        line_chart(spreads, title="Spread of one draw of the loss", x_label=axis, y_label=unit, log_y=True, note=words),
    ]


def _rate_distortion(run: Run) -> list[Markup]:
    arrays = run.arrays("likelihood.npz")
    rate, distortion = arrays.get("chain_rate"), arrays.get("chain_distortion")
    if rate is None or distortion is None or rate.shape != distortion.shape or rate.ndim != 1 or rate.dtype.kind != "f":
        return []
    points = zip(rate.tolist(), distortion.tolist(), strict=True)
    chart = line_chart(
        [series_of("distortion", points, mark="line")],
        title="Rate and distortion",
        x_label="rate, bits per dimension",
        y_label="root mean squared error",
        zero=True,
    )
    return [chart]


def _numbers(values: Any) -> list[float]:
    """A list of finite numbers, or an empty one if it is anything else."""
    found = [finite(value) for value in values] if isinstance(values, list) else []
    return [value for value in found if value is not None] if None not in found else []


def _likelihood_rows(report: dict[str, Any]) -> list[list[Any]]:
    unit, budget = bits_unit(report), report.get("budget")
    checked = f"on {number(dig(budget, 'num_examples'))} {plural(dig(budget, 'num_examples'), 'example')}"
    mixture = report.get("baseline")
    seconds = finite(report.get("seconds"))

    def shift(name: str) -> str:
        return with_error(estimate(dig(budget, name, "mean"), dig(budget, name, "std_error")), sign=True)

    nats = estimate(report.get("nats_per_example"), report.get("nats_std_error"))
    most = f"at most {number(report.get('num_evals_max'))}"
    rows = [
        ["Examples", number(report.get("num_examples")), f"{number(report.get('num_failed', 0))} failed solves"],
        ["Log-likelihood", with_error(nats), "nats per example"],
        ["Images", with_error(estimate(dig(budget, "images"))), f"standard error in {unit}, noise and probes in it"],
        ["Probes", with_error(estimate(dig(budget, "probes"))), "of which the trace estimator"],
        ["Solver", shift("solver"), f"what a finer solution adds, {checked}"],
        ["Truncation", shift("truncation"), f"what the decoder at t_min adds, {checked}; not in the interval"],
        ["Prior", with_error(estimate(dig(budget, "prior"))), "information left in the data at t = 1"],
        ["Gaussian mixture", with_error(estimate(dig(mixture, "bits_per_dim"), dig(mixture, "std_error"))),
         f"{unit}; {number(dig(mixture, 'num_components'))} components, {dig(mixture, 'covariance')} covariance"],
        ["Evaluations per likelihood", number(report.get("num_evals_mean")), most],
        ["Time", DASH if seconds is None else duration(seconds), "for all examples"],
    ]  # fmt: skip
    return [row for row in rows if row[1] != DASH]
