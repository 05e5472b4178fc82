"""The parts of a page that show how training went, what the model makes, and how good it is."""

from collections.abc import Sequence
from typing import Any

from score_sde.errors import plural
from score_sde.report.charts import Chart, Level, curve_of, line_chart
from score_sde.report.figures import Estimate, dig, finite, number, with_error
from score_sde.report.measured import LIKELIHOOD, budget_chart, loss_chart, pareto_chart, scaling_chart
from score_sde.report.page.blocks import Group, Picture, Section, Table, Words, grid, missing, numbers, picture
from score_sde.report.quantities import Quantity, estimate_at, facts, judged, metric_quantities
from score_sde.report.results import CHECKPOINT
from score_sde.report.run import Run

_CARDS = 6  # numbers shown large; the rest are in their sections
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
    table = numbers(found, "Losses", "eval.json", "metrics.jsonl", "dequantizer.json")
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
