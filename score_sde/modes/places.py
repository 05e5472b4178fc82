"""Checks of the directory for results: not where training removes files, nor among the results of another run."""

import os
from pathlib import Path

from score_sde.checkpointing import Checkpoints
from score_sde.errors import UserError
from score_sde.files import Bucket

#: Folders of a run whose files its modes create, move and remove.
OWN = ("checkpoints", "averages", "damaged_checkpoints", "dequantizer", "earlier", "progress", "tensorboard")


def is_run(directory: Path) -> bool:
    """Whether a directory holds the record or a checkpoint of a run."""
    record = directory / "config.json"
    recorded = record.is_file() if isinstance(record, Bucket) else os.path.isfile(record)
    return recorded or bool(Checkpoints(directory).steps)


def check_places(workdir: Path, out: Path | None) -> None:
    """Refuse a directory where results would be lost or mistaken for other results.

    Args:
        workdir: The directory of the run.
        out: The directory of the results; ``workdir`` unless given.

    Raises:
        UserError: If results would go into a private folder of a run, or into the directory of another run.
    """
    flag, place = ("--workdir", workdir) if out is None else ("--out", out)
    home, inside = _real(workdir), _real(place)
    own = {_real(home / name): home / name for name in OWN}  # a link may point to another disk
    for folder in (inside, *inside.parents, *place.absolute().parents):
        found = own.get(folder, folder)
        if folder in own or (folder.name in OWN and is_run(folder.parent)):
            raise UserError(
                f"{flag} is {place}, which is in {found.name}/ of the run in {found.parent}; modes of that run may "
                "remove what is there. Give a directory outside it."
            )
    if inside != home and is_run(inside):
        raise UserError(
            f"--out is {place}, the directory of another run than the one in {workdir}, whose page would show these "
            "results as its own. Give a directory that holds no run."
        )


def _real(path: Path) -> Path:
    return path if isinstance(path, Bucket) else Path(os.path.realpath(path))
