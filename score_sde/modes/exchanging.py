"""Import and export of models."""

import dataclasses
import logging
from pathlib import Path

import jax
import jax.numpy as jnp

from score_sde.checkpointing import Checkpoints, CheckpointWriter
from score_sde.data import DataRecord
from score_sde.errors import UserError
from score_sde.evaluation.base import fingerprint
from score_sde.evaluation.programs import PROGRAMS, export_program
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.files import atomic_write_json, check_writable, one_at_a_time, only_writer, read_json
from score_sde.interop.checkpoints import import_checkpoint
from score_sde.modes.folder import is_folder, write_folder, write_parameters, write_programs
from score_sde.modes.models import located
from score_sde.modes.record import MODEL, check_given, claim, recorded_data
from score_sde.modes.workdir import (
    build_experiment,
    data_info,
    experiment_for,
    experiment_of,
    has_checkpoint,
    provenance,
    summarize,
    trained_model,
)
from score_sde.report.card import model_card
from score_sde.state import TrainState

log = logging.getLogger(__name__)


def run_import(config: Settings, workdir: Path, command: str, checkpoint: Path) -> None:
    """Turn a published checkpoint, or a model in a folder, into a run to be sampled, measured and trained further.

    The optimizer starts fresh, and the data stream from its beginning. A folder records its data, which need not be
    there.

    Raises:
        UserError: If ``workdir`` already holds another run, or the checkpoint does not fit the configured network;
            nothing is written then. An interrupted import leaves no run, and can simply be repeated.
    """
    experiment, data, file = _described(config, checkpoint)
    imported = import_checkpoint(file, experiment.network, experiment.event_shape)
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
        claim(config, workdir, data)
        atomic_write_json(workdir / "import.json", {"checkpoint": str(checkpoint), **provenance(state, command)})
        with CheckpointWriter(workdir) as checkpoints:  # written last: it marks the directory as a run
            checkpoints.save(state, {}, config.to_dict())
    summarize(workdir, workdir)
    count = sum(leaf.size for leaf in jax.tree.leaves(imported.params))
    log.info("Imported %s parameters at step %d from %s.", f"{count:,}", imported.step, checkpoint)


def _described(config: Settings, checkpoint: Path) -> tuple[Experiment, DataRecord, Path]:
    """The experiment of a checkpoint, the record of its data and the file of its parameters."""
    folder = located(str(checkpoint))
    if is_folder(folder) and (data := recorded_data(folder)) is not None:
        check_given(folder, None)
        return experiment_for(config, data.info, "import", data.standardization), data, folder / MODEL
    experiment = build_experiment(config, "import")
    scale = experiment.quantization.standardization
    return experiment, DataRecord.of(data_info(config), {}, standardization=scale), checkpoint


def _is_import_of(state: TrainState, workdir: Path) -> bool:
    """Whether the run in a directory is an untrained import of this state."""
    found = read_json(workdir / "import.json") or {}
    same = (found.get("step"), found.get("parameters")) == (int(state.step), fingerprint(state.ema_params))
    return same and Checkpoints(workdir).steps == [int(state.step)]


@one_at_a_time("export")
def run_export(config: Settings, workdir: Path, command: str, *, out: Path | None = None) -> None:
    """Write the parameters and an average of them to ``model.safetensors``, which ``--mode=import`` reads.

    With ``config.export.average_only`` the average is alone, and an import takes it for both. In a folder of its own
    (``out``) the records of the run and a model card join them; see :mod:`score_sde.modes.folder`.
    """
    experiment, known = experiment_of(config, workdir, "export"), recorded_data(workdir)
    state, average = trained_model(experiment, workdir)
    settings, step = experiment.settings, int(state.step)
    width, folder, name = settings.ema_width, out or workdir, settings.export.program
    programs = [] if name not in PROGRAMS else [export_program(experiment, state.ema_params, name)]
    which = {"ema_width": width, "ema_step": average.get("ema_step", step)}
    if out is None:
        write_parameters(folder / MODEL, settings, state.params, state.ema_params, step, **which)
        write_programs(folder, programs)
    else:
        data = known or DataRecord.of(data_info(config), {}, standardization=experiment.quantization.standardization)
        card = model_card(settings, data, state.ema_params, step, place=workdir, programs=programs)
        both = {"params": state.params, "ema_params": state.ema_params}
        write_folder(out, settings, data, card, **both, step=step, programs=programs, **which)
    kind = f"the power-function average of width {width:g}" if width else "the average that was trained along"
    log.info("Wrote %s: the parameters of step %d, and %s, of step %d.", folder / MODEL, step, kind, which["ema_step"])
