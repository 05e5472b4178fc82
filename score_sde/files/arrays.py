"""Archives of arrays, ``.npz``, read without executing code or trusting headers."""

import contextlib
import io
import math
import warnings
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from score_sde.files.atomic import atomic_path
from score_sde.files.reading import REMEDY, is_there, reading, reason_of
from score_sde.machine import memory_bytes

_MAGIC = b"\x93NUMPY"
_HEADER_BYTES = 1 << 14  # bound on the header of an array; headers of plain arrays have 128


def atomic_savez(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays atomically to an ``.npz`` file."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]  # its stub takes any keyword for allow_pickle


def array_names(path: Path, *, remedy: str = REMEDY) -> list[str] | None:
    """The names of the arrays in an ``.npz`` file, or ``None`` if there is no such file."""
    with reading(path, remedy):
        if not is_there(path):
            return None
        with _archive(path) as archive:
            return list(_members(archive))


def read_arrays(
    path: Path, names: Collection[str] | None = None, *, remedy: str = REMEDY
) -> dict[str, np.ndarray] | None:
    """The arrays of an ``.npz`` file, or ``None`` if there is no such file. No code in it is executed.

    Only the arrays of ``names`` are read, if given; missing ones are left out.

    Raises:
        Unreadable: For a file without read permission, a damaged archive, contents other than arrays of numbers and
            text, or more data than the memory of this machine. Header claims are checked against the file before any
            memory is allocated.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "a.npz")
    >>> atomic_savez(path, x=np.arange(3), y=np.zeros(2))
    >>> read_arrays(path, ["x", "z"])
    {'x': array([0, 1, 2])}
    """
    with reading(path, remedy):
        if not is_there(path):
            return None
        with _archive(path) as archive:
            chosen = {name: found for name, found in _members(archive).items() if names is None or name in names}
            claimed, memory = sum(member.file_size for member in chosen.values()), memory_bytes()
            if claimed > memory:
                raise ValueError(f"it claims {claimed / 1e9:,.1f} GB, and this machine has {memory / 1e9:,.1f} GB")
            return {name: _read_array(archive, name, member) for name, member in chosen.items()}


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) == _MAGIC:
            raise ValueError("it is a bare array, which numpy.save writes, and no archive of numpy.savez")
        with zipfile.ZipFile(file) as archive:
            yield archive


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members of an archive by array name."""
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
            warnings.simplefilter("ignore")  # NumPy warns about files written by Python 2, which it can read
            with archive.open(member) as stream:
                _check_claim(stream.read(_HEADER_BYTES), member.file_size)
            with archive.open(member) as stream:
                array = np.lib.format.read_array(stream, allow_pickle=False)
                stream.read(1)  # at the end of a member its checksum is verified
    except Exception as error:  # as in reading, which has the last word
        raise ValueError(f"{name!r}: {reason_of(error)}") from error
    return array


def _check_claim(start: bytes, size: int) -> None:
    """Refuse a member whose header does not match the bytes that follow."""
    if not start.startswith(_MAGIC):
        raise ValueError("it is no array")
    stream = io.BytesIO(start)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError("it is of a kind that plain arrays do not need")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(stream)
    except Exception as error:  # NumPy parses it as Python, which fails in many ways
        raise ValueError("its header is damaged") from error
    if dtype.hasobject:
        raise ValueError("it holds objects of Python, which may run code")
    claim = stream.tell() + math.prod(shape) * dtype.itemsize
    if any(length < 0 for length in shape):
        raise ValueError(f"its header claims the shape {shape}")
    if claim != size:
        raise ValueError(f"its header claims {claim:,} bytes, and there are {size:,}")
