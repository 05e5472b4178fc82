"""Training of a dequantizer against a fixed score model (Song et al. 2021b, arXiv 2101.09258).

The loss is the variational bound in bits per dimension: the cost of the images under the model plus the log-density of
their noise,

    (E[bound(x(u)) + log q(u | k)]) / (d log 2) + log2(K / width).

All files are in ``workdir/dequantizer``: checkpoints, metrics, the configuration and the step of the model.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from score_sde.cautions import likelihood_cautions
from score_sde.checkpointing import newest_config
from score_sde.data import fingerprint as contents_of
from score_sde.distributed import everywhere
from score_sde.errors import UserError
from score_sde.evaluation.base import fingerprint, mean_and_std_error, with_error
from score_sde.evaluation.likelihood import BinNoise
from score_sde.evaluation.loss import Losses, LossEvaluator
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.files import Unreadable, atomic_write_json, only_writer, read_json, writing
from score_sde.labels import Conditioned
from score_sde.likelihood import DEQUANTIZATIONS, TruncatedNormalDequantizer, UniformDequantizer, dequantization_loss
from score_sde.modes.parts import check_same_part, init_part, newest_part, part_step, part_task
from score_sde.modes.record import write_records
from score_sde.modes.workdir import (
    check_limit,
    experiment_of,
    load_splits,
    measured_split,
    provenance,
    summarize,
    train_to_end,
    trained_model,
)
from score_sde.objectives import given_labels
from score_sde.report.measured import loss_curve
from score_sde.state import TrainState
from score_sde.training.step import TrainStep
from score_sde.typing import Dequantizer, Loss, Params, PRNGKey, Times

#: Fields that decide the trained dequantizer, besides the model, whose own record is checked when it is loaded.
_TRAINED = ("seed", "data", "optim", "dequantizer")
_MODEL = "model.json"

log = logging.getLogger(__name__)


class TrainedDequantizer(NamedTuple):
    """A dequantizer with its averaged parameters."""

    dequantizer: Dequantizer
    params: Params
    step: int  # of the dequantizer's training
    model_step: int  # of the model used in its training


def run_train_dequantizer(config: Settings, workdir: Path, command: str) -> None:
    """Train a dequantizer, or resume, and measure the bound with it and with uniform noise: ``dequantizer.json``.

    Raises:
        UserError: If the configuration names no dequantizer, there is no trained model, or the model was trained on a
            chain with another SDE as its limit.
    """
    experiment = experiment_of(config, workdir, "train_dequantizer")
    dequantizer = named(experiment)
    check_limit(config)
    model, average = trained_model(experiment, workdir)
    train_dequantizer(experiment, model, workdir)
    loss_curve(workdir / "dequantizer" / "metrics.jsonl", workdir / "dequantizer" / "loss.png")

    trained, source = load_dequantizer(experiment, workdir), measured_split(config, workdir, "test")
    evaluate = LossEvaluator(experiment, source, held_out_losses(experiment, dequantizer))
    bits = evaluate.per_example((trained.params, model.ema_params))
    evaluate = LossEvaluator(experiment, source, held_out_losses(experiment, UniformDequantizer()))
    uniform = evaluate.per_example(({}, model.ema_params))
    # Both use the same diffusion times and noise, so most of their error cancels in the difference.
    gain, gain_error = mean_and_std_error(uniform - bits)
    report = {
        "bits_per_dim": float(bits.mean()),
        "uniform_bits_per_dim": float(uniform.mean()),
        "gain_bits_per_dim": gain,
        "gain_std_error": gain_error,
        "num_examples": len(bits),
        "protocol": f"bound with one time per example, t_min={config.dequantizer.t_min:g}, test split",
        "dequantizer_step": trained.step,
        **provenance(model, command),
        **average,
    }
    atomic_write_json(workdir / "dequantizer.json", report)
    summarize(workdir, workdir)
    apart = with_error(abs(gain), gain_error, unit="bits/dim")
    lower = "lower" if gain >= 0.0 else "higher"
    log.info("Against uniform noise the bound is %s by %s, on the test split.", lower, apart)


def dequantizer_loss(experiment: Experiment, dequantizer: Dequantizer, model_params: Params) -> Loss:
    """The loss of a dequantizer against a fixed model, configured by ``config.dequantizer``."""
    settings = experiment.settings.dequantizer
    options = {"t_min": settings.t_min, "offset": settings.offset, "dropout": bool(settings.dropout)}

    def loss(params: Params) -> Loss:
        score_fn = experiment.score_fn(params)
        return dequantization_loss(experiment.quantization, dequantizer, experiment.sde, score_fn, **options)

    if not experiment.num_classes:
        return loss(model_params)
    return given_labels(lambda label: loss(Conditioned(model_params, label)))


def held_out_losses(experiment: Experiment, dequantizer: Dequantizer) -> Losses:
    """The same loss without dropout, as a function of ``(params, model_params)``, for a :class:`LossEvaluator`."""

    def losses(params: tuple[Params, Params], key: PRNGKey, batch: Any) -> Times:
        own, model_params = params
        return dequantizer_loss(experiment, dequantizer, model_params)(own, key, batch, train=False)

    return losses


def train_dequantizer(experiment: Experiment, model: TrainState, workdir: Path) -> TrainState:
    """Train to ``dequantizer.num_steps`` against the averaged parameters of a model; see :func:`.loop.run`.

    Raises:
        UserError: If the configuration names no dequantizer, or ``workdir/dequantizer`` holds one trained with another
            configuration or against another step of the model; also as in the training loop.
    """
    config, dequantizer, directory = experiment.settings, named(experiment), workdir / "dequantizer"
    frozen = everywhere(experiment.mesh, model.ema_params)

    def step(model_params: Params) -> TrainStep:
        loss = dequantizer_loss(experiment, dequantizer, model_params)
        return part_step(experiment, loss, "dequantizer", lambda key, levels: levels)

    sources = load_splits(config)
    evaluate = LossEvaluator(experiment, sources["test"], held_out_losses(experiment, dequantizer))
    task = part_task(
        *(experiment, dequantizer, "dequantizer", directory),
        source=sources["train"],
        step=step,
        constants=(frozen,),
        evaluate=lambda params: evaluate((params, frozen)),
        check=lambda path, saved: _check_same(saved, config, path),
    )
    with writing(directory):
        directory.mkdir(exist_ok=True)
    with only_writer(directory, "train", doing=f"training the dequantizer in {directory}"):
        contents = contents_of(task.source, labels=config.conditioning.classes)
        known = {"parameters": fingerprint(frozen), "data": contents}
        records = _claim(config, directory, {"step": int(model.step), **known})
        return train_to_end(dataclasses.replace(task, records=records), directory)


def load_dequantizer(experiment: Experiment, workdir: Path) -> TrainedDequantizer:
    """The newest dequantizer of a working directory, with averaged parameters.

    It may be used with a later state of the model than in its training: the bound stays a bound.

    Raises:
        UserError: If the configuration names no dequantizer, none was trained, or it was trained with another
            configuration.
    """
    dequantizer, directory = named(experiment), workdir / "dequantizer"
    recorded = newest_config(directory)
    if recorded is None or not (directory / "checkpoints").is_dir():
        raise _untrained(workdir)
    _check_same(recorded, experiment.settings, directory)
    state = newest_part(
        *(experiment.mesh, directory, lambda: init_part(experiment, dequantizer, "dequantizer")),
        check=lambda path, saved: _check_same(saved, experiment.settings, path),
    )
    if state is None:
        raise _untrained(workdir)
    return TrainedDequantizer(dequantizer, state.ema_params, int(state.step), _model(directory)["step"])


def load_noise(experiment: Experiment, workdir: Path) -> BinNoise:
    """The configured dequantization noise, with a warning if the network was trained with another.

    Raises:
        UserError: If it is variational and no dequantizer was trained in ``workdir``.
    """
    settings = experiment.settings.likelihood
    kind = DEQUANTIZATIONS[settings.dequantization]
    continuous = experiment.quantization.num_grey_levels is None
    for sentence in likelihood_cautions(experiment.settings, continuous=continuous):
        log.warning("%s", sentence)
    if kind.decodes and not continuous:
        mean_coeff, std = experiment.sde.marginal(jnp.asarray(settings.t_min))
        noise = TruncatedNormalDequantizer(quantization=experiment.quantization, mean_coeff=mean_coeff, std=std)
        return BinNoise(dequantizer=noise, name="truncated normal", decodes=True)
    if not kind.trained:
        return BinNoise()
    trained = load_dequantizer(experiment, workdir)
    return BinNoise(dequantizer=trained.dequantizer, params=trained.params, name=f"variational (step {trained.step})")


def named(experiment: Experiment) -> Dequantizer:
    """The configured dequantizer.

    Raises:
        UserError: If the configuration names none.
    """
    if experiment.dequantizer is None:
        raise UserError(
            "config.dequantizer.name is none; expected the dequantizer that is to be trained or used, such as flowpp."
        )
    return experiment.dequantizer


def _claim(config: Settings, directory: Path, model: dict[str, Any]) -> dict[str, Any]:
    """Record configuration, model and data in a new directory, or check them against an existing record.

    Parameters and data are recorded by their fingerprints, which earlier versions lack. Returns the records by file
    name.
    """
    recorded = newest_config(directory)
    if recorded is not None:
        _check_same(recorded, config, directory)
        _check_same_model(_model(directory), model, directory)
    return write_records(config, "dequantizer", directory, {_MODEL: model})


def _check_same(recorded: Mapping[str, Any], config: Settings, directory: Path) -> None:
    check_same_part(recorded, config, directory, "dequantizer", trained=_TRAINED)


def _check_same_model(recorded: dict[str, Any], model: dict[str, Any], directory: Path) -> None:
    remedy = f"Remove {directory} to train one for that."
    if recorded["step"] != model["step"]:
        raise UserError(
            f"The dequantizer in {directory} learns to suit the model of step {recorded['step']}, and the newest "
            f"checkpoint of the model is of step {model['step']}. {remedy}"
        )
    if recorded.get("parameters", model["parameters"]) != model["parameters"]:
        raise UserError(
            f"The dequantizer in {directory} learns to suit another model of step {model['step']}, with other "
            f"parameters. {remedy}"
        )
    if recorded.get("data", model["data"]) != model["data"]:
        raise UserError(f"The dequantizer in {directory} learns from other training data. {remedy}")


def _model(directory: Path) -> dict[str, Any]:
    path, remedy = directory / _MODEL, f"it names the model of the dequantizer; remove {directory} to train another"
    found = read_json(path, remedy=remedy) or {}
    if not isinstance(found.get("step"), int):
        raise Unreadable(path, "it names no step" if path.exists() else "there is no such file", remedy)
    return found


def _untrained(workdir: Path) -> UserError:
    return UserError(f"There is no trained dequantizer in {workdir}; train one there with --mode=train_dequantizer.")
