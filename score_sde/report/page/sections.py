"""The parts of a page: training, samples, measurements, and the record of how everything was made."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from score_sde.errors import plural
from score_sde.files import failures
from score_sde.report.charts import Chart, Level, curve_of, line_chart
from score_sde.report.figures import DASH, Estimate, dig, finite, num_bytes, number, with_error
from score_sde.report.measured import (
    LIKELIHOOD,
    budget_chart,
    classifier_chart,
    loss_chart,
    pareto_chart,
    scaling_chart,
)
from score_sde.report.page.blocks import Group, Picture, Section, Table, Words, grid, missing, numbers, picture, shown
from score_sde.report.quantities import Quantity, estimate_at, facts, judged, metric_quantities
from score_sde.report.results import CHECKPOINT
from score_sde.report.run import ARTIFACTS, PAGES, PICTURES, Run, default_fields, flat_config, grouped

_CARDS = 6  # numbers shown large; the rest are in their sections
_MAX_LISTED = 200  # files that a page names
_RESTORED = {
    "psnr_mean": "PSNR of the mean, dB",
    "psnr_draws": "of a draw, dB",
    "coverage": "coverage",
    "residual": "residual",
}
_LOSSES = ("step", "loss", "grad_norm", "eval_loss", "eval_loss_std_error")  # what is not drawn by itself


def headline(run: Run, found: Sequence[Quantity]) -> Section:
    """The numbers that the run is judged by, and what it is and was run on."""
    expected = {"likelihood.json": ("likelihood", "likelihood"), "metrics.json": ("metric of samples", "eval")}
    absent = [
        missing(f"No {words} has been measured yet:", mode)
        for name, (words, mode) in expected.items()
        if name not in run.reports
    ]
    blocks = [Group("cards", judged(found)[:_CARDS]), *absent, Group("facts", facts(run))]
    return Section("numbers", "Headline numbers", blocks)


def training(run: Run, found: Sequence[Quantity]) -> Section:
    """Loss, gradient norm, throughput and whatever else was logged, against steps."""
    if not run.records:
        return Section("training", "Training", [missing("There is no metrics.jsonl yet:", "train")])
    rates = run.timings.rates
    charts = [
        loss_chart(run.records),
        _curve("Gradient norm", run.series("grad_norm"), 2, log_y=True),
        _curve("Throughput", rates["images_per_second"], 3, y_label="images/s", zero=True),
        _curve("Share of the time spent waiting for data", rates["data_wait_fraction"], 4, zero=True),
    ]
    others = sorted({name for record in run.records for name in record if isinstance(name, str)} - {*_LOSSES})
    charts += [_curve(name.replace("_", " "), run.series(name), 5) for name in others[:12]]
    charts.append(classifier_chart(run.report("classifier.json")))
    table = numbers(found, "Losses", "eval.json", "metrics.jsonl", "dequantizer.json", "classifier.json")
    return Section("training", "Training", [grid(*charts), table])


def samples(run: Run, found: Sequence[Quantity]) -> Section:
    """Samples, how they came to be along the flow and along training, and what lies between images."""
    evaluations = run.report("sampling.json").get("num_evals")
    how = next((each.how for each in found if (each.file, each.style) == ("sampling.json", "number")), "")
    caption = f"{how}, {number(evaluations)} {plural(evaluations, 'evaluation')} each" if how else ""
    drawn = picture(run, "samples.png", "Samples", "sample", caption, "samples")
    blocks = [
        None if drawn else missing("No samples have been drawn yet:", "sample"),
        grid(drawn, _progress(run)),
        picture(run, "trajectory.png", "From noise to data", "sample", "along the reverse process, left to right"),
        picture(run, "interpolation.png", "Between held-out images", "latents", "along the probability flow"),
        numbers(found, "Samples in numbers", "sampling.json", "latents.json"),
    ]
    return Section("samples", "Samples", blocks)


def likelihood(run: Run, found: Sequence[Quantity]) -> Section:
    """How likely held-out data are, how far that number may be off, and where the bits are spent."""
    report, arrays, charts = run.report("likelihood.json"), run.arrays("likelihood.npz"), []
    if not report:
        return Section("likelihood", "Likelihood", [missing("Nothing has been measured yet:", "likelihood")])
    for name, (title, draw) in LIKELIHOOD.items():
        charts += draw(report, arrays) or [picture(run, name, title, "likelihood")]
    table = numbers(found, "Likelihood in numbers", "likelihood.json")
    protocol = Words(str(report.get("protocol") or ""), "protocol")
    return Section("likelihood", "Likelihood", [protocol, grid(*charts, budget_chart(report)), table])


def restoration(run: Run, found: Sequence[Quantity]) -> Section | None:
    """Images drawn given observations of them; None if none were."""
    report = run.report("restoration.json")
    entries = report.get("images")
    rows = [
        [f"image {index}", *(number(dig(each, name)) for name in _RESTORED)]
        for index, each in enumerate(entries if isinstance(entries, list) else (), start=1)
    ]
    blocks = [
        picture(run, "restoration.png", "Restored images", "restore", "a row per image", "samples"),
        numbers(found, "Restored images in numbers", "restoration.json"),
        Group(
            "details",
            [Table("Image by image", ["", *_RESTORED.values()], rows[:_MAX_LISTED], "numbers dense")],
            "Image by image",
        ),
    ]
    return Section("restoration", "Restored images", blocks) if report else None


def classification(run: Run, found: Sequence[Quantity]) -> Section | None:
    """Classes by the likelihood of each; None if none were told."""
    blocks = [
        picture(run, "confusion.png", "Held-out examples by class", "classify", "", "samples"),
        numbers(found, "Classification in numbers", "classification.json"),
    ]
    return Section("classification", "Classification", blocks) if run.report("classification.json") else None


def metrics(run: Run, found: Sequence[Quantity]) -> Section:
    """How far samples are from data, each metric with its interval and protocol."""
    table = numbers(found, "Metrics of samples", "metrics.json")
    if not table.rows:
        return Section("metrics", "Metrics of samples", [missing("Nothing has been measured yet:", "eval")])
    told = [dig(entry, "details", "warnings") for entry in run.report("metrics.json")["metrics"].values()]
    warnings = sorted({str(each) for several in told if isinstance(several, list) for each in several})
    note = "Of a biased metric, the interval is about the corrected value; the plain one is what others report."
    blocks = [table, *(Words(warning, "problem") for warning in warnings), Words(note)]
    return Section("metrics", "Metrics of samples", blocks)


def evaluation(run: Run, found: Sequence[Quantity]) -> Section:
    """The checkpoints of the run beside one another, with the best marked."""
    rows, best = _checkpoints(run), finite(run.report("evaluation.json").get("best"))
    if not rows:
        return Section("checkpoints", "Checkpoints", [missing("No checkpoints have been compared yet:", "eval")])
    names = list(dict.fromkeys(name for _, values in rows for name in values))
    marks, charts = [] if best is None else [Level("best", best, vertical=True)], []
    for name in names:
        points = [(step, v.value, v.std_error) for step, values in rows if (v := values.get(name))]
        label = f"{name}, 95 % band" if any(error for _, _, error in points) else name
        charts.append(line_chart([curve_of(label, points, mark="dots")], title=name, x_label="step", levels=marks))
    cells = [
        [
            [(f"{number(step)} best", "best")] if finite(step) == best else number(step),
            *(with_error(values.get(name)) for name in names),
        ]
        for step, values in rows
    ]
    table = Table("Checkpoints", ["step", *names], cells, "numbers dense")
    return Section("checkpoints", "Checkpoints", [grid(*charts), table])


def pareto(run: Run, found: Sequence[Quantity]) -> Section:
    """Quality of samplers against their cost."""
    drawn = pareto_chart(run.report("pareto.json")) or picture(run, "pareto.png", "Quality against cost", "pareto")
    words = None if drawn else missing("Samplers have not been compared yet:", "pareto")
    table = numbers(found, "The recommended sampler", "pareto.json")
    return Section("samplers", "Samplers", [words, table, grid(drawn)])


def plan(run: Run, found: Sequence[Quantity]) -> Section | None:
    """What the run was expected to need; None if nothing was planned."""
    report = run.report("plan.json")
    advice = report.get("advice")
    listed = [Words(str(line)) for line in advice] if isinstance(advice, list) else []
    table = numbers(found, "Plan", "plan.json")
    return Section("plan", "Plan", [table, grid(scaling_chart(report)), *listed]) if report else None


def configuration(run: Run, found: Sequence[Quantity]) -> Section:
    """The fields that differ from the defaults, and under them all fields by group."""
    fields = flat_config(run)
    if not fields:
        words = missing("There is no config.json yet:", "train")
        return Section("configuration", "Configuration", [words])
    defaults = default_fields()
    known = json.loads(json.dumps({name: value for name, value in fields.items() if name in defaults}))
    changed = sorted(name for name, value in known.items() if value != defaults[name])
    unknown = ", ".join(sorted(fields.keys() - defaults.keys()))
    rows = [[name, shown(fields[name]), shown(defaults[name])] for name in changed]
    everything = [
        Table(
            f"Fields of {group}",
            [group, "value", ""],
            [[name, shown(part[name]), _mark(group, name, changed)] for name in sorted(part)],
            "fields",
            (0, 1),
        )
        for group, part in sorted(grouped(fields).items())
    ]
    blocks = [
        Words(f"{len(changed)} of {len(fields)} fields differ from the defaults."),
        Table("Fields that differ from the defaults", ["field", "value", "default"], rows, "fields", (0, 1, 2)),
        Words(f"Fields that this version does not know: {unknown}.") if unknown else None,
        Group("details", everything, f"All {len(fields)} fields"),
    ]
    return Section("configuration", "Configuration", blocks)


def provenance(run: Run, found: Sequence[Quantity]) -> Section:
    """The command, date, step and machine of every result."""
    commands = run.commands()
    block = Group("commands", commands) if commands else missing("Nothing has been measured yet:", "demo")
    return Section("provenance", "How it was run", [block])


def files(run: Run, found: Sequence[Quantity]) -> Section:
    """What lies in the working directory, and what does not yet with the mode that makes it."""
    words = {name: (mode, text) for name, text, mode in (*PICTURES, *ARTIFACTS) if name not in PAGES}
    names = {path.name for place in (run.path, run.results) if place is not None for path in place.iterdir()}
    present = sorted(run.find(name) for name in names if not name.startswith(".") and name not in PAGES)
    rows = [[path.name, _size(path), words.get(path.name, ("", ""))[1]] for path in present[:_MAX_LISTED]]
    absent = [[name, f"--mode={mode}", text] for name, (mode, text) in sorted(words.items()) if name not in names]
    more = Table("Files not made yet", ["file", "made by", "what it holds"], absent, "files", (0, 1))
    left = len(present) - _MAX_LISTED
    blocks = [
        Table("Files", ["file", "size", "what it holds"], rows, "files", (0,)),
        Words(f"{left} more are not listed.") if left > 0 else None,
        Group("details", [more] if absent else [], f"{len(absent)} more that other modes make"),
    ]
    return Section("files", "Files", blocks)


def _curve(title: str, points: list[tuple[float, float]], tone: int, **options: Any) -> Chart | None:
    return line_chart([curve_of(title.lower(), points, tone=tone)], title=title, x_label="step", **options)


def _progress(run: Run) -> Group | None:
    """Samples of the same noise at several steps."""
    frames = [
        Picture(f"step {step:,}", *found, f"Samples at step {step:,}")
        for step, name in run.progress()
        if (found := run.picture(name))
    ]
    return Group("frames", frames, "Through training") if frames else None


def _checkpoints(run: Run) -> list[tuple[Any, dict[str, Estimate]]]:
    """The step and the numbers of every checkpoint that was measured, by the names that they are shown under."""
    listed = run.report("evaluation.json").get("checkpoints")
    found = []
    for row in listed if isinstance(listed, list) else ():
        if finite(dig(row, "step")) is not None:
            values = {str(field.label): estimate_at(row, field) for field in CHECKPOINT}
            nested = row.get("metrics")
            nested = metric_quantities(nested) if isinstance(nested, dict) else []
            values |= {each.label: each.found for each in nested}
            found.append((row["step"], {label: value for label, value in values.items() if value is not None}))
    return found


def _mark(group: str, name: str, changed: Sequence[str]) -> str:
    """Whether a field of a group is among those that differ from the defaults."""
    return "changed" if f"{group}.{name}".removeprefix("general.") in changed else ""


def _size(path: Path) -> str:
    try:
        if path.is_dir():
            count = sum(1 for _ in path.iterdir())
            return f"{count:,} entries" if count != 1 else "1 entry"
        return num_bytes(path.stat().st_size)
    except failures(path):
        return DASH


#: The parts below the headline and the comparison, in their order.
PARTS = (
    *(training, samples, restoration, likelihood, classification, metrics, evaluation, pareto, plan),
    *(configuration, provenance, files),
)
