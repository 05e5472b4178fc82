"""The first half of a page: the numbers, how training went, and what the model makes."""

from typing import NamedTuple

from score_sde.errors import plural
from score_sde.machine import hardware_line
from score_sde.report.page.charts import line_chart, series_of
from score_sde.report.page.figures import Z95, Estimate, duration, finite, number, span, with_error
from score_sde.report.page.markup import Markup, code, element, join, note
from score_sde.report.page.quantities import Quantity, quantities
from score_sde.report.page.run import Run, parameter_count

_CARDS = 6  # numbers shown large; the rest are in their sections


class Section(NamedTuple):
    """A part of the page under a heading of its own; without a body it is left out."""

    id: str
    title: str
    body: Markup


def missing(what: str, mode: str) -> Markup:
    """What has not been made, and the mode that makes it."""
    return element("p", what, " ", code(f"--mode={mode}"), class_="missing")


def headline(run: Run) -> Section:
    """The numbers that the run is judged by, and what it is and was run on."""
    measured = quantities(run)
    cards = [_card(each) for each in measured[:_CARDS]]
    absent = [
        missing(words, mode)
        for words, file, mode in (
            ("No likelihood has been measured yet:", "likelihood.json", "likelihood"),
            ("No metric of samples has been measured yet:", "metrics.json", "eval"),
        )
        if file not in run.reports
    ]
    facts = [element("div", element("dt", name), element("dd", value)) for name, value in _facts(run)]
    body = join(
        element("div", *cards, class_="cards") if cards else None,
        *absent,
        element("dl", *facts, class_="facts"),
    )
    return Section("numbers", "Headline numbers", body)


def training(run: Run) -> Section:
    """Loss, gradient norm, throughput and whatever else was logged, against steps."""
    if not run.records:
        return Section("training", "Training", missing("There is no metrics.jsonl yet:", "train"))
    errors = {step: value for step, value in run.series("eval_loss_std_error")}
    held_out = [(step, value, errors.get(step)) for step, value in run.series("eval_loss")]
    dropped = sum(finite(value) is None for name in ("loss", "eval_loss") for _, value in run.series(name))
    charts = [
        line_chart(
            [
                series_of("training", run.series("loss")),
                series_of("held out, 95 % band", held_out, mark="dots", tone=1, z=Z95),
            ],
            title="Loss",
            x_label="step",
            log_y=True,
            note=f"{dropped} values are no finite numbers and are left out." if dropped else "",
        ),
        _curve("Gradient norm", run.series("grad_norm"), 2, log_y=True),
        _curve("Throughput", run.timings.rates["images_per_second"], 3, unit="images/s", zero=True),
        _curve("Share of the time spent waiting for data", run.timings.rates["data_wait_fraction"], 4, zero=True),
    ]
    known = {"step", "loss", "grad_norm", "eval_loss", "eval_loss_std_error"}
    others = sorted({name for record in run.records for name in record if isinstance(name, str)} - known)
    charts += [_curve(name.replace("_", " "), run.series(name), 5) for name in others[:12]]
    return Section("training", "Training", element("div", *charts, class_="grid"))


def samples(run: Run) -> Section:
    """Samples, how they came to be along the flow and along training, and what lies between images."""
    report = run.report("sampling.json")
    steps = report.get("num_steps")
    how = [
        f"{number(report.get('num_samples'))} {plural(report.get('num_samples'), 'sample')}",
        str(report.get("solver", "")),
        "adaptive steps" if steps is None else f"{number(steps)} {plural(steps, 'step')}",
        f"{number(report.get('num_evals'))} {plural(report.get('num_evals'), 'evaluation')} each",
    ]
    caption = ", ".join(part for part in how if part) if report else ""
    drawn = picture(run, "samples.png", "Samples", "sample", caption, class_="samples")
    body = join(
        None if drawn else missing("No samples have been drawn yet:", "sample"),
        element("div", drawn, _progress(run), class_="grid"),
        picture(run, "trajectory.png", "From noise to data", "sample", "along the reverse process, left to right"),
        picture(run, "interpolation.png", "Between held-out images", "latents", "along the probability flow"),
    )
    return Section("samples", "Samples", body)


def picture(run: Run, name: str, title: str, mode: str, caption: str = "", class_: str = "") -> Markup | None:
    """A PNG of the run with a caption; None if there is none."""
    found = run.picture(name)
    if found is None:
        return None
    words = element("figcaption", element("strong", title), element("span", caption, class_="unit"))
    image = element(
        "img", src=found.uri, alt=f"{title}: {caption or mode}", width=found.width, height=found.height, loading="lazy"
    )
    return element("figure", words, image, class_=f"picture {class_}".strip())


def training_seconds(run: Run) -> float | None:
    """Seconds of training, from the event files."""
    return run.timings.seconds or None


def _card(each: Quantity) -> Markup:
    interval = span(each.found)
    error = with_error(Estimate(each.found.value, each.found.std_error))
    value, _, error = error.partition(" ± ")
    return element(
        "div",
        element("h3", each.label),
        element(
            "p",
            element("span", value, class_="number"),
            element("span", f" ± {error}" if error else "", class_="error"),
            element("span", f" {each.unit}" if each.unit else "", class_="unit"),
            class_="figure",
        ),
        element("p", f"95 % interval {interval}", class_="interval") if interval else None,
        element("p", f"for {each.interval_of}", class_="how") if interval and each.interval_of else None,
        element("p", each.how, class_="how") if each.how else None,
        class_="card",
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """What the run is and was run on."""
    count, seconds, step = parameter_count(run), training_seconds(run), run.newest("step")
    machine = next((found for r in run.reports.values() if isinstance(found := r.get("hardware"), dict)), None)
    rates = [value for _, value in run.timings.rates["images_per_second"]]
    rows = [
        ("Parameters", "" if count is None else f"{count:,}"),
        ("Steps trained", "" if finite(step) is None else number(step)),
        ("Batch", "" if run.setting("training.batch_size") is None else number(run.setting("training.batch_size"))),
        ("Training time", "" if seconds is None else duration(seconds)),
        ("Throughput", f"{number(sorted(rates)[len(rates) // 2], 3)} images/s (median)" if rates else ""),
        ("Evaluations per sample", number(n) if (n := run.report("sampling.json").get("num_evals")) else ""),
        ("Measured on", hardware_line(machine)),
    ]
    return [(name, value) for name, value in rows if value]


def _curve(
    title: str, points: list[tuple[float, float]], tone: int, *, unit: str = "", log_y: bool = False, zero: bool = False
) -> Markup:
    curve = series_of(title.lower(), points, tone=tone)
    return line_chart([curve], title=title, x_label="step", y_label=unit, log_y=log_y, zero=zero)


def _progress(run: Run) -> Markup | None:
    """Samples of the same noise at several steps: one at a time under a slider, all of them in print."""
    frames = []
    for step, name in run.progress():
        if found := run.picture(name):
            image = element(
                "img",
                src=found.uri,
                alt=f"Samples at step {step:,}",
                width=found.width,
                height=found.height,
                loading="lazy",
            )
            frames.append(element("figure", image, element("figcaption", f"step {step:,}")))
    if not frames:
        return None
    return element(
        "div",
        element("h3", "Through training"),
        note("What the averaged parameters make of the same noise, step after step."),
        element("div", *frames, class_="frames", tabindex="0", role="group", aria_label="Samples through training"),
        class_="progress",
    )
