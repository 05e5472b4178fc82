"""A trained model from where it lies, and the start of a training from one."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from score_sde.checkpointing import newest_config
from score_sde.config import changed_fields, from_record
from score_sde.data import DataRecord
from score_sde.distributed import everywhere
from score_sde.errors import UserError, nearest
from score_sde.evaluation.base import fingerprint
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.files import read_bytes, read_json
from score_sde.interop.checkpoints import import_checkpoint
from score_sde.interop.convert import expected_shapes, flatten, unflatten
from score_sde.labels import Taught
from score_sde.modes.folder import CARD, is_folder, read_records
from score_sde.modes.record import MODEL, check_given, given_name, recorded_data
from score_sde.modes.workdir import (
    data_info,
    experiment_for,
    experiment_of,
    has_checkpoint,
    measured_standardization,
    trained_state,
)
from score_sde.paths import place, typed
from score_sde.state import TrainState, state_of
from score_sde.training.objective import OBJECTIVES
from score_sde.typing import Params

PRETRAINED = Path(__file__).parents[1] / "pretrained"
_LISTED = 5  # parameters that a message names

Evaluate = Callable[[Params], tuple[float, float]]  # the mean of a loss and its standard error


class Found(NamedTuple):
    """A trained model with the objects of its run."""

    experiment: Experiment
    params: Params  # averaged
    trained: Params
    step: int
    data: DataRecord
    place: Path | None = None  # the working directory of its run
    card: str | None = None  # the text of its model card
    given: str = ""  # the network that the program gave, if any


def pretrained() -> dict[str, Path]:
    """The folders of the models that come with the package, by their names."""
    return {path.parent.name: path.parent for path in sorted(PRETRAINED.glob(f"*/{MODEL}"))}


def located(where: str) -> Path:
    """The folder of a pretrained model, by its name, or an existing path.

    Raises:
        UserError: If there is neither; with the nearest name.
    """
    names = pretrained()
    path = names.get(where) or place(typed(where, "The place of the model", bucket=True))
    if not path.exists():
        raise UserError(
            f"There is no model {where}: no file or folder of this name, and none that comes with the package."
            f"{nearest(where, names)} Pretrained: {', '.join(names) or 'none'}."
        )
    return path


def config_of(checkpoint: str) -> Path:
    """The record of the configuration of a model in a folder, or of one that comes with the package.

    Raises:
        UserError: If there is none, or it names parts outside this package, for a folder may come from anybody.
    """
    path = located(checkpoint)
    if not is_folder(path):
        raise UserError(
            f"{path} is no folder of a model with its configuration; give --config=FILE, such as "
            "vp/cifar10_ddpmpp_continuous, for a checkpoint of that network."
        )
    read_records(path)
    return path / "config.json"


def find_model(
    path: Path,
    *,
    config: Settings | None = None,
    network: Any = None,
    own_parts: bool = False,
    like: Experiment | None = None,
) -> Found:
    """The model in a folder, in a working directory, or in a file of parameters with a configuration.

    A given network stands in for the configured one. The parameters in a file may be of the network of an experiment,
    ``like``. For a folder, which may come from anybody, nothing outside this package is imported unless ``own_parts``
    allows it.

    Raises:
        UserError: If there is no model, or a damaged one.
    """
    if like is not None and not path.is_file() and given_name(path):
        network = like.network
    if has_checkpoint(path):
        return _of_run(path, network)
    if is_folder(path):
        check_given(path, network)
        settings, data = read_records(path, own_parts=own_parts)
        card = read_bytes(path / CARD)
        experiment = experiment_for(settings, data.info, "sample", data.standardization, network=network)
        found = _imported(path / MODEL, experiment, data)
        return found._replace(card=None if card is None else card.decode(errors="replace"), given=given_name(path))
    if not path.is_file():
        raise UserError(f"There is no model in {path}: neither checkpoints of a run, nor {MODEL} with its records.")
    if like is not None:
        config = like.settings
    if config is None:
        raise UserError(
            f"{path} is a file of parameters, which does not say of which network; give config=, a file or a name such "
            "as 'vp/cifar10_ddpmpp_continuous'."
        )
    info = data_info(config)
    experiment = like or experiment_for(config, info, "sample", measured_standardization(config, info), network=network)
    return _imported(path, experiment, DataRecord.of(info, {}, standardization=experiment.quantization.standardization))


def _of_run(workdir: Path, network: Any) -> Found:
    recorded = newest_config(workdir) or {}
    settings = Settings.of(from_record(recorded, f"the record of the run in {workdir}", workdir))
    experiment = experiment_of(settings, workdir, "sample", network=network)
    scale = experiment.quantization.standardization
    data = recorded_data(workdir) or DataRecord.of(data_info(settings), {}, standardization=scale)
    found = of_state(experiment, trained_state(experiment, workdir), data, workdir)
    return found._replace(given=given_name(workdir))


def of_state(experiment: Experiment, state: TrainState, data: DataRecord, workdir: Path | None) -> Found:
    """The model of a training state."""
    params, trained = everywhere(experiment.mesh, (state.ema_params, state.params))
    return Found(experiment, params, trained, int(state.step), data, workdir)


def _imported(path: Path, experiment: Experiment, data: DataRecord) -> Found:
    found = import_checkpoint(path, experiment.network, experiment.event_shape)
    params, trained = jax.tree.map(jnp.asarray, (found.ema_params, found.params))
    return Found(experiment, params, trained, found.step, data)


class Start(NamedTuple):
    """The start of a training from another model."""

    init_state: Callable[[], TrainState]  # the state at step 0
    record: dict[str, Any]  # which model it is, and which parameters are not from it


def start_from(experiment: Experiment, where: str, *, anew: bool) -> Start:
    """The start from the averaged parameters of another model, with an optimizer of its own.

    Parameters that the other model lacks, or has in another shape, are initialized as without it, if ``anew``.

    Raises:
        UserError: If there is no model, or if it does not fit and nothing may be initialized anew.
    """
    path = located(where)
    source = find_model(path, like=experiment)
    shapes, given = expected_shapes(experiment.network, experiment.event_shape), flatten(source.params)
    unlike = {name: shape for name, shape in shapes.items() if name not in given or given[name].shape != shape}
    unused = [name for name in given if name not in shapes]
    if (unlike or unused) and not anew:
        raise _unfit(where, unlike, unused, given)
    if len(unlike) == len(shapes):
        raise UserError(f"No parameter of {where} fits the network; expected a model of the same kind of network.")
    kept = {name: given[name] for name in shapes if name not in unlike}
    record = {
        "from": where,
        "step": source.step,
        "parameters": fingerprint(source.params),
        "data": source.data.name,
        "anew": list(unlike),
        "unused": unused,
    }
    return Start(functools.partial(_joined_state, experiment, kept), record)


def teacher_of(experiment: Experiment, workdir: Path) -> Params | None:
    """The averaged parameters of the model that a student learns from; ``None`` for objectives without a teacher.

    Raises:
        UserError: If there is no such model, if its network means something else, or if the run began with another one.
    """
    settings = experiment.settings
    if not OBJECTIVES[settings.objective.kind].taught:
        return None
    where, groups = settings.training.init_from, ("sde", "parameterization")
    path = located(where)
    found = find_model(path, like=experiment)
    if changed := changed_fields(found.experiment.settings.to_dict(), settings, groups=groups):
        raise UserError(
            f"The student begins as its teacher in {where} (config.training.init_from), and differs in:\n  "
            + "\n  ".join(changed)
            + "\nGive the student the values of the teacher."
        )
    began = read_json(workdir / "init.json", remedy="train in another --workdir") or {}
    if began.get("parameters") not in (None, fingerprint(found.params)):
        raise UserError(
            f"The model in {where} (config.training.init_from) is not the teacher that the run in {workdir} began "
            "with; expected that one, or another --workdir for a new run."
        )
    return everywhere(experiment.mesh, found.params)


def against_teacher(experiment: Experiment, workdir: Path, evaluate: Evaluate) -> Evaluate:
    """The loss of parameters on held-out data, of a student against its teacher.

    Raises:
        UserError: As :func:`teacher_of`.
    """
    teacher = teacher_of(experiment, workdir)
    return evaluate if teacher is None else lambda params: evaluate(Taught(params, teacher))


def _joined_state(experiment: Experiment, kept: Mapping[str, Any]) -> TrainState:
    fresh = experiment.init_state()
    return state_of(unflatten(flatten(fresh.params) | dict(kept)), experiment.tx, experiment.settings.seed)


def _unfit(where: str, unlike: Mapping[str, tuple[int, ...]], unused: list[str], given: Mapping[str, Any]) -> UserError:
    lines = [
        f"'{name}' has shape {given[name].shape}, and the network expects {shape}"
        if name in given
        else f"it lacks '{name}' of shape {shape}"
        for name, shape in unlike.items()
    ] + [f"the network has no '{name}'" for name in unused]
    more = [f"and {len(lines) - _LISTED} more"] * (len(lines) > _LISTED)
    return UserError(
        f"The model in {where} (config.training.init_from) does not fit the network: "
        f"{'; '.join([*lines[:_LISTED], *more])}. Give the configuration of that model, or set "
        "config.training.init_anew=True: the parameters that do not fit are then initialized anew."
    )
