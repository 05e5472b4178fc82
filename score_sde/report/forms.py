"""What is wrong with results that can be read: a field that is not of its form, or files that are not of one model."""

from collections.abc import Iterator, Mapping
from typing import Any

_NUMBERS = frozenset({
    *("step", "best", "seconds", "num_samples", "num_examples", "num_evals", "num_evals_mean", "num_evals_max"),
    *("num_steps", "num_failed", "num_components", "value", "std_error", "loss", "loss_std_error", "distance"),
    *("bits_per_dim", "bits_per_dim_std_error", "nats_per_example", "nats_std_error", "corrected", "variance_ratio"),
    *("bound_bits_per_dim", "bound_nats_per_example", "bound_std_error", "bound_times", "bound_seconds"),
    *("images", "probes", "prior", "mean", "divergence", "decoder", "flops_per_step", "steps_per_second_at_peaks"),
    *("uniform_bits_per_dim", "gain_bits_per_dim", "gain_std_error", "dequantizer_step", "decoded_exactly"),
    *("code_mean", "code_std", "round_trip_rms"),
})  # fmt: skip
_FINITE = frozenset({"bits_per_dim", "nats_per_example", "bound_bits_per_dim", "bound_nats_per_example", "loss"})
_LISTS = frozenset({"interval", "checkpoints", "points", "references", "best_of"})
_OBJECTS = frozenset({"metrics", "budget", "noise_levels", "baseline", "chain_bound", "recommended", "truncation"})
_SHOWN = 40  # characters of a value that is told


def misshapen(reports: Mapping[str, Mapping[str, Any] | None], modes: Mapping[str, str]) -> list[str]:
    """What a page cannot show because it is not of its form, one sentence a file, and which mode writes it again.

    >>> misshapen({"eval.json": {"loss": "oops", "step": 3}}, {"eval.json": "eval"})
    ["eval.json has 'oops' as loss, where a number belongs; remove it and run --mode=eval again."]
    """
    sentences = []
    for name, report in reports.items():
        wrong = list(dict.fromkeys(_wrong(report or {})))
        if wrong:
            told = wrong[0] + f", and {len(wrong) - 1} more like that" * (len(wrong) > 1)
            sentences.append(f"{name} has {told}; remove it and run --mode={modes[name]} again.")
    return sentences


def _wrong(value: Any, path: str = "") -> Iterator[str]:
    """Clauses about the fields below a value that are not of their form."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            place = f"{path}{name}"
            if (form := _form_of(name)) and not _is(form, name, item):
                yield f"{repr(item)[:_SHOWN]} as {place}, where {form} belongs"
            elif name != "hardware":
                yield from _wrong(item, f"{place}.")
    elif isinstance(value, list):
        for item in value:
            yield from _wrong(item, path)


def _form_of(name: str) -> str:
    forms = {"a number": _NUMBERS, "a list": _LISTS, "an object": _OBJECTS}
    return next((form for form, names in forms.items() if name in names), "")


def _is(form: str, name: str, value: Any) -> bool:
    """Whether a value is of a form. Nothing is, but where a finite number belongs; a number may come with its error."""
    if value is None:
        return name not in _FINITE
    if form == "a list":
        return isinstance(value, list) and (name != "interval" or all(map(_is_number, value)))
    return isinstance(value, Mapping) or (form == "a number" and _is_number(value))


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def of_several_models(reports: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """Which results are of one step and of different parameters, so that they cannot be of one run.

    >>> found = of_several_models({"a": {"step": 3, "parameters": "x"}, "b": {"step": 3, "parameters": "y"}})
    >>> found[0].split(";")[0]
    'a and b are of different models of step 3'
    """
    found: dict[int, dict[str, str]] = {}  # of each step, a file for every fingerprint
    for name, report in reports.items():
        listed = (report or {}).get("checkpoints")
        for entry in (report or {}, *(listed if isinstance(listed, list) else ())):
            # Power-function averages of one step are many.
            if not isinstance(entry, Mapping) or "ema_step" in entry:
                continue
            step, parameters = entry.get("step"), entry.get("parameters")
            if isinstance(step, int) and isinstance(parameters, str):
                found.setdefault(step, {}).setdefault(parameters, name)
    return [
        f"{' and '.join(dict.fromkeys(models.values()))} are of different models of step {step}; one is of another "
        "run, of this one as it was, or of another average."
        for step, models in found.items()
        if len(models) > 1
    ]
