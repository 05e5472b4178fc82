"""Safetensors files: arrays and metadata come back, and neither writing nor reading ever leaves half of something."""

import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from score_sde.errors import UserError
from score_sde.files import atomic_savez
from score_sde.interop import file_kind, read_safetensors, write_safetensors
from tests.interop.torch_writer import peak_memory

DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def _same(first, second):
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()


@pytest.mark.parametrize("dtype", [*map(np.dtype, DTYPES), np.dtype(ml_dtypes.bfloat16)], ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)], ids=str)
def test_arrays_come_back_bit_by_bit(path, dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    write_safetensors(path, {"x": array}, {})
    loaded, metadata = read_safetensors(path)
    assert _same(loaded["x"], array)
    assert metadata == {}


def test_arrays_in_any_memory_order_come_back_as_they_are(path):
    base = np.arange(24.0).reshape(2, 3, 4)
    arrays = {
        "t": base.T,
        "steps": base[:, ::2, ::-1],
        "expanded": np.broadcast_to(base[0, 0], (3, 4)),
        "big": base.astype(">f8"),
    }
    write_safetensors(path, arrays, {})
    loaded, _ = read_safetensors(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_names_and_metadata_come_back(path):
    metadata = {"config": json.dumps({"sde": "vp", "nested": ["é", 1]}), "": "empty"}
    arrays = {"a/b.c": np.ones(2), "é": np.zeros(1), "": np.zeros(3)}
    write_safetensors(path, arrays, metadata)
    loaded, found = read_safetensors(path)
    assert found == metadata
    assert {name: array.size for name, array in loaded.items()} == {"a/b.c": 2, "é": 1, "": 3}
    assert file_kind(path) == "safetensors"


def test_the_library_reads_what_is_written(path):
    write_safetensors(path, {"x": np.arange(3)}, {"a": "b"})
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["x"], np.arange(3))


UNWRITABLE = {
    "text": ({"x": np.array(["a"])}, {}),
    "objects": ({"x": np.array([None])}, {}),
    "complex128": ({"x": np.ones(1, np.complex128)}, {}),
    "reserved": ({"__metadata__": np.ones(1)}, {}),
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_what_the_format_lacks_is_refused_and_the_old_file_stays(path, name):
    write_safetensors(path, {"old": np.ones(3)}, {})
    with pytest.raises(UserError, match="Cannot write"):
        write_safetensors(path, *UNWRITABLE[name])
    assert list(read_safetensors(path)[0]) == ["old"]
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_breaks_off_leaves_the_old_file_and_no_other(path, monkeypatch):
    write_safetensors(path, {"old": np.ones(3)}, {})

    def half(arrays, filename, metadata):
        filename.write_bytes(b"half")
        raise error

    monkeypatch.setattr(safetensors.numpy, "save_file", half)
    for error in (
        OSError(28, "No space left on device"),
        safetensors.SafetensorError("I/O error"),
        KeyboardInterrupt(),
    ):
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else UserError):
            write_safetensors(path, {"new": np.ones(3)}, {})
        assert list(read_safetensors(path)[0]) == ["old"]
        assert list(path.parent.iterdir()) == [path]


def test_a_file_in_the_way_of_the_directory_is_reported(path):
    path.write_text("a file")
    with pytest.raises(UserError, match="Cannot write"):
        write_safetensors(path / "weights", {"x": np.ones(1)}, {})


def test_a_file_cut_anywhere_is_refused(path):
    write_safetensors(path, {"x": np.arange(5), "y": np.ones(2)}, {"a": "b"})
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(UserError, match="cannot be read as a safetensors file"):
            read_safetensors(path)


def _file(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


BAD = {
    "header of gigabytes": struct.pack("<Q", 2**40) + b"{}",
    "header beyond the file": struct.pack("<Q", 50_000_000) + b"{}",
    "tensor beyond the file": _file({"x": {"dtype": "F32", "shape": [2**30], "data_offsets": [0, 2**32]}}),
    "shape beyond the bytes": _file({"x": {"dtype": "F32", "shape": [2**30], "data_offsets": [0, 4]}}, bytes(4)),
    "overlap": _file({name: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for name in "xy"}, bytes(4)),
    "unknown type": _file({"x": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
    "type that numpy lacks": _file({"x": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, bytes(8)),
    "text": b"hello",
}


def test_a_header_beyond_the_file_is_no_sign_of_the_format(path):
    path.write_bytes(BAD["header beyond the file"])
    with pytest.raises(UserError, match="none of the known"):
        file_kind(path)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_little_memory(path, name):
    path.write_bytes(BAD[name])

    def attempt():
        with pytest.raises(UserError, match="cannot be read as a safetensors file"):
            read_safetensors(path)

    attempt()
    assert peak_memory(attempt) < 1_000_000


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_may_be_read_by_whom_the_umask_says(mask, tmp_path):
    """The library makes files that their owner alone may read."""
    usual = os.umask(mask)
    try:
        write_safetensors(tmp_path / "a.safetensors", {"a": np.zeros(3)}, {})
        atomic_savez(tmp_path / "a.npz", a=np.zeros(3))
    finally:
        os.umask(usual)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~mask}


def test_the_directory_of_a_run_is_refused_with_the_way_to_import_it(tmp_path):
    (tmp_path / "run" / "checkpoints" / "10").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints", tmp_path / "run" / "checkpoints" / "10"):
        with pytest.raises(
            UserError, match=r"the run in .*/run, which --mode=export writes to .*run/model\.safetensors"
        ):
            file_kind(path)


def test_missing_files_and_directories_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_safetensors(tmp_path / "none")
    with pytest.raises(UserError, match="is a directory"):
        read_safetensors(tmp_path)
