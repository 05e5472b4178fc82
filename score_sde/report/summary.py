"""One page per run, ``summary.md``: what was run, on what, with which results, and where everything lies."""

import html
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from score_sde.checkpointing import newest_config
from score_sde.errors import UserError, plural
from score_sde.files import Unreadable, atomic_write_text, read_json, read_json_lines
from score_sde.machine import hardware_line
from score_sde.report.forms import misshapen, of_several_models

#: Picture, what it shows, and the mode that draws it.
PICTURES = (
    ("samples.png", "Samples", "sample"),
    ("trajectory.png", "From noise to data", "sample"),
    ("loss.png", "Training and held-out loss", "train"),
    ("likelihood.png", "Bits per dimension of the held-out images", "likelihood"),
    ("bounds.png", "Likelihood and bounds side by side", "likelihood"),
    ("noise_levels.png", "Bits by noise level, and what importance-sampled times save", "likelihood"),
    ("interpolation.png", "Between held-out images, along the probability flow", "latents"),
    ("pareto.png", "Quality of samplers against their cost", "pareto"),
)
#: File or directory, what it holds, and the mode that writes it.
ARTEFACTS = (
    ("config.json", "the configuration", "train"),
    ("checkpoints", "checkpoints: parameters, their average, optimiser, data position", "train"),
    ("metrics.jsonl", "losses, one JSON object per logged step", "train"),
    ("tensorboard", "the same for TensorBoard", "train"),
    ("sampling.json", "how samples were drawn", "sample"),
    ("samples.npz", "the samples", "sample"),
    ("likelihood.json", "the held-out likelihood", "likelihood"),
    ("likelihood.npz", "the likelihood of every held-out example", "likelihood"),
    ("eval.json", "the loss on the test split", "eval"),
    ("evaluation.json", "loss and metrics of every checkpoint that was measured, and the best", "eval"),
    ("metrics.json", "how far the samples of one of them are from the data", "eval"),
    ("statistics.npz", "the statistics of the data that samples are compared with", "stats"),
    ("progress", "what the model made of the same noise during training", "train"),
    ("latents.npz", "codes of held-out data, and what they decode to", "latents"),
    ("pareto.md", "which sampler, grid and number of steps to take", "pareto"),
    ("plan.md", "what training needs and how fast a chip would be", "plan"),
    ("report.html", "all of this as one page", "report"),
)


def write_summary(workdir: Path, results: Path | None = None) -> Path:
    """Write ``summary.md`` from whatever the run has produced so far; what is missing is named with how to make it.

    Args:
        workdir: Where the run lives. ``config.json``, ``metrics.jsonl``, ``sampling.json``, ``likelihood.json``,
            ``eval.json`` and the pictures are all optional.
        results: Where the page goes, and results from there with it; ``workdir`` unless given.

    Returns:
        The path of the page.

    Raises:
        UserError: If the page cannot be written. What cannot be read is named on it.
    """
    problems: list[str] = []
    place = results or workdir
    config = _read(workdir, newest_config, problems)
    reports = {mode: _read(found_in(workdir, place, name), read_json, problems) for name, mode in _REPORTS.items()}
    metrics = _last_metrics(_read(workdir / "metrics.jsonl", read_json_lines, problems) or [])
    found = {name: reports[mode] for name, mode in _REPORTS.items()}
    problems += map(_text, (*misshapen(found, _REPORTS), *of_several_models(found)))
    problems += outdated(found, _REPORTS, metrics.get("step", 0))
    sections = [
        f"# {_title(workdir, config)}",
        "## Results\n\n" + "\n".join(_results(metrics, reports, problems)),
        "## Pictures\n\n" + "\n\n".join(_picture(_link(workdir, place, name), *rest) for name, *rest in PICTURES),
        "## Configuration\n\n" + _configuration(config),
        "## How it was run\n\n" + _provenance(reports),
        "## Files\n\n" + _files(workdir, place),
    ]
    if problems:
        sections.insert(1, "\n".join(f"- **{problem}**" for problem in problems))
    path = place / "summary.md"
    atomic_write_text(path, "\n\n".join(sections) + "\n")
    return path


def found_in(workdir: Path, results: Path | None, name: str) -> Path:
    """Where a file of a run lies, or would lie: with its other results, else in its directory."""
    return results / name if results is not None and (results / name).exists() else workdir / name


def _link(workdir: Path, place: Path, name: str) -> str | None:
    """The target of a link from a page to a file of the run; ``None`` if it is not there."""
    path = found_in(workdir, place, name)
    if not path.exists():
        return None
    if type(path) is not type(place):  # one is in a bucket
        return quote(str(path), safe="/:")
    return quote(Path(os.path.relpath(path, place)).as_posix())


_REPORTS = {"sampling.json": "sample", "likelihood.json": "likelihood", "eval.json": "eval"}


def _read(path: Path, read: Callable[[Path], Any], problems: list[str]) -> Any:
    """What is read from somewhere; nothing if nothing is there, nor if it cannot be read, which is then a problem."""
    try:
        return read(path)
    except Unreadable as error:
        problems.append(f"{error.path.name} cannot be read ({_text(error.reason)}); run the mode that writes it again.")
    except UserError as error:
        problems.append(_text(error))
    return None


def _last_metrics(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The newest value of every metric and the step of the last line."""
    return {name: value for record in records for name, value in record.items()}


def _title(workdir: Path, config: dict[str, Any] | None) -> str:
    name = _text(workdir.resolve().name)
    if config is None:
        return name
    named = [_lookup(config, group, "name") for group in ("data", "sde", "model")]
    return f"{name}: " + ", ".join(_text(part) for part in named if part)


def _text(value: Any) -> str:
    r"""Text from a file as Markdown that shows it: no HTML, no links, no code, and all on one line.

    >>> print(_text("<b>[x](y)` & a_b\n*c*"))
    &lt;b&gt;\[x\](y)\` &amp; a_b \*c\*
    """
    return re.sub(r"([\\`*\[\]])", r"\\\1", html.escape(" ".join(str(value).split()), quote=False))


def _code(text: str) -> str:
    """Text as a code span, whose fence is longer than any in the text.

    >>> _code("a = 1"), _code("a`b")
    ('`a = 1`', '`` a`b ``')
    """
    fence = _fence(text, 1)
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def _fence(text: str, shortest: int) -> str:
    return "`" * max(shortest, *(len(run) + 1 for run in re.findall("`+", text)), 0)


def outdated(reports: Mapping[str, dict[str, Any] | None], modes: Mapping[str, str], newest: int) -> list[str]:
    """Which results are of an earlier step than a run has reached, and how to have them of the newest.

    >>> outdated({"eval.json": {"step": 10}, "sampling.json": {"step": 20}}, {"eval.json": "eval"}, 20)
    ['eval.json is of step 10, and the run is at step 20; --mode=eval measures that.']
    """
    steps = {name: _newest_of(report) for name, report in reports.items() if report is not None}
    return [
        f"{name} is of step {step}, and the run is at step {newest}; --mode={modes[name]} measures that."
        for name, step in steps.items()
        if isinstance(step, int) and step < newest and name != "import.json"
    ]


def _newest_of(report: Mapping[str, Any]) -> Any:
    """The step that a result is of, or the newest of several that it is the best of."""
    several = report.get("best_of")
    steps = [step for step in several if isinstance(step, int)] if isinstance(several, list) else []
    return max(steps, default=report.get("step"))


def _lookup(config: Mapping[str, Any], group: str, field: str) -> Any:
    fields = config.get(group)
    return fields.get(field) if isinstance(fields, dict) else None


def _missing(mode: str) -> str:
    return f"*not yet run: `--mode={mode}`*"


def _results(
    metrics: Mapping[str, Any], reports: Mapping[str, dict[str, Any] | None], problems: list[str]
) -> list[str]:
    """A table with one row per measurement."""
    rows = ["| | value | how |", "|---|---|---|"]
    parts = (
        ("metrics.jsonl", lambda: _loss_rows(metrics)),
        ("eval.json", lambda: _evaluation_rows(reports["eval"])),
        ("likelihood.json", lambda: _likelihood_rows(reports["likelihood"])),
        ("sampling.json", lambda: _sampling_rows(reports["sample"])),
    )
    for name, part in parts:
        try:
            rows += part()
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
            problems.append(f"{name} has another form than this version writes ({type(error).__name__}).")
    return rows


def _loss_rows(metrics: Mapping[str, Any]) -> list[str]:
    rows = []
    if "loss" in metrics:
        rows.append(_row("Training loss", _number(metrics["loss"], ".5f"), f"at step {metrics['step']}"))
        if "eval_loss" in metrics:
            value = _with_error(metrics["eval_loss"], metrics.get("eval_loss_std_error"), 5)
            rows.append(_row("Held-out loss", value, "averaged parameters, newest evaluation in training"))
    else:
        rows.append(_row("Training loss", _missing("train"), ""))
    return rows


def _evaluation_rows(report: dict[str, Any] | None) -> list[str]:
    if report is None:
        return []
    value = _with_error(report.get("loss"), report.get("std_error"), 5)
    return [_row("Test loss", value, f"averaged parameters at step {_text(report.get('step', '?'))}")]


def _budget_rows(report: dict[str, Any]) -> list[str]:
    """How far the likelihood may be off, and by what."""
    budget, unit = report.get("budget"), "bits/dim" if "bits_per_dim" in report else "nats"
    if not budget:
        return []
    low, high = report.get("interval", (None, None))
    solver, cut = budget["solver"], budget["truncation"]
    checked = f"on {_text(budget['num_examples'])} {plural(budget['num_examples'], 'example')}"
    interval = f"{_number(low, '.4f')} to {_number(high, '.4f')} {unit}"
    images = f"± {_number(budget['images'], '.4f')}"
    rows = [
        _row("95 % interval", interval, "images, probes and solver"),
        _row("— images", images, "standard error, with noise and probes in it"),
    ]
    return [
        *(rows if budget["images"] is not None else []),  # of one image there is no error
        _row("— probes", f"± {_number(budget['probes'], '.5f')}", "of which the trace estimator"),
        _row("— solver", _signed(solver), f"what a finer solution adds, {checked}"),
        _row("— truncation", _signed(cut), f"what the decoder at t_min adds, {checked}; not in the interval"),
        _row("— prior", _number(budget["prior"], ".1e"), "information left in the data at t = 1"),
    ]


def _signed(estimate: Mapping[str, Any]) -> str:
    return _with_error(estimate["mean"], estimate["std_error"], 5, sign="+")


def _chain_rows(report: dict[str, Any]) -> list[str]:
    """The variational bound of a chain, term by term."""
    bound = report.get("chain_bound")
    if not bound:
        return []
    value = _with_error(bound["bits_per_dim"], bound["std_error"], 3)
    chosen = ", the best of four" if bound.get("other_variances") else ""
    terms = ", ".join(f"{name} {_number(bound[name], '.4g')}" for name in ("prior", "divergence", "decoder"))
    model = f"{_text(bound['num_levels'])} levels; variances {_text(bound['variances'])}{chosen}"
    examples = f"{_text(bound['num_examples'])} {plural(bound['num_examples'], 'example')}"
    how = f"{model}; {examples}; {terms}; {_seconds(bound)}"
    return [_row("**Variational bound of the chain**", f"**{value} bits/dim**", how)]


def _likelihood_rows(report: dict[str, Any] | None) -> list[str]:
    if report is None:
        return [_row("Held-out likelihood", _missing("likelihood"), "")]
    rows = _chain_rows(report)
    if rows and "nats_per_example" not in report:
        return rows
    count = report.get("num_examples", "?")
    protocol = _text(f"{count} {plural(count, 'example')}; {report.get('protocol', 'protocol not recorded')}")
    if "bits_per_dim" in report:
        value = _with_error(report["bits_per_dim"], report.get("std_error"), 3)
        label = "NLL" if report.get("quantity") is None else f"Upper bound on the NLL, {_text(report['quantity'])}"
        rows.append(_row(f"**{label}**", f"**{value} bits/dim**", protocol))
    else:
        value = _with_error(report.get("nats_per_example"), report.get("nats_std_error"), 3)
        rows.append(_row("**Log-likelihood**", f"**{value} nats per example**", protocol))
    baseline = report.get("baseline")
    if baseline:
        value = _with_error(baseline.get("bits_per_dim"), baseline.get("std_error"), 3)
        count, kind = (_text(baseline.get(name, "?")) for name in ("num_components", "covariance"))
        mixture = f"{count} components, {kind} covariance"
        how = f"{mixture}, chosen on part of the training set; same data and dequantisation; {_seconds(baseline)}"
        rows.append(_row("NLL of the best Gaussian mixture", f"{value} bits/dim", how))
    rows += _budget_rows(report)
    if "bound_bits_per_dim" in report:
        value = _with_error(report["bound_bits_per_dim"], report.get("bound_std_error"), 3)
        seconds = _number(report.get("bound_seconds"), ".1f")
        times = report.get("bound_times", "?")
        how = f"an upper bound; {_text(times)} {plural(times, 'noise level')} per example; {seconds} s"
        rows.append(_row("Bound on the NLL of the reverse SDE", f"{value} bits/dim", how))
    if report.get("num_failed"):
        rows.append(_row("Failed solves", _text(report["num_failed"]), "**the ODE solver gave up on these examples**"))
    evaluations = f"{_number(report.get('num_evals_mean'), '.1f')} (at most {_text(report.get('num_evals_max', '?'))})"
    rows.append(_row("Evaluations per likelihood", evaluations, _seconds(report)))
    return rows


def _sampling_rows(report: dict[str, Any] | None) -> list[str]:
    if report is None:
        return [_row("Sampling", _missing("sample"), "")]
    steps = report.get("num_steps", "?")
    steps = "adaptive steps" if steps is None else f"{steps} {plural(steps, 'step')}"
    count = report.get("num_samples", "?")
    how = [f"{count} {plural(count, 'sample')}, {report.get('solver', '?')}, {steps}"]
    if report.get("denoising"):
        how.append(f"denoising: {report['denoising']}")
    how.append(_seconds(report))
    return [_row("Evaluations per sample", _number(report.get("num_evals"), ".5g"), _text("; ".join(how)))]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: Any, spec: str) -> str:
    return format(value, spec) if isinstance(value, (int, float)) else "?"


def _with_error(value: Any, error: Any, digits: int, *, sign: str = "") -> str:
    text = _number(value, f"{sign}.{digits}f")
    return text if error is None else f"{text} ± {_number(error, f'.{digits}f')}"


def _seconds(report: Mapping[str, Any]) -> str:
    return f"{_number(report.get('seconds'), '.1f')} s"


def _picture(link: str | None, caption: str, mode: str) -> str:
    return f"**{caption}**: {_missing(mode)}" if link is None else f"**{caption}**\n\n![{caption}]({link})"


def _configuration(config: dict[str, Any] | None) -> str:
    if config is None:
        return f"config.json: {_missing('train')}"
    rows = ["| group | fields |", "|---|---|"]
    alone = {name: value for name, value in config.items() if not isinstance(value, dict)}
    groups = {name: value for name, value in config.items() if isinstance(value, dict)}
    for group, fields in (({"": alone} if alone else {}) | groups).items():
        shown = (f"{_text(name)} = {_code(json.dumps(value))}" for name, value in fields.items())
        rows.append(_row(_text(group), ", ".join(shown)))
    return "\n".join(rows)


def _provenance(reports: Mapping[str, dict[str, Any] | None]) -> str:
    blocks = []
    for mode, report in reports.items():
        if report is None or "command" not in report:
            continue
        when = _text(f"{report.get('date', 'date not recorded')}, step {report.get('step', '?')}")
        hardware = _text(hardware_line(report.get("hardware")) or "Hardware not recorded")
        command = str(report["command"])
        fence = _fence(command, 3)
        blocks.append(f"`{mode}`, {when}:\n\n{fence}sh\n{command}\n{fence}\n\n{hardware}.")
    return "\n\n".join(blocks) if blocks else f"Nothing has been measured: {_missing('demo')}"


def _files(workdir: Path, place: Path) -> str:
    lines = []
    for name, content, mode in ARTEFACTS:
        link = _link(workdir, place, name)
        lines.append(f"- {name}, {_missing(mode)}: {content}" if link is None else f"- [{name}]({link}): {content}")
    if (link := _link(workdir, place, "earlier")) is not None:
        lines.append(f"- [earlier]({link}): results of other settings, or of the model as it was")
    return "\n".join(lines)
