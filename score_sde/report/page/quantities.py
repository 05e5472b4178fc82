"""The numbers that a run is judged by, each with its error and with all that must agree before it is compared."""

import dataclasses
from typing import Any

from score_sde.errors import plural
from score_sde.report.page.figures import Estimate, dig, estimate, finite, number
from score_sde.report.page.run import Run, complete_config

#: Fields of a metric's protocol that may differ between two models that are compared.
FREE = ("seed",)
NAMES = {
    "frechet": "Fréchet distance",
    "frechet_infinity": "Fréchet distance, endless samples",
    "kid": "Kernel distance",
    "inception_score": "Inception score",
    "sliced_wasserstein": "Sliced Wasserstein distance",
    "energy": "Energy distance",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantity:
    """One number of a run.

    Attributes:
        key: What it is the same as in other runs.
        label: Its name.
        unit: Its unit, or nothing.
        found: The number.
        how: What it was measured on, and how, in words.
        interval_of: What its interval is for, where that is not the number itself.
        protocol: What must agree for a comparison; empty if nothing is known that could differ.
        column: The column of ``likelihood.npz`` that holds it image by image, if there is one.
    """

    key: str
    label: str
    unit: str
    found: Estimate
    how: str
    interval_of: str = ""
    protocol: dict[str, Any] = dataclasses.field(default_factory=dict)
    column: str | None = None


def quantities(run: Run) -> list[Quantity]:
    """All numbers of a run that have been measured, the most telling first."""
    return [*_likelihoods(run), *metric_quantities(run.metrics), *_losses(run)]


def metric_quantities(metrics: dict[str, Any]) -> list[Quantity]:
    """The numbers of metrics, by name, and those that are corrected for bias; entries without a value are left out."""
    found = []
    for name, entry in metrics.items():
        result = estimate_of(entry)
        if result is None or not isinstance(entry, dict):
            continue
        protocol = entry.get("protocol")
        protocol = protocol if isinstance(protocol, dict) else {}
        corrected = finite(dig(entry, "details", "corrected"))
        plain = Quantity(
            key=f"metric.{name}",
            label=NAMES.get(name, name.replace("_", " ").capitalize()),
            unit="",
            found=result if corrected is None else result._replace(interval=None),
            how=_protocol_line(protocol),
            interval_of=str(dig(entry, "details", "interval_of") or ""),
            protocol=protocol,
        )
        found.append(plain)
        if corrected is not None:  # an interval stands beside the estimate that it belongs to
            own = {"key": f"{plain.key}.corrected", "label": f"{plain.label}, corrected for bias"}
            found.append(dataclasses.replace(plain, found=result._replace(value=corrected), **own))
    return found


def estimate_of(entry: Any) -> Estimate | None:
    """A number of JSON with its error: a bare number, or an object with ``value``, ``std_error`` and ``interval``."""
    if not isinstance(entry, dict):
        return estimate(entry)
    return estimate(entry.get("value"), entry.get("std_error"), entry.get("interval"))


def unlike(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """The fields in which two protocols differ, and which must agree.

    >>> unlike({"metric": "kid", "seed": 0, "num_samples": 100}, {"metric": "kid", "seed": 1, "num_samples": 50})
    ['num_samples (100 and 50)']

    Of a protocol in words only the parts that differ are told.

    >>> unlike({"measured": "flow, 48 steps, 17 levels"}, {"measured": "flow, tolerance 0.1, 17 levels"})
    ['measured (48 steps and tolerance 0.1)']
    """
    found = []
    for name in {**first, **second}:
        old, new = first.get(name), second.get(name)
        if name in FREE or old == new:
            continue
        if isinstance(old, str) and isinstance(new, str):
            parts, others = old.split(", "), new.split(", ")
            old = ", ".join(part for part in parts if part not in others) or old
            new = ", ".join(part for part in others if part not in parts) or new
        found.append(f"{name} ({_short(old)} and {_short(new)})")
    return found


def bits_unit(report: dict[str, Any]) -> str:
    """The unit of a likelihood."""
    return "bits/dim" if "bits_per_dim" in report or "nats_per_example" not in report else "nats per example"


def _quantity(report: dict[str, Any]) -> str:
    """What the likelihood of a report is; of an autoencoder it is a bound."""
    bound = report.get("quantity")
    return "Negative log-likelihood" if bound is None else f"Upper bound on it: {bound}"


def _likelihoods(run: Run) -> list[Quantity]:
    report = run.report("likelihood.json")
    unit, found = bits_unit(report), []
    common = {"protocol": report.get("protocol"), "examples": report.get("num_examples")}

    def add(key: str, label: str, result: Estimate | None, how: Any, column: str, protocol: dict[str, Any]) -> None:
        if result is not None:
            found.append(
                Quantity(
                    key=key, label=label, unit=unit, found=result, how=str(how or ""), column=column, protocol=protocol
                )
            )

    if "bits_per_dim" in report:
        value = estimate(report["bits_per_dim"], report.get("std_error"), report.get("interval"))
        add("nll", _quantity(report), value, report.get("protocol"), "bits_per_dim", common)
    elif (nats := finite(report.get("nats_per_example"))) is not None:
        value = estimate(-nats, report.get("nats_std_error"), report.get("interval"))
        add("nll", _quantity(report), value, report.get("protocol"), "nats", common)
    draws = report.get("bound_times")
    for name, column in (("bound_bits_per_dim", "bound_bits_per_dim"), ("bound_nats_per_example", "bound_nats")):
        value = estimate(report.get(name), report.get("bound_std_error"))
        how = f"an upper bound, from {number(draws)} {plural(draws, 'noise level')} per example"
        add("bound", "Bound of the reverse SDE", value, how, column, {**common, "noise levels": draws})
    chain = report.get("chain_bound")
    value = estimate(dig(chain, "bits_per_dim"), dig(chain, "std_error"))
    levels = {name: dig(chain, name) for name in ("num_levels", "num_examples")}
    how = f"{number(levels['num_levels'])} levels; variances {dig(chain, 'variances')}"
    add("chain", "Variational bound of the chain", value, how, "chain_bound", levels)
    return found


def loss_law(run: Run) -> dict[str, Any]:
    """What a loss is of: losses of two processes, or of two objectives, are of two things; empty if it is unknown."""
    if run.config is None:
        return {}
    return {name: value for name, value in complete_config(run).items() if name.split(".")[0] in ("sde", "objective")}


def _losses(run: Run) -> list[Quantity]:
    found = []
    report = run.report("eval.json")
    test = estimate(report.get("loss"), report.get("std_error"))
    held_out = estimate(run.newest("eval_loss"), run.newest("eval_loss_std_error"))
    law = loss_law(run)
    if test is not None:
        how = f"averaged parameters at step {number(report.get('step'))}, whole test split"
        found.append(Quantity(key="test_loss", label="Test loss", unit="", found=test, how=how, protocol=law))
    if held_out is not None:
        how = "averaged parameters, newest evaluation in training"
        found.append(Quantity(key="eval_loss", label="Held-out loss", unit="", found=held_out, how=how, protocol=law))
    return found


def _protocol_line(protocol: dict[str, Any]) -> str:
    parts = []
    if "num_samples" in protocol:
        parts.append(f"{number(protocol['num_samples'])} {plural(protocol['num_samples'], 'sample')}")
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
    """A digest by its start, anything else as it is."""
    text = str(value)
    return text[:8] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
