"""Small files: written so that a crash leaves the old one or the new one, and read without trust.

One rule holds for all readers. A file that is not there is ``None``. One that is there and cannot be read, for
whatever reason, is an :class:`Unreadable`, which is the user's error unless the caller can do without the file.
"""

import contextlib
import errno
import io
import json
import math
import os
import socket
import stat
import tempfile
import warnings
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.cluster import is_main
from score_sde.errors import UserError
from score_sde.machine import memory_bytes

#: What to do where a directory takes no files.
ELSEWHERE = "give another --workdir, or --out=DIR for results of a run that is only read"
_REMEDY = "remove it and run the mode that writes it again"
_JSON_BYTES = 1 << 30  # of a file of JSON
_JSON_DEPTH = 64
_MAGIC = b"\x93NUMPY"
_HEADER_BYTES = 1 << 14  # in which the header of an array must end; those of plain arrays have 128


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}@{socket.gethostname()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
            mode = temporary.stat().st_mode  # as the umask says; a library may make the file anew, for its owner alone
            yield temporary
            temporary.chmod(mode)
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
        raise refusal(str(path), path.parent, error) from error


def refusal(what: str, directory: Path, error: OSError) -> UserError:
    """The error that says that ``what`` cannot be written to a directory, why, and what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = _in_the_way(directory) or error.strerror or str(error)
    return UserError(f"Cannot write {what} ({reason}); {'free space there or ' * full}{ELSEWHERE}.")


def _in_the_way(directory: Path) -> str:
    """What stands where a directory is needed, in words, or nothing."""
    place = next(place for place in (directory, *directory.absolute().parents) if os.path.lexists(place))
    if place.is_dir():
        return ""
    return f"{place} is a {'file' if place.exists() else 'link to nothing'}, not a directory"


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
    """Replace ``path`` by ``value`` as indented JSON; see :func:`jsonable`.

    Raises:
        UserError: If the file cannot be written.
        TypeError: If ``value`` holds something that JSON cannot.
    """
    atomic_write_text(path, json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n")


def jsonable(value: Any) -> Any:
    """A value as JSON can hold it: arrays as lists, paths as text, and ``None`` for numbers that are not finite.

    >>> jsonable({"a": np.array([1.0, np.nan]), "b": (Path("x"), float("inf"))})
    {'a': [1.0, None], 'b': ['x', None]}
    """
    if hasattr(value, "tolist"):  # numpy and JAX, scalars and arrays
        value = value.tolist()
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


class Unreadable(UserError):
    """A file that is there and cannot be read.

    Attributes:
        path: The file.
        reason: Why it cannot be read, as part of a sentence.
    """

    def __init__(self, path: Path, reason: str, remedy: str = _REMEDY) -> None:
        """Say which file, why, and what to do."""
        super().__init__(path, reason, remedy)
        self.path, self.reason, self._remedy = path, reason, remedy

    def __str__(self) -> str:
        return f"{self.path} cannot be read ({self.reason}); {self._remedy}."


def read_json(path: Path, *, remedy: str = _REMEDY) -> dict[str, Any] | None:
    """The JSON object in a file, or ``None`` if there is no such file.

    Args:
        path: The file.
        remedy: What to do about one that cannot be read.

    Raises:
        Unreadable: For a file that may not be read, is no UTF-8 or no JSON, holds anything but an object or a number
            that is not finite, or is nested deeper than any that this package writes.
    """
    with _reading(path, remedy):
        if not _is_there(path):
            return None
        if path.stat().st_size > _JSON_BYTES:
            raise ValueError(f"it has more than {_JSON_BYTES} bytes")
        return parse_json(path.read_bytes().decode("utf-8-sig"))


def parse_json(text: str) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        ValueError: For what :func:`read_json` refuses, but
        RecursionError: where it is nested too deeply.
    """
    number = _finite_number
    found = json.loads(text, parse_constant=number, parse_float=number, parse_int=number)
    if not isinstance(found, dict):
        raise ValueError("it is JSON, but no object")
    _check_depth(found)
    if "\\u" in text:
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is no text
    return found


def read_json_lines(path: Path) -> list[dict[str, Any]] | None:
    """The objects in a file of metrics, one a line; see :func:`parse_json_line`. ``None`` if there is no such file.

    Raises:
        Unreadable: For a file that may not be read or is no file.
    """
    with _reading(path, "make it a readable file, or remove it"):
        if not _is_there(path):
            return None
        records = (parse_json_line(line) for line in path.read_bytes().split(b"\n"))
        return [record for record in records if record is not None]


def parse_json_line(line: bytes) -> dict[str, Any] | None:
    """A line of metrics, or ``None`` for one that a crash cut short, or without an integer ``step``.

    Numbers that are not finite are NaN, however they are written: as null, NaN, or with too great an exponent.

    >>> parse_json_line(b'{"step": 3, "loss": 1e999}'), parse_json_line(b'{"step": null}'), parse_json_line(b'{"st')
    ({'step': 3, 'loss': nan}, None, None)
    """
    try:
        number = _number_or_nan
        record = json.loads(line.decode(), parse_constant=number, parse_float=number, parse_int=number)
        _check_depth(record)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(step := record.get("step"), int) or isinstance(step, bool):
        return None
    return {name: math.nan if value is None else value for name, value in record.items()}


def array_names(path: Path, *, remedy: str = _REMEDY) -> list[str] | None:
    """The names of the arrays in an ``.npz`` file, or ``None`` if there is no such file.

    Raises:
        Unreadable: As :func:`read_arrays`, which is about what is in them.
    """
    with _reading(path, remedy):
        if not _is_there(path):
            return None
        with _archive(path) as archive:
            return list(_members(archive))


def read_arrays(
    path: Path, names: Collection[str] | None = None, *, remedy: str = _REMEDY
) -> dict[str, np.ndarray] | None:
    """The arrays of an ``.npz`` file, or ``None`` if there is no such file. Nothing in it is run.

    Args:
        path: The file.
        names: The arrays that are wanted; others are not looked at, and those that are missing are left out.
        remedy: What to do about a file that cannot be read.

    Raises:
        Unreadable: For a file that may not be read, is no intact archive, or holds something other than arrays of
            numbers and text, or more than the memory of this machine. What a header claims is compared with what is
            there before any memory is taken for it.

    Example:
        >>> path = Path(tempfile.mkdtemp(), "a.npz")
        >>> atomic_savez(path, x=np.arange(3), y=np.zeros(2))
        >>> read_arrays(path, ["x", "z"])
        {'x': array([0, 1, 2])}
    """
    with _reading(path, remedy):
        if not _is_there(path):
            return None
        with _archive(path) as archive:
            chosen = {name: found for name, found in _members(archive).items() if names is None or name in names}
            claimed, memory = sum(member.file_size for member in chosen.values()), memory_bytes()
            if claimed > memory:
                raise ValueError(f"it claims {claimed / 1e9:,.1f} GB, and this machine has {memory / 1e9:,.1f} GB")
            return {name: _read_array(archive, name, member) for name, member in chosen.items()}


@contextlib.contextmanager
def _reading(path: Path, remedy: str) -> Iterator[None]:
    """Turn whatever reading a file raises into an :class:`Unreadable`."""
    try:
        yield
    except UserError:
        raise
    # A damaged file makes the parsers raise a dozen classes of errors, which differ between versions.
    except Exception as error:
        raise Unreadable(path, reason_of(error), remedy) from error


def reason_of(error: Exception) -> str:
    """Why something failed, as part of a sentence.

    >>> reason_of(PermissionError(13, "Permission denied")), reason_of(KeyError("x")), reason_of(MemoryError())
    ('permission denied', "KeyError: 'x'", 'it does not fit into memory')
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    known = {MemoryError: "it does not fit into memory", RecursionError: "it is nested too deeply"}
    known[UnicodeDecodeError] = "it is not UTF-8"
    known[UnicodeEncodeError] = "it holds text that is not Unicode"
    if type(error) in known:
        return known[type(error)]
    first = next(iter(str(error).strip().splitlines()), "")[:200].rstrip(".")
    plain = bool(first) and isinstance(error, ValueError | OSError | zipfile.BadZipFile)
    return first if plain else f"{type(error).__name__}{': ' * bool(first)}{first}"


def _is_there(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISREG(mode):  # to open a pipe would wait for its writer
        raise ValueError("it is a directory" if stat.S_ISDIR(mode) else "it is no regular file")
    return True


def _number_or_nan(text: str) -> int | float:
    value = float(text)
    if not math.isfinite(value):
        return math.nan
    return int(text) if text.removeprefix("-").isdecimal() else value


def _finite_number(text: str) -> int | float:
    if math.isnan(value := _number_or_nan(text)):
        raise ValueError(f"it holds {text[:40]}, which is no number of JSON")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_JSON_DEPTH):
        level = [
            item
            for part in level
            if isinstance(part, dict | list)
            for item in (part.values() if isinstance(part, dict) else part)
        ]
        if not level:
            return
    raise RecursionError


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) == _MAGIC:
            raise ValueError("it is a bare array, which numpy.save writes, and no archive of numpy.savez")
        with zipfile.ZipFile(file) as archive:
            yield archive


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members of an archive by the names of their arrays."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in members:
            raise ValueError(f"it holds {name!r} twice")
        members[name] = member
    return members


def _read_array(archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of files that Python 2 has written, which it reads
            with archive.open(member) as stream:
                _check_claim(stream.read(_HEADER_BYTES), member.file_size)
            with archive.open(member) as stream:
                array = np.lib.format.read_array(stream, allow_pickle=False)
                stream.read(1)  # at the end of a member its checksum is compared
    except Exception as error:  # as in _reading, which has the last word
        raise ValueError(f"{name!r}: {reason_of(error)}") from error
    return array


def _check_claim(start: bytes, size: int) -> None:
    """Refuse a member whose header claims anything else than the bytes that follow it."""
    if not start.startswith(_MAGIC):
        raise ValueError("it is no array")
    stream = io.BytesIO(start)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError("it is of a kind that plain arrays do not need")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(stream)
    except Exception as error:  # numpy parses it as Python, which fails in many ways
        raise ValueError("its header is damaged") from error
    if dtype.hasobject:
        raise ValueError("it holds objects of Python, which may run code")
    claim = stream.tell() + math.prod(shape) * dtype.itemsize
    if any(length < 0 for length in shape):
        raise ValueError(f"its header claims the shape {shape}")
    if claim != size:
        raise ValueError(f"its header claims {claim:,} bytes, and there are {size:,}")
