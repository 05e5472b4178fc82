"""A model as a folder that can be handed on: parameters, two records and a card. Nothing in it is executed.

``model.safetensors`` has the parameters and their average, ``config.json`` and ``data.json`` are the records of the
run, and ``README.md`` is the model card.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from score_sde.config import from_record
from score_sde.data import DataRecord
from score_sde.errors import UserError
from score_sde.evaluation.programs import Exported
from score_sde.fields import Settings
from score_sde.files import atomic_path, atomic_write_json, atomic_write_text, check_writable, read_json
from score_sde.interop.checkpoints import export_checkpoint
from score_sde.modes.record import MODEL, recorded_data
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
    **average: Any,
) -> Path:
    """Write a model as a folder, which may hold an earlier one; ``average`` is as for ``export_checkpoint``.

    Programs of the model are written beside it.

    Raises:
        UserError: If the folder holds a run, or cannot be written.
    """
    if has_checkpoint(folder):
        raise UserError(f"{folder} holds a run with its checkpoints; expected a folder for the model alone.")
    check_writable(folder)
    atomic_write_json(folder / "config.json", settings.to_dict())
    atomic_write_json(folder / "data.json", data.to_json())
    atomic_write_text(folder / CARD, card)
    write_programs(folder, programs)
    export_checkpoint(folder / MODEL, params, ema_params, step, **average)  # last: it makes the folder a model
    return folder


def write_programs(folder: Path, programs: Sequence[Exported]) -> None:
    """Write exported programs, and say how long they can be run."""
    for program in programs:
        with atomic_path(folder / program.file) as temporary:
            temporary.write_bytes(program.data)
        log.info("Wrote %s. %s", folder / program.file, program.sentence)


def read_records(folder: Path) -> tuple[Settings, DataRecord]:
    """The configuration and the data of a model in a folder.

    Raises:
        UserError: If a record is missing, damaged, or of other fields.
    """
    config, data = read_json(folder / "config.json", remedy=_REMEDY), recorded_data(folder)
    missing = [name for name, found in {"config.json": config, "data.json": data}.items() if found is None]
    if config is None or data is None:
        raise UserError(f"{folder} has {MODEL} and no {' and no '.join(missing)}; {_REMEDY}.")
    return Settings.of(from_record(config, f"{folder / 'config.json'}", folder)), data
