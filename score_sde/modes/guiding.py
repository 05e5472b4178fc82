"""Classifiers of noisy data: their training, and the guidance of samples by their gradient (Song et al. 2021, sec. 5).

All files are in ``workdir/classifier``: checkpoints, metrics, the configuration and the shape of the data.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from score_sde.checkpointing import newest_config
from score_sde.conditioning.noisy_classes import noisy_class_loss
from score_sde.config import leaves
from score_sde.data import Source
from score_sde.data import fingerprint as contents_of
from score_sde.data.identity import statistics_from_json, statistics_to_json
from score_sde.distributed import everywhere
from score_sde.errors import UserError
from score_sde.evaluation.base import fingerprint
from score_sde.evaluation.loss import LossEvaluator
from score_sde.evaluation.noise_levels import accuracy_by_noise
from score_sde.experiment import Experiment
from score_sde.fields import DEFAULTS, FIELDS, Settings
from score_sde.files import Unreadable, atomic_write_json, jsonable, only_writer, read_json, reason_of, writing
from score_sde.interop.checkpoints import import_classifier
from score_sde.labels import Guided, on_data
from score_sde.models.adapters import LinenClassifier
from score_sde.models.classifier import Cifar10Classifier, WideResNet
from score_sde.models.registry import make_classifier
from score_sde.modes.parts import check_same_part, init_part, newest_part, part_step, part_task
from score_sde.modes.record import write_records
from score_sde.modes.workdir import build_experiment, load_splits, machine, summarize, train_to_end
from score_sde.outside.modules import never_inside
from score_sde.report.charts import save_charts
from score_sde.report.measured import classifier_chart, loss_curve
from score_sde.report.quantities import quantities_of
from score_sde.standardization import Standardization
from score_sde.state import TrainState
from score_sde.typing import Loss, Params, PRNGKey, Times

#: Fields that decide the trained classifier.
_TRAINED = ("seed", "sde", "data", "optim", "classifier")
_DATA = "classes.json"
_CIFAR10 = (32, 32, 3)  # the shape of the images of the published classifier

log = logging.getLogger(__name__)


def run_train_classifier(config: Settings, workdir: Path, command: str) -> None:
    """Train a classifier of noisy data, or resume, and measure it by noise level: ``classifier.json``.

    Raises:
        UserError: If the data have no labels, or ``workdir`` has a classifier of other data or another configuration.
    """
    directory, sources = workdir / "classifier", load_splits(config)
    of_classes = config.with_("conditioning", classes=True)
    experiment = build_experiment(of_classes, "train_classifier", standardization=_scale_of(_data_of(directory)))
    classifier = _classifier(experiment, experiment.num_classes)
    state = _train(experiment, classifier, sources, directory)
    loss_curve(directory / "metrics.jsonl", directory / "loss.png")
    levels = accuracy_by_noise(experiment, classifier, state.ema_params, sources["test"])
    losses = LossEvaluator(experiment, sources["test"], _held_out(experiment, _loss(experiment, classifier)))
    mean, error = losses(state.ema_params)
    report = {
        "cross_entropy": mean,
        "cross_entropy_std_error": error,
        "protocol": f"uniform times from {config.classifier.t_min:g}, whole test split",
        "clean_accuracy": levels[-1]["accuracy"],
        "clean_accuracy_interval": levels[-1]["accuracy_interval"],
        "levels": levels,
        "num_classes": classifier.num_classes,
        "classifier_step": int(state.step),
        "classifier_parameters": fingerprint(state.ema_params),
        **machine(command),
    }
    save_charts(workdir / "classifier.png", classifier_chart(jsonable(report)))
    atomic_write_json(workdir / "classifier.json", report)
    summarize(workdir, workdir)
    for each in quantities_of("classifier.json", report):
        log.info("%s.", each.line)


def guided_by_classifier(experiment: Experiment) -> tuple[Experiment, Callable[[Params], Any]]:
    """A run whose samples are guided by the classifier of ``conditioning.classifier``, if any.

    The second result gives the parameters that the samplers of the run take, from parameters of the model.

    Raises:
        UserError: If there is none, if it is of other data, or if the model cannot be guided.
    """
    fields = experiment.settings.conditioning
    if not fields.classifier:
        return experiment, lambda params: params
    if experiment.latent is not None or experiment.learns_variances:
        raise UserError(
            "config.conditioning.classifier guides a score by its gradient, and the model samples otherwise: with a "
            "decoder, or with learned variances; expected a score network and variances small or large."
        )
    place = Path(fields.classifier)
    classifier, params = (_published if place.is_file() else _trained)(experiment, place)
    count = classifier.num_classes
    if experiment.num_classes not in (0, count):
        raise UserError(
            f"The classifier in {place} knows {count} classes, and the run {experiment.num_classes}; expected the same."
        )
    if unknown := [label for label in fields.labels if label >= count]:
        raise UserError(
            f"config.conditioning.labels has {', '.join(map(str, unknown))}; expected classes from 0 to {count - 1}, "
            f"the {count} of the classifier in {place}."
        )
    return dataclasses.replace(experiment, classifier=classifier), functools.partial(Guided, classifier=params)


def _published(experiment: Experiment, path: Path) -> tuple[LinenClassifier, Params]:
    """The classifier of CIFAR-10 in a checkpoint of score_sde."""
    if experiment.event_shape != _CIFAR10 or experiment.quantization.num_grey_levels is None:
        raise UserError(
            f"config.conditioning.classifier is the file {path}, as the published classifier of CIFAR-10 is, and the "
            f"run is of data of shape {experiment.event_shape}; expected images of {_CIFAR10}, or a directory of "
            "--mode=train_classifier."
        )
    classifier = Cifar10Classifier(WideResNet(), 10, experiment.settings.data.centered)
    params = import_classifier(path, classifier, experiment.event_shape)
    return classifier, everywhere(experiment.mesh, params)


def _trained(experiment: Experiment, home: Path) -> tuple[LinenClassifier, Params]:
    """The classifier that was trained in a directory."""
    directory = home / "classifier"
    recorded, known = newest_config(directory), _data_of(directory)
    if recorded is None or known is None:
        raise UserError(
            f"config.conditioning.classifier is {home}, and there is no trained classifier; train one there with "
            f"--mode=train_classifier --workdir={home}."
        )
    never_inside(directory)  # whose record may name an optimizer
    own = {
        "shape": list(experiment.event_shape),
        "centered": experiment.settings.data.centered,
        "standardization": statistics_to_json(experiment.quantization.standardization).get("standardization"),
    }
    if differing := [
        f"{name} {known.get(name)}, not {value}" for name, value in own.items() if known.get(name) != value
    ]:
        raise UserError(
            f"The classifier in {directory} knows other data than the run: {'; '.join(differing)}; expected one that "
            "was trained on data like the run's."
        )
    its = dataclasses.replace(experiment, settings=_recorded_fields(experiment.settings, recorded))
    classifier = _classifier(its, known["num_classes"])
    state = newest_part(
        experiment.mesh, directory, lambda: init_part(its, classifier, "classifier"), lambda path, saved: None
    )
    if state is None:
        raise UserError(f"There is no checkpoint in {directory}/checkpoints yet; train with --mode=train_classifier.")
    return classifier, state.ema_params


def conditions_of(experiment: Experiment) -> dict[str, Any]:
    """The classes of the samples and their guidance, for a report; nothing for samples of no class."""
    if not experiment.sampled_classes:
        return {}
    fields, classes = experiment.settings.conditioning, {"classes": list(experiment.sampled_classes)}
    if experiment.classifier is not None:
        classes |= {"classifier": fields.classifier, "classifier_scale": fields.classifier_scale}
    if experiment.num_classes:
        limits = {name: fields[name] for name in ("guidance_interval", "rescale") if fields[name]}
        classes |= {"scale": fields.scale, **limits}
    return classes


def _recorded_fields(config: Settings, recorded: Mapping[str, Any]) -> Settings:
    """A configuration with the recorded fields of a classifier, which decide its parameters and its optimizer."""
    found = leaves(recorded)
    known = {**leaves(DEFAULTS), **{name: value for name, value in found.items() if name in FIELDS}}
    own = {name: value for name, value in known.items() if name.split(".")[0] in ("optim", "classifier")}
    return config.with_("optim", options={}).with_fields(own)


def _classifier(experiment: Experiment, num_classes: int) -> LinenClassifier:
    return make_classifier(dict(experiment.settings.classifier), experiment.event_shape, num_classes)


def _loss(experiment: Experiment, classifier: LinenClassifier) -> Loss:
    def logits_of(params: Params) -> Any:
        return lambda x, place: classifier.logits(params, x, place)

    return noisy_class_loss(logits_of, experiment.sde, t_min=experiment.settings.classifier.t_min)


def _held_out(experiment: Experiment, loss: Loss) -> Any:
    def losses(params: Params, key: PRNGKey, batch: Any) -> Times:
        prepare_key, loss_key = jax.random.split(key)
        x = on_data(lambda levels: experiment.prepare(prepare_key, levels), batch)
        return loss(params, loss_key, x, train=False)

    return losses


def _train(
    experiment: Experiment, classifier: LinenClassifier, sources: Mapping[str, Source], directory: Path
) -> TrainState:
    config, loss = experiment.settings, _loss(experiment, classifier)
    evaluate = LossEvaluator(experiment, sources["test"], _held_out(experiment, loss))
    task = part_task(
        *(experiment, classifier, "classifier", directory),
        source=sources["train"],
        step=lambda: part_step(experiment, loss, "classifier", experiment.prepare),
        evaluate=evaluate,
        check=lambda path, saved: check_same_part(saved, config, path, "classifier", trained=_TRAINED),
    )
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with only_writer(directory, "train", doing=f"training the classifier in {directory}"):
        known = {
            "shape": list(experiment.event_shape),
            "centered": config.data.centered,
            "num_classes": classifier.num_classes,
            "data": contents_of(task.source, labels=True),
            **statistics_to_json(experiment.quantization.standardization),
        }
        recorded, before = newest_config(directory), _data_of(directory)
        if recorded is not None:
            check_same_part(recorded, config, directory, "classifier", trained=_TRAINED)
        if before is not None and before != known:
            raise UserError(
                f"The classifier in {directory} learns from other training data; remove it to train another one."
            )
        records = write_records(config, "classifier", directory, {_DATA: known})
        return train_to_end(dataclasses.replace(task, records=records), directory)


def _data_of(directory: Path) -> dict[str, Any] | None:
    """The record of the data of a classifier, or None.

    Raises:
        UserError: If it is damaged.
    """
    path, remedy = directory / _DATA, f"it tells the data of the classifier; remove {directory} to train another"
    found = read_json(path, remedy=remedy)
    if found is None:
        return None
    shape, count = found.get("shape"), found.get("num_classes")
    if not isinstance(shape, list) or not isinstance(count, int) or "centered" not in found or count < 1:
        raise Unreadable(path, "it is of another form", remedy)
    try:
        _scale_of(found)
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable(path, reason_of(error), remedy) from error
    return found


def _scale_of(known: Mapping[str, Any] | None) -> Standardization | None:
    """The standardization in the record of the data of a classifier."""
    found = (known or {}).get("standardization")
    return None if found is None else statistics_from_json(found)
