"""The schema of every file of results, from which pages, pictures, log and checks are made."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from score_sde.errors import plural
from score_sde.report.figures import DASH, dig, finite, num_bytes, number
from score_sde.report.guidance import classes_of

#: A description of a field: text, or a function of the file.
Words = str | Callable[[Mapping[str, Any]], str]
_SHOWN = 40  # characters of a value in a message


class Field(NamedTuple):
    """A number in a file of results."""

    path: str  # its place, names from the outside in; ``*`` is any name and ``[]`` any entry of a list
    label: Words = ""  # its name on a page; empty for a number that is only checked, drawn, or told with another
    unit: Words = ""  # its unit
    error: str = ""  # the place of its standard error, or nothing
    interval: str = ""  # the place of its 95 % interval, or nothing
    how: Words = ""  # the data and the method of the measurement
    key: str = ""  # the name of the same quantity in other runs, if runs are judged by it
    same: tuple[str, ...] = ()  # settings that must agree for a comparison
    column: str = ""  # the column of ``likelihood.npz`` with its value per image
    style: str = "number"  # ``number``, ``shift`` (with its sign), ``duration`` or ``bytes``
    when: Callable[[Mapping[str, Any]], bool] = lambda report: True  # whether it is shown
    negative: bool = False  # whether its negative is shown
    needed: bool = False  # whether a finite number is required


def bits_unit(report: Mapping[str, Any]) -> str:
    """The unit of a likelihood."""
    return "bits/dim" if "bits_per_dim" in report or "nats_per_example" not in report else "nats per example"


def counted(report: Mapping[str, Any], path: str, noun: str, many: str = "") -> str:
    """A count with its noun.

    >>> counted({"a": {"b": 1}}, "a.b", "image"), counted({}, "a.b", "image")
    ('1 image', '– images')
    """
    found = dig(report, *path.split("."))
    return f"{number(found)} {plural(found, noun, many)}"


def _listed(*parts: str) -> str:
    return "; ".join(part for part in parts if part and not part.startswith(DASH))


def _nll(report: Mapping[str, Any]) -> str:
    """The name of the likelihood; for an autoencoder it is a bound."""
    bound = report.get("quantity")
    return "Negative log-likelihood" if bound is None else f"Upper bound on the negative log-likelihood: {bound}"


def _protocol(report: Mapping[str, Any]) -> str:
    return str(report.get("protocol") or "protocol not recorded")


def _chain(report: Mapping[str, Any]) -> str:
    chain = report.get("chain_bound")
    best = ", the best of four" if dig(chain, "other_variances") else ""
    terms = {name: number(dig(chain, name)) for name in ("prior", "divergence", "decoder")}
    known = ", ".join(f"{name} {size}" for name, size in terms.items() if size != DASH)
    levels, examples = (counted(report, f"chain_bound.{name}", noun) for name, noun in _CHAIN)
    return _listed(levels, f"variances {dig(chain, 'variances')}{best}", examples, known)


def _mixture(report: Mapping[str, Any]) -> str:
    components = counted(report, "baseline.num_components", "component")
    return f"{components}, {dig(report, 'baseline', 'covariance')} covariance; same data and dequantization"


def _checked(words: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda report: words.format(f"on {counted(report, 'budget.num_examples', 'example')}")


def _sampler(report: Mapping[str, Any]) -> str:
    steps = "adaptive steps" if report.get("num_steps") is None else counted(report, "num_steps", "step")
    denoising = f"denoising: {report['denoising']}" if report.get("denoising") else ""
    samples = counted(report, "num_samples", "sample")
    given = ", ".join(part for part in (samples, str(report.get("solver") or ""), steps) if part)
    return _listed(given, denoising, classes_of(report))


def _restored(report: Mapping[str, Any]) -> str:
    method = f"{report.get('method')}, {report.get('operator')}, noise {number(report.get('noise_std'))}"
    images = f"{counted(report, 'num_images', 'image')} {classes_of(report)}".rstrip()
    return f"{images}, {counted(report, 'draws', 'draw')} each; {method}"


def _percent(share: Any) -> str:
    found = finite(share)
    return DASH if found is None else f"{100.0 * found:.3g} %"


def _recommended(report: Mapping[str, Any]) -> str:
    solver, grid = (dig(report, "recommended", "setting", name) for name in ("solver", "grid"))
    evaluations = counted(report, "recommended.num_evals", "evaluation")
    return _listed(f"{solver} on the {grid} grid, {evaluations}", classes_of(report), "Fréchet distance of pixels")


def _at_step(words: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda report: words.format(f"at step {number(report.get('step'))}")


def _memory(report: Mapping[str, Any]) -> str:
    usable = finite(dig(report, "bytes", "usable"))
    fits = "fits" if report.get("fits") is True else "does not fit"
    return fits if usable is None else f"of {num_bytes(round(usable))} usable: {fits}"


def _bound(report: Mapping[str, Any]) -> str:
    levels, examples = (counted(report, f"bound_{name}", noun) for name, noun in _BOUND)
    return _listed("an upper bound", f"{levels} per example", examples)


_BOUND = (("times", "noise level"), ("num_examples", "example"))
_CHAIN = (("num_levels", "level"), ("num_examples", "example"))
_MEASURED = ("protocol", "num_examples")
#: The numbers of an entry of ``evaluation.json``.
CHECKPOINT = (
    Field("loss", "Loss", error="loss_std_error", needed=True),
    Field("bits_per_dim", "Bits per dimension", error="bits_per_dim_std_error", needed=True),
    Field("nats_per_example", "Log-likelihood", error="nats_per_example_std_error", needed=True),
    Field("class_accuracy", "Samples of their class", error="class_accuracy_std_error"),
)
_METRIC = ("value", "std_error", "details.corrected", "protocol.num_samples", "protocol.reference_count")
_GUIDED = ("classes.[]", "scale", "guidance_interval.[]", "rescale", "classifier_scale")
_POINT = ("num_evals", "distance", "std_error")


def _fields(prefix: str, *names: str) -> tuple[Field, ...]:
    """Fields that are checked only."""
    return tuple(Field(f"{prefix}{name}") for name in names)


#: The fields of every file and the mode that writes it; the most important come first.
RESULTS: dict[str, tuple[str, tuple[Field, ...]]] = {
    "likelihood.json": ("likelihood", (
        Field("bits_per_dim", _nll, "bits/dim", "std_error", "interval", _protocol, "nll", _MEASURED, "bits_per_dim",
              needed=True),
        Field("nats_per_example", _nll, "nats per example", "nats_std_error", "interval", _protocol, "nll", _MEASURED,
              "nats", negative=True, when=lambda report: "bits_per_dim" not in report),
        Field("elbo", "Evidence bound of one weight", bits_unit, "elbo_std_error", how="an upper bound", key="elbo",
              same=_MEASURED),
        *(Field(f"bound_{name}", "Bound of the reverse SDE", bits_unit, "bound_std_error",
                how=_bound, key="bound", same=(*_MEASURED, "bound_times", "bound_num_examples"), column=column,
                needed=True)
          for name, column in (("bits_per_dim", "bound_bits_per_dim"), ("nats_per_example", "bound_nats"))),
        Field("chain_bound.bits_per_dim", "Variational bound of the chain", "bits/dim", "chain_bound.std_error",
              how=_chain, key="chain", same=tuple(f"chain_bound.{name}" for name, _ in _CHAIN), column="chain_bound",
              needed=True),
        Field("baseline.bits_per_dim", "Best Gaussian mixture", "bits/dim", "baseline.std_error", how=_mixture,
              key="baseline", needed=True),
        Field("nats_per_example", "Log-likelihood", "nats per example", "nats_std_error", needed=True),
        Field("budget.images", "Error from the images", bits_unit,
              how="a standard error; noise and probes are in it"),
        Field("budget.probes", "Error from the probes", bits_unit, how="of which the trace estimator"),
        Field("budget.solver.mean", "Error from the solver", bits_unit, "budget.solver.std_error",
              how=_checked("what a finer solution adds, {}"), style="shift"),
        Field("budget.truncation.mean", "Truncation", bits_unit, "budget.truncation.std_error",
              how=_checked("what the decoder at t_min adds, {}; not in the interval"), style="shift"),
        Field("budget.prior", "Prior", bits_unit, how="information left in the data at t = 1"),
        Field("density_bits_per_dim", "Bits of the density", "bits/dim", "density_bits_std_error", how="in data units"),
        Field("noise_levels.variance_ratio", "Gain from importance-sampled times",
              how="so many batches with uniform times are worth one"),
        Field("num_failed", "Failed solves", how="the ODE solver gave up on these examples",
              when=lambda report: report.get("num_failed") != 0),
        Field("num_evals_mean", "Evaluations per likelihood",
              how=lambda report: f"at most {number(report.get('num_evals_max'))}"),
        Field("seconds", "Time of the likelihood", how=lambda report: counted(report, "num_examples", "example"),
              style="duration"),
        Field("bound_seconds", "Time of the bound of the reverse SDE", style="duration"),
        Field("chain_bound.seconds", "Time of the bound of the chain", style="duration"),
        Field("baseline.seconds", "Time of the Gaussian mixtures", how="search, fit and evaluation", style="duration"),
        *_fields("", "num_examples", "num_evals_max", "bound_times", "bound_num_examples",
                 "budget.num_examples", "baseline.num_components"),
        *_fields("chain_bound.", "prior", "divergence", "decoder", "num_levels", "num_examples"),
        *_fields("noise_levels.", "log_snr.[]", "bits.[]", "uniform_std.[]", "importance_std.[]"),
    )),
    "metrics.json": ("eval", (
        *_fields("metrics.*.", *_METRIC), Field("metrics.*.value", interval="metrics.*.interval"),
        Field("class_accuracy", "Samples of their class", error="class_accuracy_std_error",
              how="as a share; recognized by a classifier of the data"),
        *_fields("", "best_of.[]"),
    )),
    "eval.json": ("eval", (
        Field("loss", "Test loss", error="std_error", how=_at_step("averaged parameters {}, whole test split"),
              key="test_loss", needed=True),
    )),
    "metrics.jsonl": ("train", (
        Field("eval_loss", "Held-out loss", error="eval_loss_std_error",
              how="averaged parameters, newest evaluation in training", key="eval_loss"),
        Field("loss", "Training loss", how=_at_step("{}")),
    )),
    "evaluation.json": ("eval", (
        *(field._replace(path=f"checkpoints.[].{field.path}", label="", error=f"checkpoints.[].{field.error}")
          for field in CHECKPOINT),
        *_fields("checkpoints.[].metrics.*.", *_METRIC),
        *_fields("", "checkpoints.[].step", "best"),
    )),
    "sampling.json": ("sample", (
        Field("num_evals", "Evaluations per sample", how=_sampler),
        Field("seconds", "Time of sampling", style="duration"),
        *_fields("", "num_steps", "num_samples", *_GUIDED),
    )),
    "pareto.json": ("pareto", (
        Field("recommended.distance", "Recommended sampler", error="recommended.std_error", how=_recommended),
        *(field for part in ("points.[].", "references.[].", "recommended.") for field in _fields(part, *_POINT)),
        *_fields("", *_GUIDED),
    )),
    "restoration.json": ("restore", (
        Field("psnr_mean", "Peak signal-to-noise ratio of the mean", "dB", "psnr_mean_std_error", how=_restored),
        Field("psnr_draws", "Peak signal-to-noise ratio of a draw", "dB", "psnr_draws_std_error"),
        Field("coverage", "Coverage of intervals", error="coverage_std_error", how=lambda report: (
            f"share of the values; {_percent(report.get('nominal_coverage'))} for draws of the posterior")),
        Field("residual", "Residual of a draw", error="residual_std_error", how=(
            "in standard deviations of the noise, root mean square; 1 for draws of the posterior")),
        Field("misfit", "Residual of a draw", error="misfit_std_error", how=(
            "root mean square, in the range of the network; the observations are exact"),
            when=lambda report: "residual" not in report),
        Field("num_evals", "Evaluations per draw", how=lambda report: (
            f"and {number(report.get('num_products'))} products with the Jacobian of the network")),
        Field("seconds", "Time of restoring", style="duration"),
        *_fields("", "noise_std", "num_images", "draws", "nominal_coverage", "num_products", *_GUIDED),
        *_fields("images.[].", "psnr_mean", "psnr_draws", "coverage", "residual", "misfit"),
    )),
    "classification.json": ("classify", (
        Field("accuracy", "Accuracy by the likelihood of each class", interval="accuracy_interval", how=_protocol),
        Field("cross_entropy", "Cross-entropy of these classes", "nats", "cross_entropy_std_error", how=(
            "mean negative log-posterior of the true class, all classes equally likely")),
        Field("bits_per_dim", "Negative log-likelihood in the true class", "bits/dim", "std_error"),
        Field("bound.accuracy", "Accuracy by the bound of each class", interval="bound.accuracy_interval",
              how=lambda report: f"{counted(report, 'bound.num_times', 'time')} of the reverse SDE"),
        Field("bound.cross_entropy", "Cross-entropy of these classes", "nats", "bound.cross_entropy_std_error"),
        Field("discriminative.accuracy", "Accuracy of a discriminative classifier",
              interval="discriminative.accuracy_interval", how=lambda report: (
              f"{dig(report, 'discriminative', 'name')}, the same images")),
        Field("num_evals_mean", "Evaluations per example", how=lambda report: (
            f"for the likelihoods in {counted(report, 'num_classes', 'class', 'classes')}")),
        Field("seconds", "Time of classifying", style="duration"),
        *_fields("", "num_examples", "num_failed", "num_unlabeled", "num_classes", "bound.num_times"),
    )),
    "classifier.json": ("train_classifier", (
        Field("cross_entropy", "Cross-entropy of the classifier of noisy data", "nats", "cross_entropy_std_error",
              how=_protocol),
        Field("clean_accuracy", "Its accuracy at the lowest noise", interval="clean_accuracy_interval"),
        *_fields("levels.[].", "t", "log_noise", "accuracy", "cross_entropy", "cross_entropy_std_error"),
    )),
    "latents.json": ("latents", (
        Field("round_trip_rms", "Change by encoding and decoding", how=lambda report: (
            f"root mean square over {counted(report, 'num_examples', 'example')}")),
        Field("decoded_exactly", "Values decoded exactly", how="as a share of all"),
        Field("code_mean", "Mean of the codes", how="in standard deviations of the prior"),
        Field("code_std", "Standard deviation of the codes", how="in standard deviations of the prior"),
        Field("num_evals_mean", "Evaluations per code"),
        Field("seconds", "Time of encoding and decoding", style="duration"),
        *_fields("", "num_examples"),
    )),
    "dequantizer.json": ("train_dequantizer", (
        Field("gain_bits_per_dim", "Gain from the dequantizer", "bits/dim", "gain_std_error", how=_protocol),
        Field("bits_per_dim", "Bound with the dequantizer", "bits/dim", how=_at_step("of the network {}"), needed=True),
        Field("uniform_bits_per_dim", "Bound with uniform noise", "bits/dim"),
    )),
    "plan.json": ("plan", (
        Field("devices", "Devices", how=lambda report: (
            f"{dig(report, 'chip', 'name')}, compiled for {report.get('compiled_for')}; "
            f"batch {number(report.get('batch_size'))}")),
        Field("flops_per_step", "Work per step", "FLOP"),
        Field("bytes.total", "Memory per device", how=_memory, style="bytes"),
        Field("steps_per_second_at_peaks", "Steps per second at peak rates",
              how=lambda report: f"bound by {dig(report, 'seconds', 'bound')}"),
        *_fields("", "batch_size", "bytes.usable", "parameters", "scaling.[].chips", "scaling.[].efficiency_serial",
                 "scaling.[].efficiency_overlapped"),
    )),
    "import.json": ("import", ()),
}  # fmt: skip
#: The mode that writes each JSON file.
MODES = {name: mode for name, (mode, _) in RESULTS.items() if name != "metrics.jsonl"}


def forms(name: str) -> dict[str, str]:
    """The expected type at each place of a file of results.

    >>> forms("eval.json")
    {'step': 'a number', 'ema_step': 'a number', 'loss': 'a finite number', 'std_error': 'a number'}
    """
    found = {"step": "a number", "ema_step": "a number"}
    for field in RESULTS[name][1]:
        for path in filter(None, (field.path, field.error, field.interval)):
            keys = path.split(".")
            for end, key in enumerate(keys[1:], start=1):
                if keys[end - 1] not in ("*", "[]"):
                    found[".".join(keys[:end])] = "a list" if key == "[]" else "an object"
            found.setdefault(path, "an interval" if path == field.interval else "a number")
        if field.needed:
            found[field.path] = "a finite number"
    return found


def misshapen(reports: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """Malformed results: one sentence per file, with the mode that writes it again.

    >>> misshapen({"eval.json": {"loss": "oops", "step": 3}})
    ["eval.json has 'oops' as loss, where a number belongs; remove it and run --mode=eval again."]
    """
    sentences = []
    for name, report in reports.items():
        wrong = [
            f"{repr(value)[:_SHOWN]} as {place}, where {_NAMES.get(form, form)} belongs"
            for path, form in forms(name).items()
            for place, value in places(report or {}, path)
            if not _is(form, value)
        ]
        if wrong := list(dict.fromkeys(wrong)):
            told = wrong[0] + f", and {len(wrong) - 1} more like that" * (len(wrong) > 1)
            sentences.append(f"{name} has {told}; remove it and run --mode={MODES[name]} again.")
    return sentences


def places(value: Any, path: str, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that matches a path, with its place in words.

    >>> list(places({"a": [{"x": 1}, {"y": 2}, {"x": 3}]}, "a.[].x"))
    [('a.x', 1), ('a.x', 3)]
    """
    key, _, rest = path.partition(".")
    if not path:
        yield above, value
    elif key == "[]":
        for item in value if isinstance(value, list) else ():
            yield from places(item, rest, above)
    elif isinstance(value, Mapping):
        for name in value if key == "*" else {key} & value.keys():
            yield from places(value[name], rest, f"{above}.{name}" if above else name)


_NAMES = {"an interval": "a list", "a finite number": "a number"}


def _is(form: str, value: Any) -> bool:
    """Whether a value has a form. None passes unless a finite number is required; a number may carry its error."""
    if value is None:
        return form != "a finite number"
    if form in ("a list", "an interval"):
        return isinstance(value, list) and (form == "a list" or all(_is("a number", end) for end in value))
    if isinstance(value, Mapping):
        return form == "an object" or "value" in value
    return form != "an object" and isinstance(value, int | float) and not isinstance(value, bool)


def of_several_models(reports: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """Results of one step with different parameters, which cannot belong to one run.

    >>> found = of_several_models({"a": {"step": 3, "parameters": "x"}, "b": {"step": 3, "parameters": "y"}})
    >>> found[0].split(";")[0]
    'a and b are of different models of step 3'
    """
    found: dict[int, dict[str, str]] = {}  # by step: one file for every fingerprint
    for name, report in reports.items():
        listed = (report or {}).get("checkpoints")
        for entry in (report or {}, *(listed if isinstance(listed, list) else ())):
            # One step has many power-function averages.
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


def outdated(reports: Mapping[str, Mapping[str, Any] | None], newest: int) -> list[str]:
    """Results of an earlier step than the newest of a run, and the mode that updates each.

    >>> outdated({"eval.json": {"step": 10}, "sampling.json": {"step": 20}}, 20)
    ['eval.json is of step 10, and the run is at step 20; --mode=eval measures that.']
    """
    steps = {name: _newest_of(report) for name, report in reports.items() if report is not None}
    return [
        f"{name} is of step {step}, and the run is at step {newest}; --mode={MODES[name]} measures that."
        for name, step in steps.items()
        if isinstance(step, int) and step < newest and name != "import.json"
    ]


def _newest_of(report: Mapping[str, Any]) -> Any:
    """The step of a result; for the best of several checkpoints, the newest of them."""
    several = report.get("best_of")
    steps = [step for step in several if isinstance(step, int)] if isinstance(several, list) else []
    return max(steps, default=report.get("step"))
