"""A working directory: its run, and the provenance of every result written to it."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from score_sde.agreement import agreed_on
from score_sde.checkpointing import Checkpoints, DamagedSnapshot, Snapshots, newest_config
from score_sde.data import STANDARDIZATIONS, Source, SourceInfo, load_source, source_info
from score_sde.data import fingerprint as contents_of
from score_sde.data.base import SPLITS
from score_sde.diffusions import CONTINUOUS, DIFFUSIONS
from score_sde.distributed import everywhere, state_sharding, with_sharding
from score_sde.errors import UserError, plural, refuse
from score_sde.evaluation.base import fingerprint
from score_sde.evaluation.partial import Partial, partial_file
from score_sde.evaluation.results import keep_metrics
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.fields.settings import Nested
from score_sde.machine import describe_machine
from score_sde.modes.record import as_recorded, check_given, check_same, of_this_run, recorded_data
from score_sde.outside.parts import option_problems
from score_sde.parameterization import LEVEL_CONDITIONS
from score_sde.report.summary import write_summary
from score_sde.standardization import Standardization
from score_sde.state import TrainState
from score_sde.training.ema import reconstruct, reconstruction_error, reconstruction_weights
from score_sde.training.loop import Task, run
from score_sde.training.writers import ProgressBar
from score_sde.typing import Params
from score_sde.validation import need_score, purposes_of

_WITHOUT_DATA = ("sample", "restore", "export")  # modes that need no data to build their model
_ROUGH = 0.05  # error of a reconstructed profile that triggers a warning

log = logging.getLogger(__name__)


def build_experiment(
    config: Nested, mode: str | None = None, *, standardization: Standardization | None = None
) -> Experiment:
    """The experiment of a configuration and its data, for one mode or for all.

    The standardization comes from the data unless it is given.
    """
    settings = Settings.of(config)
    info = data_info(settings)
    return experiment_for(settings, info, mode, standardization or measured_standardization(settings, info))


def experiment_for(
    config: Settings,
    info: SourceInfo,
    mode: str | None,
    standardization: Standardization | None,
    *,
    network: Any = None,
) -> Experiment:
    """The experiment of a configuration for data with these facts, for one mode or for all.

    A given network stands in for the configured one.
    """
    return Experiment.from_config(
        config,
        info.shape,
        info.num_grey_levels,
        num_classes=info.num_classes,
        standardization=standardization,
        network=network,
        purposes=purposes_of(mode, config),
    )


def measured_standardization(config: Settings, info: SourceInfo) -> Standardization | None:
    """The standardization of ``config.data.standardize`` with the statistics of the training split.

    Of gray levels there is none; :mod:`score_sde.validation` refuses to standardize them.

    Raises:
        UserError: If the data cannot be standardized, or are not at hand.
    """
    measure = STANDARDIZATIONS[config.data.standardize]
    if measure is None or info.num_grey_levels is not None:
        return None
    return measure(load_split(config, "train"))


def experiment_of(config: Settings, workdir: Path, mode: str, *, network: Any = None) -> Experiment:
    """The experiment of a run for a mode that needs its model.

    Modes that need no data take shape and gray levels from the record of the run, if it has one, and all modes take
    the standardization from there. A given network stands in for the configured one.

    Raises:
        UserError: If the configuration differs from the run's in fields that the mode reads, or the data have another
            shape.
    """
    check_given(workdir, network)
    config, known = as_recorded(config, workdir, mode), recorded_data(workdir)
    if known is not None and mode in _WITHOUT_DATA:
        scale = standardization_of(config, known.info, workdir)
        return experiment_for(config, known.info, mode, scale, network=network)
    with _perhaps_moved(config, workdir):
        info = data_info(config)
    if known is not None and (known.shape, known.num_levels) != (info.shape, info.num_grey_levels):
        raise UserError(
            f"{info.name} has examples of shape {info.shape} with {info.num_grey_levels} gray levels, and the run in "
            f"{workdir} was trained on {known.shape} with {known.num_levels}; expected the same. Give such data as "
            "config.data.name."
        )
    return experiment_for(config, info, mode, standardization_of(config, info, workdir), network=network)


def standardization_of(config: Settings, info: SourceInfo, workdir: Path) -> Standardization | None:
    """The standardization in the record of a run, or of its data if there is none."""
    known = recorded_data(workdir)
    if known is not None and known.standardization is not None:
        return known.standardization
    with _perhaps_moved(config, workdir):
        return measured_standardization(config, info)


@contextlib.contextmanager
def _perhaps_moved(config: Settings, workdir: Path) -> Iterator[None]:
    """A block that needs the data of a run; if they are missing, the error says how to name their new place."""
    kind, colon, _ = config.data.name.partition(":")
    try:
        yield
    except UserError as error:
        if not colon or kind == "toy":
            raise
        raise UserError(
            f"{error} If the data of the run in {workdir} have moved, say where they are: "
            f"--config.data.name={kind}:PLACE, or --config.data.data_dir."
        ) from error


def measured_split(config: Settings, workdir: Path, split: str) -> Source:
    """One split of the configured data, with a warning if the run was trained on other data."""

    def prepare() -> tuple[tuple[Source, str], dict[str, str]]:
        with _perhaps_moved(config, workdir):
            source = load_split(config, split)
        contents = contents_of(source, labels=config.conditioning.classes)
        return (source, contents), {f"the {split} split": contents}

    (source, contents), known = agreed_on("data", prepare), recorded_data(workdir)
    recorded = None if known is None else known.splits.get(split)
    if recorded is not None and recorded.contents != contents:
        log.warning(
            "The %s split of %s is not that of the data that the run was trained on; what is measured is of other "
            "data.",
            *(split, source.info.name),
        )
    return source


def data_info(config: Settings) -> SourceInfo:
    """Shape, gray levels and classes of the data.

    With ``config.data.shape`` the images need not be available, unless their number of classes is needed.

    Raises:
        UserError: If this shape is not a shape of 8-bit images, or differs from the shape of the data.
    """
    shape = tuple(config.data.shape)
    if not shape or (config.conditioning.classes and not config.model.num_classes):
        return source_info(config.data.name, data_dir=config.data.data_dir or None, options=config.data.options)
    return SourceInfo(config.data.name, shape, 256, None)


def load_split(config: Settings, split: str) -> Source:
    """One split of the configured data."""
    data = config.data
    refuse(option_problems(config, "data"))
    return load_source(data.name, split, data_dir=data.data_dir or None, shape=tuple(data.shape), options=data.options)


def load_splits(config: Settings) -> dict[str, Source]:
    """Both splits of the configured data."""
    return {split: load_split(config, split) for split in SPLITS}


def check_limit(config: Settings) -> None:
    """Refuse a network that was not trained for the requested SDE at all of its times.

    Raises:
        UserError: If the network has learned no score, was trained on a chain of another SDE, or is conditioned on the
            index of the nearest level.
    """
    need_score(config, "a likelihood or a latent code")
    own = DIFFUSIONS[config.sde.name].own
    if config.sde.schedule not in (CONTINUOUS, own):
        raise UserError(
            f"The network was trained on the chain sde.schedule={config.sde.schedule}, and this is asked of the flow "
            f"of the {config.sde.name} SDE, which is the limit of another; expected continuous or {own}."
        )
    if LEVEL_CONDITIONS.get(config.parameterization.condition_on):
        raise UserError(
            "The network is told the number of a noise level (config.parameterization.condition_on="
            f"{config.parameterization.condition_on}) and knows no time between two, where the flow needs it; expected "
            "a network trained in continuous time, such as configs/ve/cifar10_ncsnpp_continuous.py."
        )


def has_checkpoint(workdir: Path) -> bool:
    """Whether there is a checkpoint to restore."""
    return bool(Checkpoints(workdir).steps)


def train_to_end(task: Task, directory: Path) -> TrainState:
    """Train, or resume training; metrics without a checkpoint to resume from are first moved out of the way."""
    if not has_checkpoint(directory):
        keep_metrics(directory)
    return run(task, directory)


def trained_state(experiment: Experiment, workdir: Path) -> TrainState:
    """The state of the newest good checkpoint, with averaged parameters replicated on every device."""
    return trained_model(experiment, workdir)[0]


def trained_model(experiment: Experiment, workdir: Path) -> tuple[TrainState, dict[str, int]]:
    """The state of the newest good checkpoint, and for an average of ``config.ema_width`` its record ``ema_step``."""
    if (recorded := newest_config(workdir)) is not None:
        check_same(experiment.settings, recorded, workdir, "sample")
    if recorded is None or not (workdir / "checkpoints").is_dir():
        raise UserError(f"There is no trained model in {workdir}; train one there first with --mode=train.")
    like = experiment.abstract_state()
    whole = with_sharding(like.ema_params, state_sharding(experiment.mesh, like.ema_params, fsdp=False))
    restored = Checkpoints(workdir).restore_newest(
        dataclasses.replace(like, ema_params=whole), check=of_this_run(workdir)
    )
    if restored is None:
        raise UserError(f"There is no checkpoint in {workdir}/checkpoints yet; train first with --mode=train.")
    state = restored.state
    if not experiment.settings.ema_width:
        return state, {}
    average, last = _power_average(experiment, workdir, like.ema_params)
    if last != int(state.step):
        log.warning(
            "The average of config.ema_width=%g is of step %d, the last snapshot, and the newest checkpoint is of step "
            "%d: the results are of the model at step %d.",
            *(experiment.settings.ema_width, last, int(state.step), last),
        )
    return dataclasses.replace(state, ema_params=average), {"ema_step": last}


def _power_average(experiment: Experiment, workdir: Path, like: Params) -> tuple[Params, int]:
    """The average of width ``config.ema_width`` at the last snapshot, reconstructed from all snapshots; and its step.

    Damaged snapshots are left out; the weights are optimal for the remaining ones.
    """
    snapshots = Snapshots(workdir)
    found = snapshots.names
    while True:
        steps, widths = zip(*found, strict=True) if found else ((), ())
        target = {"target_width": experiment.settings.ema_width, "target_time": max(steps, default=0)}
        weights = reconstruction_weights(steps, widths, **target)
        try:
            average = reconstruct((w, snapshots.load(*name, like)) for w, name in zip(weights, found, strict=True))
            break
        except DamagedSnapshot as error:
            log.warning("%s The average is put together without it.", error)
            found.remove(error.name)
    error = reconstruction_error(weights, steps, widths, **target)
    log.log(
        logging.WARNING if error > _ROUGH else logging.INFO,
        "The average of width %g at step %d is put together from %d %s; its profile is %.2g %% off.",
        *(target["target_width"], target["target_time"], len(found), plural(len(found), "snapshot"), 100.0 * error),
    )
    return everywhere(experiment.mesh, average), target["target_time"]


@contextlib.contextmanager
def kept_in(place: Path, name: str, identity: str, *, total: int, doing: str, unit: str = "") -> Iterator[Partial]:
    """The results so far of a measurement in a directory, from which it resumes, under a progress bar."""
    with ProgressBar(total=total, description=doing, unit=unit) as bar:
        yield Partial(partial_file(place, name, identity), identity, bar.advance)


def summarize(workdir: Path, place: Path) -> None:
    """Write the page of a run beside new results; without a run there is no page."""
    if (workdir / "config.json").exists() or has_checkpoint(workdir):
        write_summary(workdir, place)


def provenance(state: TrainState, command: str) -> dict[str, Any]:
    """The provenance of a result: model, command, date and hardware."""
    return {"step": int(state.step), "parameters": fingerprint(state.ema_params), **machine(command)}


def machine(command: str) -> dict[str, Any]:
    """The command, the date and the hardware."""
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": describe_machine(),
    }
