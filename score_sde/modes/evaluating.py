"""The evaluation of checkpoints: loss, bits per dimension, sample metrics, and the choice of the best."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax

from score_sde.checkpointing import Checkpoints
from score_sde.data import Source
from score_sde.data import fingerprint as contents_of
from score_sde.distributed import shared_size
from score_sde.errors import UserError, plural, unknown
from score_sde.evaluation.base import decisive_fields, fingerprint, mean_and_std_error, statistics_of, with_error
from score_sde.evaluation.likelihood import BinNoise, dataset_likelihood, flow_count, identity_of
from score_sde.evaluation.loss import LossEvaluator
from score_sde.evaluation.metrics import (
    SampleEvaluator,
    SampleFeatures,
    check_protocol,
    class_accuracy,
    extractor_of,
    metrics_of,
)
from score_sde.evaluation.partial import Partial, discard, partial_file
from score_sde.evaluation.record import EvaluationRecord, chosen_steps
from score_sde.evaluation.samples import guidance_of, sampled_labels
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.files import atomic_write_json, one_at_a_time
from score_sde.metrics import ReferenceStatistics
from score_sde.metrics.extractors import Extractor
from score_sde.modes.dequantizer import load_noise
from score_sde.modes.guiding import guided_by_classifier
from score_sde.modes.models import Evaluate, against_teacher
from score_sde.modes.record import of_this_run
from score_sde.modes.statistics import load_reference
from score_sde.modes.workdir import (
    check_limit,
    data_info,
    experiment_of,
    kept_in,
    machine,
    measured_split,
    summarize,
    trained_model,
)
from score_sde.report.quantities import metric_quantities
from score_sde.state import TrainState
from score_sde.training.writers import compiling
from score_sde.typing import Params

log = logging.getLogger(__name__)

#: Groups of fields that decide the measurements of a checkpoint.
_RELATED = ("seed", "ema_width", "sde", "parameterization", "model", "data", "objective", "sampling", "likelihood")
#: Files of partial results of one checkpoint.
_PARTIALS = {"likelihood": "evaluation.likelihood", "samples": "evaluation"}
_UNITS = ("bits_per_dim", "nats_per_example")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Samples:
    """The tools of the sample metrics."""

    evaluate: SampleEvaluator
    guided: Callable[[Params], Any]  # from parameters of the model to parameters of the sampler
    reference: ReferenceStatistics
    metrics: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Evaluation:
    """The measurements of every checkpoint; programs are compiled once for all of them."""

    experiment: Experiment
    place: Path  # of the results
    source: Source
    contents: str  # the fingerprint of the source
    loss: Evaluate
    noise: BinNoise | None  # None without likelihood
    samples: _Samples | None
    begun: list[Path] = dataclasses.field(default_factory=list)  # partial results of the checkpoint

    def identity(self) -> str:
        """A digest of everything that decides the numbers besides the checkpoint."""
        config, mesh = self.experiment.settings, self.experiment.mesh
        fields = decisive_fields(config, _RELATED)
        if self.samples is None:
            del fields["sampling"]
            protocol = None
        else:
            extractor, reference = self.samples.evaluate.extractor, self.samples.reference
            protocol = [config.evaluation.num_samples, self.samples.metrics, extractor.sha256, reference.sha256]
        noise = None if self.noise is None else [self.noise.name, fingerprint(self.noise.params)]
        if noise is None:
            del fields["likelihood"]
        batches = [shared_size(mesh, config[group].batch_size) for group in ("likelihood", "sampling")]
        known = [fields, protocol, noise, batches, self.contents, *statistics_of(self.experiment)]
        if classes := self.experiment.num_classes:
            guided = self.samples and [self.experiment.sampled_classes, config.conditioning.scale]
            known += [[classes, config.conditioning.null_probability, guided]]
        if self.samples and (beside := guidance_of(self.experiment)[1:]):
            known += [*beside, self.experiment.sampled_classes, fingerprint(self.samples.guided(()))]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def measure(self, step: int, params: Params, digest: str) -> dict[str, Any]:
        """The entry of one checkpoint; ``digest`` is the fingerprint of ``params``."""
        loss, error = self.loss(params)
        entry: dict[str, Any] = {"step": step, "parameters": digest, "loss": loss, "loss_std_error": error}
        if self.noise is not None:
            entry |= self._likelihood(step, params, self.noise)
        if self.samples is not None:
            entry |= self._metrics(step, params, digest, self.samples)
        return entry

    def _kept(self, what: str, step: int, identity: str, total: int) -> AbstractContextManager[Partial]:
        self.begun.append(partial_file(self.place, _PARTIALS[what], identity))
        return kept_in(self.place, _PARTIALS[what], identity, total=total, doing=f"{what} at {step}")

    def discard(self) -> None:
        """Remove the partial results once the entry of the checkpoint is written."""
        while self.begun:
            discard(self.begun.pop())

    def _likelihood(self, step: int, params: Params, noise: BinNoise) -> dict[str, Any]:
        experiment = self.experiment
        identity = identity_of(experiment, params, noise, self.source)
        total = flow_count(experiment.settings.likelihood, len(self.source))
        with self._kept("likelihood", step, identity, total) as kept:
            result = dataset_likelihood(experiment, params, self.source, noise=noise, kept=kept)
        good = result.success
        if not good.any():
            all_of = plural(len(good), "the one example", f"all {len(good)} examples")
            raise UserError(
                f"The ODE solver failed on {all_of} at step {step}; raise "
                "config.likelihood.tolerance, or set config.likelihood.num_steps=100."
            )
        discrete = experiment.quantization.num_grey_levels is not None
        name = _UNITS[0] if discrete else _UNITS[1]
        mean, error = mean_and_std_error((result.bits_per_dim if discrete else result.nats)[good])
        counts = {"num_examples": int(good.sum()), "num_failed": int((~good).sum())}
        return {name: mean, f"{name}_std_error": error, **counts, "likelihood_seconds": result.seconds}

    def _metrics(self, step: int, params: Params, digest: str, samples: _Samples) -> dict[str, Any]:
        total = self.experiment.settings.evaluation.num_samples
        with self._kept("samples", step, f"{self.identity()} {digest}", total) as kept:
            found = samples.evaluate(samples.guided(params), kept=kept)
        results = samples.evaluate.measure(found, samples.reference, samples.metrics)
        return {
            **self._accuracy(found, samples.evaluate.extractor),
            "metrics": {name: json.loads(result.to_json()) for name, result in results.items()},
            "num_evals": found.num_evals,
            "sampling_seconds": found.seconds,
        }

    def _accuracy(self, found: SampleFeatures, extractor: Extractor) -> dict[str, float]:
        """How often a classifier of the same data recognizes the class of a sample; nothing without classes or it."""
        labels = sampled_labels(self.experiment, len(found.features), self.experiment.settings.sampling.first)
        if labels is None or extractor.name != f"classifier-{self.source.info.name}":
            return {}
        share, error = class_accuracy(found, labels)
        return {"class_accuracy": share, "class_accuracy_std_error": error}


@one_at_a_time("eval")
def run_eval(config: Settings, workdir: Path, command: str, *, out: Path | None = None) -> None:
    """Measure checkpoints and name the best: ``evaluation.json``, ``metrics.json``, ``eval.json``.

    The loss of the averaged parameters on the test split is always measured, their likelihood with
    ``config.evaluation.likelihood``, and sample metrics with ``config.evaluation.num_samples``. Earlier measurements by
    the same protocol are reused.

    Raises:
        UserError: If there is no trained model or no such checkpoint, or for a reference of another protocol.
    """
    place = out or workdir
    experiment = experiment_of(config, workdir, "eval")
    newest, average = trained_model(experiment, workdir)
    steps = chosen_steps(config, workdir, int(newest.step), results=(place, workdir))
    evaluation, how = _prepare(experiment, workdir, place, command), machine(command)
    best_by = config.evaluation.best_by
    record = EvaluationRecord(place / "evaluation.json", evaluation.identity(), best_by=best_by, provenance=how)
    strict = len(steps) == 1 or "," in config.evaluation.checkpoints
    measured = []
    compiling("what is measured")
    for step in steps:
        state = newest if step == int(newest.step) else _state_of(workdir, step, newest, strict=strict)
        if state is None:
            continue
        measured.append(step)
        digest = fingerprint(state.ema_params)
        if record.has(step, digest):
            log.info("Step %d was measured before.", step)
            continue
        record.add(evaluation.measure(step, state.ema_params, digest) | average)
        evaluation.discard()
        _tell(record.entries[step])
    if not measured:
        raise UserError(f"None of the checkpoints {steps} in {workdir} can be read; see the warnings above.")
    best, by = record.write()
    if len(record.entries) > 1:
        log.info("The best of %d checkpoints by %s is that of step %d.", len(record.entries), by, best)
    last = record.entries[measured[-1]]
    provenance = {"step": last["step"], **average, **how}
    atomic_write_json(place / "eval.json", {"loss": last["loss"], "std_error": last["loss_std_error"], **provenance})
    summarize(workdir, place)


def _prepare(experiment: Experiment, workdir: Path, place: Path, command: str) -> _Evaluation:
    """Load and check all inputs before the first measurement."""
    config, noise, samples = experiment.settings, None, None
    if config.evaluation.likelihood:
        check_limit(config)
        noise = load_noise(experiment, workdir)
    if config.evaluation.num_samples:
        info = data_info(config)
        extractor = extractor_of(config, info, experiment.quantization.standardization)
        reference = load_reference(config, (place, workdir), command, info, extractor)
        metrics = metrics_of(config, info)
        check_protocol(extractor, reference, metrics, info)
        experiment, guided = guided_by_classifier(experiment)
        evaluate = SampleEvaluator(experiment, extractor)
        samples = _Samples(evaluate=evaluate, guided=guided, reference=reference, metrics=metrics)
    source = measured_split(config, workdir, "test")
    evaluation = _Evaluation(
        experiment=experiment,
        place=place,
        source=source,
        contents=contents_of(source, labels=experiment.num_classes > 0),
        loss=against_teacher(experiment, workdir, LossEvaluator(experiment, source)),
        noise=noise,
        samples=samples,
    )
    _check_best_by(config.evaluation.best_by, evaluation)
    return evaluation


def _check_best_by(name: str, evaluation: _Evaluation) -> None:
    known = ["loss"]
    if evaluation.noise is not None:
        known.append(_UNITS[evaluation.experiment.quantization.num_grey_levels is None])
    for metric in () if evaluation.samples is None else evaluation.samples.metrics:
        known += metric.split("_") if metric in ("precision_recall", "density_coverage") else [metric]
    if name and name not in known:
        raise UserError(
            f"{unknown('criterion', name, known)} config.evaluation.best_by must be measured: it is loss, bits_per_dim "
            "with config.evaluation.likelihood=True, or a metric with config.evaluation.num_samples above 0."
        )


def _state_of(workdir: Path, step: int, like: TrainState, *, strict: bool) -> TrainState | None:
    """The state of a step, with the shardings of ``like``; ``None`` if it is damaged."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    try:
        restored = Checkpoints(workdir).restore_newest(shapes, among=[step], check=of_this_run(workdir))
    except UserError as error:
        if strict:
            raise
        log.warning("%s It is left out.", error)
        return None
    return None if restored is None else restored.state


def _tell(entry: Mapping[str, Any]) -> None:
    log.info("Test loss %s at step %d.", with_error(entry["loss"], entry["loss_std_error"], digits=5), entry["step"])
    for name in _UNITS:
        if name in entry:
            log.info("  %s %s", name, with_error(entry[name], entry[f"{name}_std_error"]))
    if "class_accuracy" in entry:
        share = with_error(entry["class_accuracy"], entry["class_accuracy_std_error"])
        log.info("  samples recognized as of their class: %s", share)
    metrics = entry.get("metrics", {})
    for each in metric_quantities(metrics):
        log.info("  %s", each.line)
    for warning in dict.fromkeys(text for result in metrics.values() for text in result["details"].get("warnings", ())):
        log.warning("  %s", warning)
