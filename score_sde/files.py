"""Writing files so that a crash leaves the old one or the new one."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.cluster import is_main
from score_sde.errors import UserError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place, flushed to disk, when the block ends without an error.

    Of several processes of one run only the first writes; what the others put into their file is thrown away.

    Raises:
        UserError: If the system refuses to write, with what could not be written and what to do.
    """
    if not is_main():
        with tempfile.TemporaryDirectory() as directory:
            yield Path(directory, path.name)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_savez(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as an ``.npz`` file, whole or not at all.

    Raises:
        UserError: If the system refuses to write.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]  # its stub takes any keyword for allow_pickle


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write ``path`` (disk full, read-only, no directory) into a :class:`UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"Cannot write {path} ({reason}); free space there or give another --workdir.") from error


def atomic_write_text(path: Path, text: str) -> None:
    """Replace ``path`` by a file with this text, in UTF-8; a crash leaves either the old file or the new one.

    Raises:
        UserError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     atomic_write_text(Path(directory, "note.txt"), "done")
        ...     Path(directory, "note.txt").read_text(), os.listdir(directory)
        ('done', ['note.txt'])
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def atomic_write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON; numpy numbers and arrays become numbers and lists.

    Raises:
        UserError: If the file cannot be written.
        TypeError: If ``value`` holds something that JSON cannot.
    """
    atomic_write_text(path, json.dumps(value, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy and JAX, scalars and arrays
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"JSON cannot hold a {type(value).__name__}.")
