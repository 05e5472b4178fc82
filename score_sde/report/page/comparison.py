"""Several runs side by side: numbers with the errors of their differences, curves, samples, settings that differ."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from score_sde.config import differing_fields
from score_sde.errors import plural
from score_sde.evaluation.base import mean_and_std_error
from score_sde.report.charts import Chart, curve_of, intervals, line_chart
from score_sde.report.figures import Z95, Estimate, dig, with_error
from score_sde.report.page.blocks import Section, Table, Words, grid, picture, shown
from score_sde.report.quantities import Quantity, judged, loss_law, quantities, unlike
from score_sde.report.run import Run, complete_config

_DATA = ("data.name", "data.shape", "likelihood.num_examples")  # what decides which examples are measured


def comparison(runs: Sequence[Run]) -> Section | None:
    """The first run against each of the others; None if there are none."""
    if len(runs) < 2:
        return None
    labels = labels_of(runs)
    found = [judged(quantities(run)) for run in runs]
    pictures = [picture(run, "samples.png", label, "sample") for run, label in zip(runs, labels, strict=True)]
    blocks = [
        *_numbers(runs, found, labels),
        grid(*_charts(runs, found, labels)),
        *([Words("Samples", "heading"), grid(*pictures)] if any(pictures) else []),
        Words("Settings that differ", "heading"),
        _settings(runs, labels),
    ]
    return Section("comparison", "Comparison", blocks)


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


def _numbers(runs: Sequence[Run], found: Sequence[list[Quantity]], labels: Sequence[str]) -> list[Table | Words]:
    by_key = [{each.key: each for each in some} for some in found]
    rows = []
    for key in dict.fromkeys(key for each in by_key for key in each):
        some = next(each[key] for each in by_key if key in each)
        cells = [_cell(runs[0], run, by_key[0].get(key), each.get(key)) for run, each in zip(runs, by_key, strict=True)]
        rows.append([[(some.label, ""), (some.unit, "unit")], *cells])
    if not rows:
        return [Words("None of the runs has been measured.")]
    words = (
        "± is a standard error. Differences are to the first run; they are marked where 1.96 of their errors do not "
        "reach zero. Numbers of unlike protocols are shown, but not subtracted."
    )
    return [Table("Headline numbers side by side", ["", *labels], rows, "numbers compared"), Words(words)]


def _cell(base: Run, run: Run, first: Quantity | None, second: Quantity | None) -> list[tuple[str, str]]:
    """The lines of a cell: the number, its interval, and how it differs from that of the first run."""
    if second is None:
        return [("not measured", "unit")]
    lines = [(second.value, ""), (second.interval, "unit")]
    if first is None or run is base:
        return lines
    fields = unlike(first.protocol, second.protocol)
    if first.unit != second.unit:
        fields = [f"unit ({first.unit} and {second.unit})"]
    if fields:
        return [*lines, (f"not comparable: {'; '.join(fields)}", "problem")]
    change, how = difference(base, run, first, second)
    clear = change.std_error is not None and abs(change.value) > Z95 * change.std_error
    return [*lines, (with_error(change, sign=True), "change clear" if clear else "change"), (how, "unit")]


def _charts(runs: Sequence[Run], found: Sequence[list[Quantity]], labels: Sequence[str]) -> list[Chart | None]:
    charts = []
    for name, title in (("loss", "Training loss"), ("eval_loss", "Held-out loss"), ("grad_norm", "Gradient norm")):
        curves = []
        for tone, (run, label) in enumerate(zip(runs, labels, strict=True)):
            errors = dict(run.series(f"{name}_std_error"))
            points = [(step, value, errors.get(step)) for step, value in run.series(name)]
            curve = curve_of(label, points, tone=tone, mark="dots" if errors else "line")
            # Dashes show what lies below: curves of runs with the same seed may coincide.
            curves.append(dataclasses.replace(curve, dashed=tone > 0))
        charts.append(line_chart(curves, title=title, x_label="step", log_y=True, note=_unlike_losses(runs, name)))
    likelihoods = [(index, each) for index, some in enumerate(found) for each in some if each.key == "nll"]
    units = {each.unit for _, each in likelihoods}
    if len(likelihoods) > 1 and len(units) == 1:
        rows = [(labels[index], each.found, index) for index, each in likelihoods]
        charts.append(intervals(rows, title="Negative log-likelihood", unit=units.pop()))
    return charts


def _unlike_losses(runs: Sequence[Run], name: str) -> str:
    laws = [loss_law(run) for run in runs]
    if name == "grad_norm" or all(law == laws[0] for law in laws):
        return ""
    return "These losses are of different things: compare their shapes, not their values."


def _settings(runs: Sequence[Run], labels: Sequence[str]) -> Table | Words:
    configs = [complete_config(run) for run in runs if run.config is not None]
    if len(configs) < len(runs):
        return Words("Not every run has a config.json.")
    names = sorted({line.split(":")[0] for other in configs[1:] for line in differing_fields(configs[0], other)})
    if not names:
        return Words("All settings are the same.")
    rows = [[name, *(shown(dig(each, name)) for each in configs)] for name in names]
    return Table("Settings that differ", ["field", *labels], rows, "fields", tuple(range(len(runs) + 1)))
