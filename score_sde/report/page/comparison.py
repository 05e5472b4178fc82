"""Several runs side by side: numbers with the errors of their differences, curves, samples, settings that differ."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from score_sde.config import differing_fields
from score_sde.errors import plural
from score_sde.evaluation.base import mean_and_std_error
from score_sde.report.page.bars import intervals
from score_sde.report.page.charts import line_chart, series_of
from score_sde.report.page.figures import Z95, Estimate, dig, span, with_error
from score_sde.report.page.markup import Markup, code, element, join, note, table
from score_sde.report.page.quantities import Quantity, loss_law, quantities, unlike
from score_sde.report.page.record import shown
from score_sde.report.page.run import Run, complete_config
from score_sde.report.page.sections import Section, picture

_DATA = ("data.name", "data.shape", "likelihood.num_examples")  # what decides which examples are measured


def comparison(runs: Sequence[Run]) -> Section | None:
    """The first run against each of the others; None if there are none."""
    if len(runs) < 2:
        return None
    labels = labels_of(runs)
    pictures = [picture(run, "samples.png", label, "sample") for run, label in zip(runs, labels, strict=True)]
    shown_pictures = [each for each in pictures if each]
    body = join(
        _numbers(runs, labels),
        element("div", *_charts(runs, labels), class_="grid"),
        join(element("h3", "Samples"), element("div", *shown_pictures, class_="grid")) if shown_pictures else None,
        element("h3", "Settings that differ"),
        _settings(runs, labels),
    )
    return Section("comparison", "Comparison", body)


def labels_of(runs: Sequence[Run]) -> list[str]:
    """The names of the runs, with their directories where two are the same.

    The first is the one that the page is about.
    """
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{run.path.resolve().parent.name}/{name} ({number_})"
        for number_, (run, name) in enumerate(zip(runs, names, strict=True), start=1)
    ]


def difference(base: Run, other: Run, first: Quantity, second: Quantity) -> tuple[Estimate, str]:
    """How much more the second number is than the first, and how its error was found.

    Two likelihoods of the same examples are compared image by image: what makes an image hard is the same for both, and
    leaves the difference. Otherwise the errors are independent and add in squares.
    """
    pairs = _paired(base, other, first.column) if first.column and first.column == second.column else None
    if pairs is not None:
        mean, error = mean_and_std_error(pairs)
        return Estimate(mean, error), f"paired over {len(pairs):,} {plural(len(pairs), 'image')}"
    errors = (first.found.std_error, second.found.std_error)
    joint = None if errors[0] is None or errors[1] is None else math.hypot(errors[0], errors[1])
    return Estimate(second.found.value - first.found.value, joint), "" if joint is None else "independent errors"


def _paired(base: Run, other: Run, column: str) -> np.ndarray | None:
    """What the second run adds to the first, for every example that both could do; None if these are not the same."""
    if any(complete_config(base).get(name) != complete_config(other).get(name) for name in _DATA):
        return None
    columns = []
    for run in (base, other):
        arrays = run.arrays("likelihood.npz")
        values, success = arrays.get(column), arrays.get("success")
        if values is None or values.ndim != 1 or values.dtype.kind != "f":
            return None
        # Chains have no solver that could fail.
        good = np.ones(len(values), bool) if success is None else success.astype(bool)
        if good.shape != values.shape:
            return None
        sign = -1.0 if column == "nats" else 1.0  # a log-likelihood; bounds are of its negative
        columns.append((sign * values.astype(np.float64), good & np.isfinite(values)))
    (first, good), (second, fine) = columns
    if first.shape != second.shape or (good & fine).sum() < 2:
        return None
    return (second - first)[good & fine]


def _numbers(runs: Sequence[Run], labels: Sequence[str]) -> Markup:
    """One row per number: what each run has, and how the others differ from the first."""
    found = [{each.key: each for each in quantities(run)} for run in runs]
    keys = list(dict.fromkeys(key for each in found for key in each))
    rows = []
    for key in keys:
        some = next(each[key] for each in found if key in each)
        row: list[Any] = [join(some.label, element("span", f" {some.unit}", class_="unit") if some.unit else None)]
        for index, (run, each) in enumerate(zip(runs, found, strict=True)):
            row.append(_cell(runs[0], run, found[0].get(key), each.get(key), is_first=index == 0))
        rows.append(row)
    if not rows:
        return note("None of the runs has been measured.")
    words = (
        "± is a standard error. Differences are to the first run; they are marked where 1.96 of their errors do not "
    )
    return join(
        table(["", *labels], rows, caption="Headline numbers side by side", class_="numbers compared"),
        note(words, "reach zero. Numbers of unlike protocols are shown, but not subtracted."),
    )


def _cell(base: Run, run: Run, first: Quantity | None, second: Quantity | None, *, is_first: bool) -> Markup:
    if second is None:
        return element("span", "not measured", class_="unit")
    interval = span(second.found)
    parts = [element("div", with_error(Estimate(second.found.value, second.found.std_error)))]
    if interval:
        parts.append(element("div", interval, class_="unit"))
    if is_first or first is None:
        return join(*parts)
    if fields := _unlike_fields(first, second):
        return join(*parts, element("div", "not comparable: ", "; ".join(fields), class_="problem"))
    change, how = difference(base, run, first, second)
    clear = change.std_error is not None and abs(change.value) > Z95 * change.std_error
    words = element("div", with_error(change, sign=True), class_="change clear" if clear else "change")
    return join(*parts, words, element("div", how, class_="unit"))


def _unlike_fields(first: Quantity, second: Quantity) -> list[str]:
    if first.unit == second.unit:
        return unlike(first.protocol, second.protocol)
    return [f"unit ({first.unit} and {second.unit})"]


def _charts(runs: Sequence[Run], labels: Sequence[str]) -> list[Markup]:
    charts = []
    for name, title in (("loss", "Training loss"), ("eval_loss", "Held-out loss"), ("grad_norm", "Gradient norm")):
        curves = []
        for tone, (run, label) in enumerate(zip(runs, labels, strict=True)):
            errors = dict(run.series(f"{name}_std_error"))
            points = [(step, value, errors.get(step)) for step, value in run.series(name)]
            mark = "dots" if errors else "line"
            curve = series_of(label, points, tone=tone, z=Z95, mark=mark)
            # Dashes show what lies below: curves of runs with the same seed may coincide.
            curves.append(dataclasses.replace(curve, dashed=tone > 0))
        charts.append(line_chart(curves, title=title, x_label="step", log_y=True, note=_unlike_losses(runs, name)))
    rows = [
        (label, each.found, tone)
        for tone, (run, label) in enumerate(zip(runs, labels, strict=True))
        for each in quantities(run)
        if each.key == "nll"
    ]
    units = {each.unit: None for run in runs for each in quantities(run) if each.key == "nll"}
    if len(rows) > 1 and len(units) == 1:
        charts.append(intervals(rows, title="Negative log-likelihood", unit=", ".join(units)))
    return [chart for chart in charts if chart]


def _unlike_losses(runs: Sequence[Run], name: str) -> str:
    """A warning where curves are of losses of different things."""
    laws = [loss_law(run) for run in runs]
    if name == "grad_norm" or all(law == laws[0] for law in laws):
        return ""
    return "These losses are of different things: compare their shapes, not their values."


def _settings(runs: Sequence[Run], labels: Sequence[str]) -> Markup:
    configs = [complete_config(run) for run in runs if run.config is not None]
    if len(configs) < len(runs):
        return note("Not every run has a config.json.")
    names = sorted({line.split(":")[0] for other in configs[1:] for line in differing_fields(configs[0], other)})
    if not names:
        return note("All settings are the same.")
    rows = [[code(name), *(code(shown(dig(each, name))) for each in configs)] for name in names]
    return table(["field", *labels], rows, caption="Settings that differ", class_="fields")
