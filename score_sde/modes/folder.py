"""A model as a folder that can be handed on: parameters, two records and a card. Nothing in it is executed.

``model.safetensors`` has the parameters and their average, or the average alone, ``config.json`` and ``data.json`` are
the records of the run, and ``README.md`` is the model card.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from score_sde.config import from_record, leaves
from score_sde.data import DataRecord
from score_sde.errors import UserError
from score_sde.evaluation.programs import Exported
from score_sde.fields import FIELDS, Settings
from score_sde.fields.kinds import Choice
from score_sde.files import atomic_path, atomic_write_json, atomic_write_text, check_writable, read_json
from score_sde.interop.checkpoints import export_checkpoint
from score_sde.modes.record import GIVEN, MODEL, recorded_data
from score_sde.modes.workdir import has_checkpoint
from score_sde.typing import Params

CARD = "README.md"
log = logging.getLogger(__name__)

_REMEDY = "write the folder anew, with --mode=export --out=FOLDER or Model.save"


def is_folder(place: Path) -> bool:
    """Whether a directory holds a model that was handed on, and no run with checkpoints."""
    return (place / MODEL).is_file() and not has_checkpoint(place)


def write_folder(
    folder: Path,
    settings: Settings,
    data: DataRecord,
    card: str,
    *,
    params: Params,
    ema_params: Params,
    step: int,
    programs: Sequence[Exported] = (),
    given: str = "",
    **average: Any,
) -> Path:
    """Write a model as a folder, which may hold an earlier one; ``average`` is as for :func:`write_parameters`.

    Programs of the model are written beside it. ``given`` names the network of a program, which the configuration does
    not.

    Raises:
        UserError: If the folder holds a run, or cannot be written.
    """
    if has_checkpoint(folder):
        raise UserError(f"{folder} holds a run with its checkpoints; expected a folder for the model alone.")
    check_writable(folder)
    # The parameters make the folder a model. They take the room first and their name last, and as long as they have
    # none, the records beside them are no run's.
    with atomic_path(folder / MODEL) as temporary:
        write_parameters(temporary, settings, params, ema_params, step, **average)
        atomic_write_text(folder / CARD, card)
        write_programs(folder, programs)
        if given:
            atomic_write_json(folder / GIVEN, {"network": given})
        else:
            (folder / GIVEN).unlink(missing_ok=True)
        atomic_write_json(folder / "data.json", data.to_json())
        atomic_write_json(folder / "config.json", settings.to_dict())
    return folder


def write_parameters(
    file: Path, settings: Settings, params: Params, ema_params: Params, step: int, **average: Any
) -> None:
    """Write what ``config.export`` says; ``average`` is as for ``export_checkpoint``.

    Raises:
        UserError: If its type does not hold a parameter.
    """
    kept = None if settings.export.average_only else params
    export_checkpoint(file, kept, ema_params, step, dtype=settings.export.dtype, **average)


def write_programs(folder: Path, programs: Sequence[Exported]) -> None:
    """Write exported programs, and say how long they can be run."""
    for program in programs:
        with atomic_path(folder / program.file) as temporary:
            temporary.write_bytes(program.data)
        log.info("Wrote %s. %s", folder / program.file, program.sentence)


def read_records(folder: Path, *, own_parts: bool = False) -> tuple[Settings, DataRecord]:
    """The configuration and the data of a model in a folder.

    A configuration that names parts outside this package is accepted only if ``own_parts``.

    Raises:
        UserError: If a record is missing, damaged, or of other fields, or names parts that must not be imported.
    """
    config, data = read_json(folder / "config.json", remedy=_REMEDY), recorded_data(folder)
    missing = [name for name, found in {"config.json": config, "data.json": data}.items() if found is None]
    if config is None or data is None:
        raise UserError(f"{folder} has {MODEL} and no {' and no '.join(missing)}; {_REMEDY}.")
    if not own_parts and (named := _own_parts(config)):
        raise UserError(
            f"{folder / 'config.json'} names {', '.join(named)}, which is outside this package, and for a model that "
            "may come from anybody nothing is imported; if you trust it, give own_parts=True, or on the command line "
            f"--config={folder / 'config.json'}."
        )
    return Settings.of(from_record(config, f"{folder / 'config.json'}", folder)), data


def _own_parts(config: Mapping[str, Any]) -> list[str]:
    """The fields of a record that name parts outside this package."""
    named = ((name, FIELDS.get(name), value) for name, value in leaves(config).items())
    return [
        f"{name}={value}"
        for name, kind, value in named
        if isinstance(kind, Choice) and isinstance(value, str) and kind.is_own(value)
    ]
