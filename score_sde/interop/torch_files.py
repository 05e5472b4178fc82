"""PyTorch checkpoints without PyTorch: the present archive format of ``torch.save``, and the one before version 1.6.

The pickle in them runs on :class:`~score_sde.interop.pickle_machine.Machine`, which executes nothing.
"""

import io
import mmap
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.errors import UserError
from score_sde.interop.pickle_machine import Machine, RefusedError
from score_sde.interop.sniff import TORCH_MAGIC, existing_file, file_kind, reading
from score_sde.interop.torch_values import NAMES, NumpyArray, NumpyType, Reference, Storage, reference_of, storages

LEGACY_PROTOCOL = 1001
_MAX_DEPTH = 100
# Containers may be shared within a checkpoint, but written out they must not outgrow the file by more than this.
_MAX_GROWTH = 16
_SCALARS = (bool, int, float, str, bytes, type(None), np.generic, np.dtype, np.ndarray)


def read_torch(path: str | os.PathLike[str]) -> Any:
    """The content of a file written by ``torch.save``, with NumPy arrays for tensors, storages and parameters.

    Lists, tuples, numbers, text and ``None`` come back unchanged; dictionaries of any kind as plain ones, in the same
    order; a ``torch.Size`` as a tuple, a ``torch.device`` as its name, a dtype as NumPy's. Arrays are read-only,
    and like the tensors they may share memory or have any strides.

    Raises:
        UserError: If the file is missing, damaged, or needs more than data to be loaded, such as a pickled module.
    """
    path = existing_file(path)
    with reading(path, "a PyTorch checkpoint"):
        kind = file_kind(path)
        if kind not in ("torch-zip", "torch-legacy"):
            raise UserError(f"{path} is a {kind} file, expected one written by torch.save. Use the reader of its kind.")
        size = path.stat().st_size
        value = _read_archive(path, size) if kind == "torch-zip" else _read_legacy(path, size)
        return _plain(value, _MAX_GROWTH * size)


# The two layouts.


def _read_archive(path: Path, size: int) -> Any:
    """An archive ``NAME/data.pkl``, ``NAME/data/KEY``, perhaps ``NAME/byteorder``; its entries are not compressed."""
    with zipfile.ZipFile(path) as archive:
        entries = _checked_entries(archive, size)
        top = next(name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl"))[: -len("data.pkl")]
        order = archive.read(f"{top}byteorder").decode() if f"{top}byteorder" in entries else "little"
        if order not in ("little", "big"):
            raise RefusedError(f"its byte order is {order[:20]!r}, expected 'little' or 'big'")

        def read(key: str) -> bytes:
            if (entry := entries.get(f"{top}data/{key}")) is None:
                raise RefusedError(f"storage {key[:50]!r} is missing")
            return archive.read(entry)

        return Machine(io.BytesIO(archive.read(f"{top}data.pkl")), NAMES, storages(read, order, size)).load()


def _checked_entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries of an archive by name, which together fit into it."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise RefusedError("its entries are compressed or encrypted, which PyTorch does not do")
    # Entries that claim the same bytes would multiply them, so their sum must fit.
    if sum(max(entry.file_size, entry.compress_size) for entry in entries) > size:
        raise RefusedError("its entries claim more bytes than the file has")
    return {entry.filename: entry for entry in entries}


def _read_legacy(path: Path, size: int) -> Any:
    """Five pickles (magic number, version, machine, object, keys of storages), then length and bytes of each storage.

    The object comes before its storages, so its pickle is run twice: first to find the storages, then with them.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        magic, version, _ = (Machine(stream, {}).load() for _ in range(3))
        if magic != TORCH_MAGIC or version != LEGACY_PROTOCOL:
            raise RefusedError(f"its version is {str(version)[:20]}, expected {LEGACY_PROTOCOL}")
        start = stream.tell()
        declared: dict[str, Reference] = {}

        def declare(value: Any) -> Storage:
            reference = reference_of(value)
            declared.setdefault(reference.key, reference)
            return Storage(reference.kind.dtype, reference.size, None, size)

        Machine(stream, NAMES, declare).load()
        keys = Machine(stream, {}).load()
        if not isinstance(keys, list) or set(keys) != set(declared) or len(keys) != len(declared):
            raise RefusedError("its list of storages does not fit its tensors")
        raw = {key: _read_storage(stream, declared[key], size) for key in keys}
        stream.seek(start)
        return Machine(stream, NAMES, storages(raw.__getitem__, "little", size)).load()


def _read_storage(stream: mmap.mmap, reference: Reference, size: int) -> bytes:
    header = stream.read(8)
    count = int.from_bytes(header, "little")
    wanted = count * reference.kind.dtype.itemsize
    if len(header) < 8 or count != reference.size or wanted > size - stream.tell():
        raise RefusedError(f"a storage of {reference.size} elements announces {count}, or the file ends within it")
    return stream.read(wanted)


# The result.


def _plain(value: Any, limit: int) -> Any:
    """Turn the value of a pickle into plain ones, and refuse all others.

    Nested lists that share one list are small in a file and endless to traverse, so the number of values is bounded as
    if nothing were shared.
    """
    done: dict[int, tuple[Any, int]] = {}

    def convert(value: Any, depth: int) -> tuple[Any, int]:
        """The plain value, and the number of values in it."""
        if isinstance(value, _SCALARS):
            return value, 1
        if depth > _MAX_DEPTH:
            raise RefusedError(f"it is nested deeper than {_MAX_DEPTH} levels")
        if id(value) not in done:
            done[id(value)] = filled(value, depth + 1) if isinstance(value, list | tuple | dict) else (_array(value), 1)
        return done[id(value)]

    def filled(value: Any, depth: int) -> tuple[Any, int]:
        items = [convert(item, depth) for item in (value.values() if isinstance(value, dict) else value)]
        plain, count = [item for item, _ in items], 1 + sum(count for _, count in items)
        if count > limit:
            raise RefusedError("it repeats itself to more values than the file could hold")
        return dict(zip(value, plain, strict=True)) if isinstance(value, dict) else type(value)(plain), count

    return convert(value, 0)[0]


def _array(value: Any) -> Any:
    if isinstance(value, Storage):
        return value.view(value.dtype, 0, (value.size,), (1,))
    if isinstance(value, NumpyType):
        return value.dtype
    if isinstance(value, NumpyArray) and value.array is not None:
        return value.array
    raise RefusedError(f"it holds a {type(value).__name__.strip('_')} where data are expected")
