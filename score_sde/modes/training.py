"""Training, and import and export of models."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.agreement import agreed_on
from score_sde.cautions import cautions
from score_sde.checkpointing import Check, Checkpoints, CheckpointWriter
from score_sde.data import DataRecord, Source, tell
from score_sde.errors import UserError
from score_sde.evaluation.base import fingerprint
from score_sde.evaluation.loss import LossEvaluator
from score_sde.evaluation.samples import in_rows, sampled_labels, sketch
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.files import atomic_write_json, check_writable, one_at_a_time, only_writer, read_json
from score_sde.interop.checkpoints import export_checkpoint, import_checkpoint
from score_sde.modes.record import claim, of_this_run
from score_sde.modes.workdir import (
    build_experiment,
    data_info,
    experiment_of,
    has_checkpoint,
    load_splits,
    provenance,
    summarize,
    train_to_end,
    trained_model,
)
from score_sde.report.measured import loss_curve
from score_sde.report.plots import image_grid, scatter
from score_sde.state import TrainState
from score_sde.training.labels import check_reads_labels
from score_sde.training.loop import Task, Watch
from score_sde.typing import Params

log = logging.getLogger(__name__)


def run_train(config: Settings, workdir: Path, command: str) -> None:
    """Train, or resume training, and draw the loss curve."""

    def prepare() -> tuple[tuple[Experiment, dict[str, Source], DataRecord], dict[str, Any]]:
        experiment, sources = build_experiment(config, "train"), load_splits(config)
        record = DataRecord.of(sources["train"].info, sources, labels=config.conditioning.classes)
        return (experiment, sources, record), record.summary()

    experiment, sources, data = agreed_on("data", prepare)
    check_writable(workdir)
    with only_writer(workdir, "train", doing=f"training the run in {workdir}"):
        records = claim(config, workdir, data)
        tell(sources, labels=config.conditioning.classes)
        watch = _pictures(experiment, sources["test"], workdir / "progress")
        train(
            experiment,
            workdir,
            watch=watch,
            sources=sources,
            check=of_this_run(workdir),
            cautions=lambda: cautions(config, sources["train"]),
            records=records,
        )
    loss_curve(workdir / "metrics.jsonl", workdir / "loss.png")
    summarize(workdir, workdir)


def train(
    experiment: Experiment,
    workdir: Path,
    *,
    watch: Watch = lambda step, params: None,
    sources: Mapping[str, Source] | None = None,
    check: Check = lambda path, config: None,
    cautions: Callable[[], Iterable[str]] = tuple,
    records: Mapping[str, Any] | None = None,
) -> TrainState:
    """Train the score network to ``training.num_steps``; see :func:`score_sde.training.loop.run`.

    ``watch`` is called with the averaged parameters every ``training.sample_every`` steps. The splits of the data are
    loaded unless given. The other arguments are those of :class:`score_sde.training.loop.Task`.

    Raises:
        UserError: As :func:`score_sde.training.loop.run`; if a network that is trained on labels ignores them.
    """
    config = experiment.settings
    sources = load_splits(config) if sources is None else sources
    if experiment.num_classes and not has_checkpoint(workdir):
        check_reads_labels(experiment.network, experiment.event_shape)
    task = Task(
        mesh=experiment.mesh,
        run=config,
        group="training",
        source=sources["train"],
        init_state=experiment.init_state,
        step=lambda: experiment.train_step,
        evaluate=LossEvaluator(experiment, sources["test"]),
        snapshot_every=config.optim.ema_snapshot_every,
        watch=watch,
        watch_every=config.training.sample_every,
        advice="lower config.optim.lr or config.optim.grad_clip, and start in another --workdir",
        check=check,
        cautions=cautions,
        records=records or {},
    )
    return train_to_end(task, workdir)


def _pictures(experiment: Experiment, source: Source, directory: Path) -> Watch:
    """Draws samples of the model from the same noise every time: ``progress/step_00000500.png``."""
    num_grey_levels = experiment.quantization.num_grey_levels
    count = min(6 * len(experiment.sampled_classes), 60) or 36
    samples = sketch(experiment, count if num_grey_levels is not None else 1000)
    shown, columns = in_rows(sampled_labels(experiment, count))

    def draw(step: int, params: Params) -> None:
        found = samples(params)
        picture = directory / f"step_{step:08d}.png"
        if num_grey_levels is not None:
            image_grid(found[shown], picture, num_grey_levels=num_grey_levels, columns=columns)
        elif np.isfinite(found).all():  # early in training a model may send points anywhere
            scatter(found, source.gather(np.arange(min(len(found), len(source)))), picture)

    return draw


def run_import(config: Settings, workdir: Path, command: str, checkpoint: Path) -> None:
    """Turn a published checkpoint into a run that can be sampled, measured and trained further.

    The optimizer starts fresh, and the data stream from its beginning.

    Raises:
        UserError: If ``workdir`` already holds another run, or the checkpoint does not fit the configured network;
            nothing is written then. An interrupted import leaves no run, and can simply be repeated.
    """
    experiment = build_experiment(config, "import")
    imported = import_checkpoint(checkpoint, experiment.network, experiment.event_shape)
    fresh = experiment.fresh_state(imported.params)
    state = dataclasses.replace(
        fresh, ema_params=jax.tree.map(jnp.asarray, imported.ema_params), step=jnp.asarray(imported.step, jnp.int32)
    )
    if has_checkpoint(workdir):
        if not _is_import_of(state, workdir):
            raise UserError(f"There is a run in {workdir} already; give another --workdir.")
        log.info("%s was imported to %s before; nothing is left to do.", checkpoint, workdir)
        return
    check_writable(workdir)
    with only_writer(workdir, "train", doing=f"importing a checkpoint to {workdir}"):
        claim(config, workdir, DataRecord.of(data_info(config), {}))
        atomic_write_json(workdir / "import.json", {"checkpoint": str(checkpoint), **provenance(state, command)})
        with CheckpointWriter(workdir) as checkpoints:  # written last: it marks the directory as a run
            checkpoints.save(state, {}, config.to_dict())
    summarize(workdir, workdir)
    count = sum(leaf.size for leaf in jax.tree.leaves(imported.params))
    log.info("Imported %s parameters at step %d from %s.", f"{count:,}", imported.step, checkpoint)


def _is_import_of(state: TrainState, workdir: Path) -> bool:
    """Whether the run in a directory is an untrained import of this state."""
    found = read_json(workdir / "import.json") or {}
    same = (found.get("step"), found.get("parameters")) == (int(state.step), fingerprint(state.ema_params))
    return same and Checkpoints(workdir).steps == [int(state.step)]


@one_at_a_time("export")
def run_export(config: Settings, workdir: Path, command: str, *, out: Path | None = None) -> None:
    """Write the parameters and an average of them to ``model.safetensors``, which ``--mode=import`` reads."""
    experiment = experiment_of(config, workdir, "export")
    state, average = trained_model(experiment, workdir)
    path, width, step = (out or workdir) / "model.safetensors", experiment.settings.ema_width, int(state.step)
    which = {"ema_width": width, "ema_step": average.get("ema_step", step)}
    export_checkpoint(path, state.params, state.ema_params, step, **which)
    kind = f"the power-function average of width {width:g}" if width else "the average that was trained along"
    log.info("Wrote %s: the parameters of step %d, and %s, of step %d.", *(path, step, kind, which["ema_step"]))
