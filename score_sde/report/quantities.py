"""The quantities of a run: every number with its error, for the log, ``summary.md`` and ``report.html``."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from score_sde.report.figures import (
    MINUS,
    Estimate,
    dig,
    duration,
    estimate,
    finite,
    num_bytes,
    number,
    span,
    with_error,
)
from score_sde.report.results import RESULTS, Field, counted
from score_sde.report.run import Run, complete_config, parameter_count

#: Fields of a metric's protocol that may differ between compared models.
FREE = ("seed",)
_BASELINE = "baseline"  # the key of the baseline's number
_NAMES = {
    "frechet": "Fréchet distance",
    "frechet_infinity": "Fréchet distance, endless samples",
    "kid": "Kernel distance",
    "sliced_wasserstein": "Sliced Wasserstein distance",
    "energy": "Energy distance",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantity:
    """One number of a run."""

    file: str  # the file of results that holds it
    label: str
    found: Estimate  # the number
    unit: str = ""  # its unit, or nothing
    how: str = ""  # the data and the method of the measurement, in words
    style: str = "number"  # the format: see :class:`score_sde.report.results.Field`
    key: str = ""  # the name of the same quantity in other runs, if runs are judged by it
    interval_of: str = ""  # the subject of the interval, where it is not the number itself
    # Settings that must agree for a comparison; empty if none are known.
    protocol: dict[str, Any] = dataclasses.field(default_factory=dict)
    column: str = ""  # the column of ``likelihood.npz`` with its value per image, or nothing

    @property
    def value(self) -> str:
        """The number with its error."""
        value = self.found.value
        if finite(value) is not None and self.style in ("duration", "bytes"):
            return duration(value) if self.style == "duration" else num_bytes(round(value))
        return with_error(self.found, sign=self.style == "shift")

    @property
    def text(self) -> str:
        """The number with its error and unit."""
        return f"{self.value} {self.unit}".rstrip()

    @property
    def interval(self) -> str:
        """Its 95 % interval, or nothing."""
        return span(self.found)

    @property
    def line(self) -> str:
        """The line of the log."""
        line = f"{self.label} {self.text}" + (f" ({self.interval})" if self.interval else "")
        return line.replace("±", "+-").replace(MINUS, "-")


def quantities(run: Run) -> list[Quantity]:
    """All measured quantities of a run, the most important first."""
    law = loss_law(run)
    return [each for name in RESULTS for each in quantities_of(name, run.report(name), law)]


def judged(found: Iterable[Quantity]) -> list[Quantity]:
    """The quantities by which runs are judged."""
    return [each for each in found if each.key not in ("", _BASELINE)]


def comparable(found: Iterable[Quantity]) -> list[Quantity]:
    """Negative log-likelihoods, their bounds, and the baseline."""
    return [each for each in found if each.file == "likelihood.json" and each.key]


def quantities_of(name: str, report: Mapping[str, Any], law: Mapping[str, Any] | None = None) -> list[Quantity]:
    """The quantities in a file of results; ``law`` identifies the process and objective of its losses, if known."""
    found = [_quantity(name, field, report, law or {}) for field in RESULTS[name][1] if field.label]
    shown = [each for each in found if each is not None]
    metrics = report.get("metrics") if name == "metrics.json" else None
    return [*shown, *metric_quantities(metrics)] if isinstance(metrics, dict) else shown


def _quantity(name: str, field: Field, report: Mapping[str, Any], law: Mapping[str, Any]) -> Quantity | None:
    found = estimate_at(report, field) if field.when(report) else None
    if found is None:
        return None
    words = (field.label, field.unit, field.how)
    label, unit, how = (each if isinstance(each, str) else each(report) for each in words)
    same = {path.rpartition(".")[2]: dig(report, *path.split(".")) for path in field.same}
    return Quantity(
        file=name,
        label=label,
        found=found._replace(value=-found.value) if field.negative else found,
        unit=unit,
        how=how,
        style=field.style,
        key=field.key,
        protocol=dict(law) if field.key.endswith("loss") else same,
        column=field.column,
    )


def estimate_at(report: Mapping[str, Any], field: Field) -> Estimate | None:
    """A number of a file with its error; None if it is missing."""
    paths = (field.path, field.error, field.interval)
    value, error, interval = (dig(report, *path.split(".")) if path else None for path in paths)
    if isinstance(value, dict):
        return estimate_of(value)
    return estimate(value, error, interval)


def estimate_of(entry: Any) -> Estimate | None:
    """A number in JSON with its error: a bare number, or an object of ``value``, ``std_error`` and ``interval``."""
    if not isinstance(entry, dict):
        return estimate(entry)
    return estimate(entry.get("value"), entry.get("std_error"), entry.get("interval"))


def metric_quantities(metrics: Mapping[str, Any]) -> list[Quantity]:
    """The quantities of metrics by name, plain and bias-corrected; entries without a value are left out."""
    found = []
    for name, entry in metrics.items():
        result = estimate_of(entry)
        if result is None:
            continue
        protocol = dig(entry, "protocol")
        protocol = protocol if isinstance(protocol, dict) else {}
        corrected = finite(dig(entry, "details", "corrected"))
        plain = Quantity(
            file="metrics.json",
            key=f"metric.{name}",
            label=_NAMES.get(name, name.replace("_", " ").capitalize()),
            found=result if corrected is None else result._replace(interval=None),
            how=_protocol_line(protocol),
            interval_of=str(dig(entry, "details", "interval_of") or ""),
            protocol=protocol,
        )
        found.append(plain)
        if corrected is not None:  # the interval belongs to the corrected estimate
            own = {"key": f"{plain.key}.corrected", "label": f"{plain.label}, corrected for bias"}
            found.append(dataclasses.replace(plain, found=result._replace(value=corrected), **own))
    return found


def facts(run: Run) -> list[tuple[str, str]]:
    """Facts about the run: its size and progress, the time and speed of training, and the hardware."""
    count, step, batch = parameter_count(run), run.newest("step"), run.setting("training.batch_size")
    rates = sorted(value for _, value in run.timings.rates["images_per_second"])
    rows = [
        ("Parameters", "" if count is None else f"{count:,}"),
        ("Steps trained", "" if finite(step) is None else number(step)),
        ("Batch", "" if batch is None else number(batch)),
        ("Training time", duration(run.timings.seconds) if run.timings.seconds else ""),
        ("Throughput", f"{number(rates[len(rates) // 2], 3)} images/s (median)" if rates else ""),
        ("Measured on", run.hardware),
    ]
    return [(name, value) for name, value in rows if value]


def loss_law(run: Run) -> dict[str, Any]:
    """The process and objective that define a loss; losses compare only if these agree. Empty if unknown."""
    if run.config is None:
        return {}
    return {name: value for name, value in complete_config(run).items() if name.split(".")[0] in ("sde", "objective")}


def unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The fields in which two protocols differ although they must agree.

    >>> unlike({"metric": "kid", "seed": 0, "num_samples": 100}, {"metric": "kid", "seed": 1, "num_samples": 50})
    ['num_samples (100 and 50)']

    For a protocol in words, only the differing parts are named.

    >>> unlike({"measured": "flow, 48 steps, 17 levels"}, {"measured": "flow, tolerance 0.1, 17 levels"})
    ['measured (48 steps and tolerance 0.1)']
    """
    found = []
    for name in {**first, **second}:
        old, new = _respelled(first.get(name)), _respelled(second.get(name))
        if name in FREE or old == new:
            continue
        if isinstance(old, str) and isinstance(new, str):
            parts, others = old.split(", "), new.split(", ")
            old = ", ".join(part for part in parts if part not in others) or old
            new = ", ".join(part for part in others if part not in parts) or new
        found.append(f"{name} ({_short(old)} and {_short(new)})")
    return found


def _respelled(value: Any) -> Any:
    """A protocol in words as it is spelled since version 0.2."""
    return value.replace("dequantis", "dequantiz") if isinstance(value, str) else value


def _protocol_line(protocol: dict[str, Any]) -> str:
    parts = []
    if "num_samples" in protocol:
        parts.append(counted(protocol, "num_samples", "sample"))
    if protocol.get("reference_count") is not None:
        reference = protocol.get("reference_sha256")
        named = "" if reference is None else f" {_short(reference)}"
        parts.append(f"{number(protocol['reference_count'])} references{named}")
    if "extractor" in protocol:
        digest = protocol.get("extractor_sha256")
        named = "" if digest in (None, protocol["extractor"]) else f" {_short(digest)}"
        parts.append(f"by {protocol['extractor']}{named}")
    return ", ".join(parts)


def _short(value: Any) -> str:
    """The start of a digest; any other value unchanged."""
    text = str(value)
    return text[:8] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
