"""Small files are read without trust: what is absent is None, what is damaged or hostile one sentence."""

import io
import json
import math
import os
import struct
import warnings
import zipfile

import numpy as np
import pytest

from score_sde.files import (
    Unreadable,
    array_names,
    arrays,
    atomic_savez,
    atomic_write_json,
    read_arrays,
    read_json,
    read_json_lines,
)


def _npy(array):
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def _with_header(text, data=b""):
    header = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def _member(content, compression=zipfile.ZIP_STORED, name="x.npy"):
    def write(path):
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr(name, content)

    return write


def _patched(write, *changes):
    """An archive with bytes replaced wherever they stand."""

    def patch(path):
        write(path)
        data = path.read_bytes()
        for old, new in changes:
            assert old in data
            data = data.replace(old, new)
        path.write_bytes(data)

    return patch


def _encrypted(path):
    """The flag of encryption, in the local and in the central header."""
    _member(_npy(np.arange(3)))(path)
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(signature) + place] |= 1
    path.write_bytes(data)


def _unknown_compression(path):
    _member(_npy(np.arange(3)))(path)
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.find(signature) + place] = 77
    path.write_bytes(data)


def _broken_stream(compression):
    def write(path):
        _member(_npy(np.arange(1000)), compression)(path)
        data = bytearray(path.read_bytes())
        data[60:120] = bytes(60)
        path.write_bytes(data)

    return write


def _claims_terabytes(path):
    """Both headers say 10 TB: that of the archive and that of the array."""
    shape, size = (10 * 2**40,), 10 * 2**40
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    content = _with_header(header, b"0")
    info = zipfile.ZipInfo("x.npy")
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        archive.writestr(info, content)
        archive.filelist[0].file_size = size + 128  # what the central directory will say


def _twice(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", _npy(np.arange(3)))
            archive.writestr("x.npy", _npy(np.arange(4)))


_ROOM = "{'descr': '<f8', 'fortran_order': False, 'shape': %s}\n"
HOSTILE_ARRAYS = {
    "no zip": (lambda path: path.write_bytes(b"nothing of the kind"), "cannot be read (File is not a zip file)"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read (File is not a zip file)"),
    "a directory": (lambda path: path.mkdir(), "it is a directory"),
    "a pipe": (lambda path: os.mkfifo(path), "no regular file"),
    "bare array": (lambda path: path.write_bytes(_npy(np.arange(3))), "a bare array"),
    "no array": (_member(b"text"), "'x': it is no array"),
    "empty member": (_member(b""), "'x': it is no array"),
    "objects": (lambda path: np.savez(path, x=np.array([{}], dtype=object)), "objects of Python"),
    "encrypted": (_encrypted, "encrypted"),
    "unknown compression": (_unknown_compression, "compression"),
    "damaged LZMA": (_broken_stream(zipfile.ZIP_LZMA), "'x': "),
    "damaged bzip2": (_broken_stream(zipfile.ZIP_BZIP2), "'x': "),
    "damaged deflate": (_broken_stream(zipfile.ZIP_DEFLATED), "'x': "),
    "wrong checksum": (_patched(_member(_npy(np.full(3, 7))), (b"\x07\0\0\0\0\0\0\0", bytes(8))), "Bad CRC"),
    "unclosed header": (_member(_with_header("{'descr': '<f8', 'shape': (3")), "'x': its header is damaged"),
    "no dictionary": (_member(_with_header("[1, 2]\n")), "'x': its header is damaged"),
    "deep header": (_member(_with_header("(" * 5000)), "'x': its header is damaged"),
    "odd keys": (_member(_with_header("{1: 2, 'a': 3, (): 4}\n")), "'x': its header is damaged"),
    "header cut short": (_member(b"\x93NUMPY\x01\x00\xff\xff{"), "'x': its header is damaged"),
    "endless header": (_member(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{"), "'x': its header is damaged"),
    "negative size": (_member(_with_header(_ROOM % "(-1, -1)", bytes(8))), "claims the shape (-1, -1)"),
    "more than there is": (_member(_with_header(_ROOM % "(10000000000000,)", bytes(8))), "claims 80,000,000,000,0"),
    "less than there is": (_member(_with_header(_ROOM % "(1,)", bytes(800))), "claims"),
    "terabytes": (_claims_terabytes, "claims 10,995.1 GB"),
    "the same name twice": (_twice, "'x' twice"),
    "name that is no UTF-8": (
        _patched(_member(_npy(np.arange(3)), name="\u00e9.npy"), ("\u00e9".encode(), b"\xff\xff")),
        "UTF-8",
    ),
}


@pytest.mark.parametrize("case", HOSTILE_ARRAYS)
def test_a_hostile_archive_is_one_sentence_with_its_name(tmp_path, case):
    write, words = HOSTILE_ARRAYS[case]
    path = tmp_path / "a.npz"
    write(path)
    with pytest.raises(Unreadable) as caught:
        read_arrays(path, remedy="make another")
    text = str(caught.value)
    assert text.startswith(f"{path} cannot be read (") and text.endswith("); make another.") and words in text
    assert "\n" not in text and len(text) < 500


def test_arrays_that_are_not_asked_for_are_not_looked_at(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.npy", _npy(np.arange(3)))
        archive.writestr("readme.txt", "no array")
    assert array_names(path) == ["good", "readme.txt"]
    assert read_arrays(path, ["good", "missing"])["good"].tolist() == [0, 1, 2]
    with pytest.raises(Unreadable, match=r"'readme\.txt'"):
        read_arrays(path)


def test_what_is_not_there_is_none(tmp_path):
    for path in (tmp_path / "nothing", tmp_path / "file" / "below"):
        (tmp_path / "file").touch()
        assert read_arrays(path) is array_names(path) is read_json(path) is read_json_lines(path) is None


def test_every_kind_of_plain_array_survives_the_round_trip(tmp_path):
    arrays = {
        "scalar": np.asarray(1.5),
        "empty": np.zeros((0, 3)),
        "turned": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "text": np.asarray("é"),
        "big": np.arange(70000, dtype=">i4"),
    }
    atomic_savez(tmp_path / "a.npz", **arrays)
    found = read_arrays(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_arrays_beyond_the_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    atomic_savez(tmp_path / "a.npz", x=np.zeros(1000), y=np.zeros(1000))
    monkeypatch.setattr(arrays, "memory_bytes", lambda: 10_000)
    assert set(read_arrays(tmp_path / "a.npz", ["x"])) == {"x"}
    with pytest.raises(Unreadable, match=r"claims 0\.0 GB, and this machine has"):
        read_arrays(tmp_path / "a.npz")


HOSTILE_JSON = {
    "empty": (b"", "Expecting value"),
    "cut short": (b'{"a": ', "Expecting value"),
    "a list": (b"[1, 2]", "no object"),
    "null": (b"null", "no object"),
    "NaN": (b'{"a": NaN}', "NaN"),
    "infinite": (b'{"a": [-Infinity]}', "Infinity"),
    "infinite by its exponent": (b'{"a": 1e999}', "1e999"),
    "an endless integer": (b'{"a": ' + b"9" * 5000 + b"}", "999"),
    "deep lists": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "deeper than needed": (b'{"a":' * 100 + b"1" + b"}" * 100, "nested too deeply"),
    "no UTF-8": (b'{"a": "\xff"}', "UTF-8"),
    "half a surrogate pair": (b'{"a": "\\ud800"}', "Unicode"),
    "zeros": (bytes(100), ""),
}


@pytest.mark.parametrize("case", HOSTILE_JSON)
def test_hostile_json_is_one_sentence_with_its_name(tmp_path, case):
    content, words = HOSTILE_JSON[case]
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(Unreadable) as caught:
        read_json(path)
    text = str(caught.value)
    assert text.startswith(f"{path} cannot be read (") and words in text and "\n" not in text


def test_json_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": "\\u00e9"}')
    assert read_json(tmp_path / "a.json") == {"a": "é"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read_is_one_sentence(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{}")
    path.chmod(0)
    for read in (read_json, read_arrays, read_json_lines):
        with pytest.raises(Unreadable, match="permission denied"):
            read(path)


def test_what_is_written_holds_no_number_that_json_lacks(tmp_path):
    value = {"a": float("nan"), "b": [np.float32("inf"), {"c": np.array([[1.0, np.nan]])}], "d": (1, True, None, "x")}
    atomic_write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {"a": None, "b": [None, {"c": [[1.0, None]]}], "d": [1, True, None, "x"]}


def test_lines_of_metrics_pass_over_what_is_torn_and_keep_the_rest(tmp_path):
    lines = [
        b'{"step": 1, "loss": 0.5}',
        b'{"step": 2, "loss": 1e999, "other": -Infinity, "third": NaN}',
        b'{"step": 1e999}',
        b'{"step": true}',
        b'{"loss": 1.0}',
        b"[1]",
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"step": 3, "deep": ' + b"[" * 80 + b"]" * 80 + b"}",
        b'{"step": 4, "lo',
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    first, second = read_json_lines(tmp_path / "metrics.jsonl")
    assert first == {"step": 1, "loss": 0.5}
    assert all(math.isnan(second[name]) for name in ("loss", "other", "third")) and second["step"] == 2


def test_an_error_of_reading_survives_the_way_between_processes(tmp_path):
    import pickle

    error = Unreadable(tmp_path, "it is a directory", "give a file")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert json.dumps(str(error))
