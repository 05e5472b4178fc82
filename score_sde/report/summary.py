"""One page per run, ``summary.md``: what was run, on what, with which results, and where everything lies."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score_sde.errors import UserError
from score_sde.files import atomic_write_text
from score_sde.machine import hardware_line

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


def write_summary(workdir: Path) -> Path:
    """Write ``summary.md`` from whatever the run has produced so far; what is missing is named with how to make it.

    Args:
        workdir: Where the run lives. ``config.json``, ``metrics.jsonl``, ``sampling.json``, ``likelihood.json``,
            ``eval.json`` and the pictures are all optional.

    Returns:
        The path of the page.

    Raises:
        UserError: If one of the files cannot be read or is no JSON, or the page cannot be written.
    """
    config = _read_json(workdir / "config.json")
    reports = {mode: _read_json(workdir / name) for name, mode in _REPORTS.items()}
    sections = [
        f"# {_title(workdir, config)}",
        "## Results\n\n" + "\n".join(_results(workdir, reports)),
        "## Pictures\n\n" + "\n\n".join(_picture(workdir, *picture) for picture in PICTURES),
        "## Configuration\n\n" + _configuration(config),
        "## How it was run\n\n" + _provenance(reports),
        "## Files\n\n" + _files(workdir),
    ]
    path = workdir / "summary.md"
    atomic_write_text(path, "\n\n".join(sections) + "\n")
    return path


_REPORTS = {"sampling.json": "sample", "likelihood.json": "likelihood", "eval.json": "eval"}


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}).") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); remove it and run the mode that writes it again.") from error
    return value if isinstance(value, dict) else None


def _last_metrics(workdir: Path) -> dict[str, Any]:
    """The newest value of every metric and the step of the last line; a line that a crash cut short is passed over."""
    try:
        lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    newest: dict[str, Any] = {}
    for line in lines:
        try:
            newest |= json.loads(line)
        except (TypeError, ValueError):
            continue
    return newest


def _title(workdir: Path, config: dict[str, Any] | None) -> str:
    if config is None:
        return workdir.resolve().name
    named = [_lookup(config, group, "name") for group in ("data", "sde", "model")]
    return f"{workdir.resolve().name}: " + ", ".join(str(name) for name in named if name)


def _lookup(config: Mapping[str, Any], group: str, field: str) -> Any:
    fields = config.get(group)
    return fields.get(field) if isinstance(fields, dict) else None


def _missing(mode: str) -> str:
    return f"*not yet run: `--mode={mode}`*"


def _results(workdir: Path, reports: Mapping[str, dict[str, Any] | None]) -> list[str]:
    """A table with one row per measurement."""
    rows = ["| | value | how |", "|---|---|---|"]
    metrics = _last_metrics(workdir)
    if "loss" in metrics:
        rows.append(_row("Training loss", _number(metrics["loss"], ".5f"), f"at step {metrics.get('step', '?')}"))
        if "eval_loss" in metrics:
            value = _with_error(metrics["eval_loss"], metrics.get("eval_loss_std_error"), 5)
            rows.append(_row("Held-out loss", value, "averaged parameters, newest evaluation in training"))
    else:
        rows.append(_row("Training loss", _missing("train"), ""))
    evaluation = reports["eval"]
    if evaluation is not None:
        value = _with_error(evaluation.get("loss"), evaluation.get("std_error"), 5)
        rows.append(_row("Test loss", value, f"averaged parameters at step {evaluation.get('step', '?')}"))
    return rows + _likelihood_rows(reports["likelihood"]) + _sampling_rows(reports["sample"])


def _budget_rows(report: dict[str, Any]) -> list[str]:
    """How far the likelihood may be off, and by what."""
    budget, unit = report.get("budget"), "bits/dim" if "bits_per_dim" in report else "nats"
    if not budget:
        return []
    low, high = report.get("interval", (None, None))
    solver, cut = budget["solver"], budget["truncation"]
    checked = f"on {budget['num_examples']} examples"
    return [
        _row("95 % interval", f"{_number(low, '.4f')} to {_number(high, '.4f')} {unit}", "images, probes and solver"),
        _row("— images", f"± {_number(budget['images'], '.4f')}", "standard error, with noise and probes in it"),
        _row("— probes", f"± {_number(budget['probes'], '.5f')}", "of which the trace estimator"),
        _row("— solver", _signed(solver), f"what a finer solution adds, {checked}"),
        _row("— truncation", _signed(cut), f"what the decoder at t_min adds, {checked}; not in the interval"),
        _row("— prior", _number(budget["prior"], ".1e"), "information left in the data at t = 1"),
    ]


def _signed(estimate: Mapping[str, Any]) -> str:
    return f"{_number(estimate['mean'], '+.5f')} ± {_number(estimate['std_error'], '.5f')}"


def _chain_rows(report: dict[str, Any]) -> list[str]:
    """The variational bound of a chain, term by term."""
    bound = report.get("chain_bound")
    if not bound:
        return []
    value = _with_error(bound["bits_per_dim"], bound["std_error"], 3)
    chosen = ", the best of four" if bound.get("other_variances") else ""
    terms = ", ".join(f"{name} {_number(bound[name], '.4g')}" for name in ("prior", "divergence", "decoder"))
    model = f"{bound['num_levels']} levels; variances {bound['variances']}{chosen}"
    how = f"{model}; {bound['num_examples']} examples; {terms}; {_seconds(bound)}"
    return [_row("**Variational bound of the chain**", f"**{value} bits/dim**", how)]


def _likelihood_rows(report: dict[str, Any] | None) -> list[str]:
    if report is None:
        return [_row("Held-out likelihood", _missing("likelihood"), "")]
    rows = _chain_rows(report)
    if rows and "nats_per_example" not in report:
        return rows
    protocol = f"{report.get('num_examples', '?')} examples; {report.get('protocol', 'protocol not recorded')}"
    if "bits_per_dim" in report:
        value = _with_error(report["bits_per_dim"], report.get("std_error"), 3)
        label = "NLL" if report.get("quantity") is None else f"Upper bound on the NLL, {report['quantity']}"
        rows.append(_row(f"**{label}**", f"**{value} bits/dim**", protocol))
    else:
        value = _with_error(report.get("nats_per_example"), report.get("nats_std_error"), 3)
        rows.append(_row("**Log-likelihood**", f"**{value} nats per example**", protocol))
    baseline = report.get("baseline")
    if baseline:
        value = _with_error(baseline.get("bits_per_dim"), baseline.get("std_error"), 3)
        mixture = f"{baseline.get('num_components', '?')} components, {baseline.get('covariance', '?')} covariance"
        how = f"{mixture}, chosen on part of the training set; same data and dequantisation; {_seconds(baseline)}"
        rows.append(_row("NLL of the best Gaussian mixture", f"{value} bits/dim", how))
    rows += _budget_rows(report)
    if "bound_bits_per_dim" in report:
        value = _with_error(report["bound_bits_per_dim"], report.get("bound_std_error"), 3)
        seconds = _number(report.get("bound_seconds"), ".1f")
        how = f"an upper bound; {report.get('bound_times', '?')} noise levels per example; {seconds} s"
        rows.append(_row("Bound on the NLL of the reverse SDE", f"{value} bits/dim", how))
    if report.get("num_failed"):
        rows.append(_row("Failed solves", str(report["num_failed"]), "**the ODE solver gave up on these examples**"))
    evaluations = f"{_number(report.get('num_evals_mean'), '.1f')} (at most {report.get('num_evals_max', '?')})"
    rows.append(_row("Evaluations per likelihood", evaluations, _seconds(report)))
    return rows


def _sampling_rows(report: dict[str, Any] | None) -> list[str]:
    if report is None:
        return [_row("Sampling", _missing("sample"), "")]
    steps = report.get("num_steps", "?")
    steps = "adaptive steps" if steps is None else f"{steps} steps"
    how = [f"{report.get('num_samples', '?')} samples, {report.get('solver', '?')}, {steps}"]
    if report.get("denoising"):
        how.append(f"denoising: {report['denoising']}")
    how.append(_seconds(report))
    return [_row("Evaluations per sample", _number(report.get("num_evals"), ".5g"), "; ".join(how))]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: Any, spec: str) -> str:
    return format(value, spec) if isinstance(value, (int, float)) else "?"


def _with_error(value: Any, error: Any, digits: int) -> str:
    text = _number(value, f".{digits}f")
    return text if error is None else f"{text} ± {_number(error, f'.{digits}f')}"


def _seconds(report: Mapping[str, Any]) -> str:
    return f"{_number(report.get('seconds'), '.1f')} s"


def _picture(workdir: Path, name: str, caption: str, mode: str) -> str:
    if (workdir / name).is_file():
        return f"**{caption}**\n\n![{caption}]({name})"
    return f"**{caption}**: {_missing(mode)}"


def _configuration(config: dict[str, Any] | None) -> str:
    if config is None:
        return f"config.json: {_missing('train')}"
    rows = ["| group | fields |", "|---|---|"]
    alone = {name: value for name, value in config.items() if not isinstance(value, dict)}
    groups = {name: value for name, value in config.items() if isinstance(value, dict)}
    for group, fields in (({"": alone} if alone else {}) | groups).items():
        rows.append(_row(group, ", ".join(f"{name} = `{json.dumps(value)}`" for name, value in fields.items())))
    return "\n".join(rows)


def _provenance(reports: Mapping[str, dict[str, Any] | None]) -> str:
    blocks = []
    for mode, report in reports.items():
        if report is None or "command" not in report:
            continue
        when = f"{report.get('date', 'date not recorded')}, step {report.get('step', '?')}"
        hardware = hardware_line(report.get("hardware")) or "Hardware not recorded"
        blocks.append(f"`{mode}`, {when}:\n\n```sh\n{report['command']}\n```\n\n{hardware}.")
    return "\n\n".join(blocks) if blocks else f"Nothing has been measured: {_missing('demo')}"


def _files(workdir: Path) -> str:
    lines = []
    for name, content, mode in ARTEFACTS:
        place = f"[{name}]({name})" if (workdir / name).exists() else f"{name}, {_missing(mode)}"
        lines.append(f"- {place}: {content}")
    return "\n".join(lines)
