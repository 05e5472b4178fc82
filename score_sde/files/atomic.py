"""Writing of small files: atomic, where a crash leaves the old file or the new one, never a part, or appended to."""

import contextlib
import errno
import json
import math
import os
import shutil
import socket
import tempfile
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from score_sde.cluster import is_main
from score_sde.errors import UserError, explained
from score_sde.files.buckets import Bucket, failures
from score_sde.files.reading import REMEDY, is_there, reading, reason_of

#: The remedy for a directory that cannot be written.
ELSEWHERE = "give another --workdir, or --out=DIR for results of a run that is only read"
_SHARE = 0.05  # largest share of the time for rewriting a growing file in a bucket


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that replaces it, flushed to disk, when the block ends without an error.

    For a bucket it lies on the local disk and is uploaded. Of several processes of one run, only the first writes; the
    files of the others are discarded.

    Raises:
        UserError: If the system refuses to write, naming the file and the remedy.
    """
    if not is_main() or isinstance(path, Bucket):
        with tempfile.TemporaryDirectory() as directory:
            yield (temporary := Path(directory, path.name))
            if is_main() and isinstance(path, Bucket):
                with writing(path):
                    path.upload(temporary)
        return
    with writing(path), replacing(path) as temporary:
        yield temporary


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """:func:`atomic_path` on a disk, for any process, with the system's own errors."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}@{socket.gethostname()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # of the umask; a library may recreate the file with owner access only
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def move(source: Path, target: Path) -> None:
    """Move a directory within the same disk or bucket, replacing the target."""
    if isinstance(target, Bucket):
        target.rmtree(missing_ok=True)
        source.replace(target)
    else:
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(source, target)


def writing(path: Path) -> contextlib.AbstractContextManager[None]:
    """Turn a system error on writing ``path`` (disk full, read-only, no directory) into a :class:`UserError`."""
    return explained(lambda error: refusal(str(path), path.parent, error), failures(path))


def refusal(what: str, directory: Path, error: Exception) -> UserError:
    """The error for ``what`` that cannot be written to a directory, with the reason and the remedy."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(directory, Bucket) and isinstance(error, FileNotFoundError):
        return UserError(f"Cannot write {what} (there is no such bucket); {ELSEWHERE}.")
    reason = _in_the_way(directory) or getattr(error, "strerror", None) or reason_of(error)
    return UserError(f"Cannot write {what} ({reason}); {'free space there or ' * full}{ELSEWHERE}.")


def _in_the_way(directory: Path) -> str:
    """A description of a file in the place of a needed directory, or nothing."""
    if isinstance(directory, Bucket):
        return ""
    place = next(place for place in (directory, *directory.absolute().parents) if os.path.lexists(place))
    if place.is_dir():
        return ""
    return f"{place} is a {'file' if place.exists() else 'link to nothing'}, not a directory"


def atomic_write_text(path: Path, text: str) -> None:
    """Replace ``path`` atomically by a file with this text, in UTF-8.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     atomic_write_text(Path(directory, "note.txt"), "done")
    ...     Path(directory, "note.txt").read_text(), os.listdir(directory)
    ('done', ['note.txt'])
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def atomic_write_json(path: Path, value: Any) -> None:
    """Replace ``path`` atomically by ``value`` as indented JSON; see :func:`jsonable`.

    Raises:
        UserError: If the file cannot be written.
        TypeError: If ``value`` has no JSON form.
    """
    atomic_write_text(path, json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n")


def jsonable(value: Any) -> Any:
    """A value in JSON form: arrays as lists, paths as text, and ``None`` for numbers that are not finite.

    >>> import numpy as np
    >>> jsonable({"a": np.array([1.0, np.nan]), "b": (Path("x"), float("inf"))})
    {'a': [1.0, None], 'b': ['x', None]}
    """
    if hasattr(value, "tolist"):  # NumPy and JAX scalars and arrays
        value = value.tolist()
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


class Growing:
    """A file that grows: appended to on disk, and rewritten in a bucket, whose objects cannot be appended to."""

    def __init__(self, path: Path) -> None:
        """Continue an existing file, if there is one."""
        self.path = path
        self.local = path  # the file to read and to append to; for a bucket, a copy on the local disk
        self._due = 0.0
        if isinstance(path, Bucket):
            folder = tempfile.mkdtemp()
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self.local = Path(folder, path.name)
            with reading(path, REMEDY):
                if is_there(path):
                    path.download(self.local)

    def append(self, data: bytes) -> None:
        """Append to the file, which need not exist yet."""
        with writing(self.local):
            self.local.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a write that a full disk refused must not be retried when the file is closed.
            with open(self.local, "ab", buffering=0) as file:
                while data:
                    data = data[file.write(data) :]

    def publish(self, *, now: bool = True) -> bool:
        """Write new data to the bucket: now, or when due; returns whether the bucket is up to date."""
        if not isinstance(self.path, Bucket) or not is_main():
            return True
        if not now and time.monotonic() < self._due:
            return False
        began = time.monotonic()
        with writing(self.path):
            self.path.upload(self.local)
        ended = time.monotonic()
        self._due = ended + (ended - began) / _SHARE
        return True
