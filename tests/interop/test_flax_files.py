"""Flax files: what Flax writes comes back, and a bad or hostile file is refused without taking memory."""

import struct

import flax.serialization
import flax.struct
import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.interop import file_kind, read_flax
from tests.interop.torch_writer import peak_memory

DTYPES = ("bool", "int8", "int32", "int64", "uint8", "uint32", "float16", "float32", "float64", "complex64", "bfloat16")


@flax.struct.dataclass
class State:
    """As in the original code: arrays, numbers and nested dictionaries."""

    step: int
    params: dict
    lr: float
    rng: object
    stages: tuple


@pytest.fixture
def load(tmp_path):
    def load(data):
        path = tmp_path / "checkpoint_1"
        path.write_bytes(data)
        return read_flax(path)

    return load


def _array(shape, name, data):
    return msgpack.ExtType(1, msgpack.packb((shape, name, data)))


def _state():
    params = {
        "Conv_0": {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.zeros((0,))},
        "W": jnp.ones(3, jnp.bfloat16),
    }
    return State(
        step=7, params=params, lr=2e-4, rng=np.array([1, 2], np.uint32), stages=(np.float32(1.5), {"a": 1 + 2j})
    )


def test_a_state_comes_back_as_nested_dictionaries_of_numpy_arrays(load):
    data = flax.serialization.to_bytes(_state())
    loaded = load(data)
    kernel = loaded["params"]["Conv_0"]["kernel"]
    assert type(kernel) is np.ndarray and kernel.dtype == np.float32 and not kernel.flags.writeable
    np.testing.assert_array_equal(kernel, np.arange(12.0).reshape(3, 4))
    assert loaded["params"]["Conv_0"]["bias"].shape == (0,)
    assert loaded["params"]["W"].dtype == ml_dtypes.bfloat16
    assert (loaded["step"], loaded["lr"]) == (7, 2e-4)
    assert loaded["stages"] == {"0": np.float32(1.5), "1": {"a": 1 + 2j}}
    assert type(loaded["stages"]["0"]) is np.float32


@pytest.mark.parametrize("name", DTYPES)
def test_every_type_is_read_as_flax_reads_it(load, name):
    dtype = np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
    array = (np.arange(6).reshape(1, 2, 3) - 2).astype(np.float32).astype(dtype)
    data = flax.serialization.msgpack_serialize({"x": array, "y": array[0, 0, 0]})
    loaded, expected = load(data), flax.serialization.msgpack_restore(data)
    for key in "xy":
        assert loaded[key].dtype == expected[key].dtype == dtype
        np.testing.assert_array_equal(loaded[key], expected[key])


def test_an_array_in_pieces_is_put_together(load, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 16)
    array = np.arange(15, dtype=np.float32).reshape(3, 5)
    data = flax.serialization.msgpack_serialize({"deep": {"x": array}})
    assert b"chunked" in data
    np.testing.assert_array_equal(load(data)["deep"]["x"], array)


def test_a_file_cut_anywhere_is_refused(load):
    data = flax.serialization.to_bytes(_state())
    for end in range(len(data)):
        with pytest.raises(UserError):
            load(data[:end])
    with pytest.raises(UserError):
        load(data + b"\x00")


def test_a_file_changed_anywhere_is_read_or_refused_and_nothing_else(load):
    data = flax.serialization.to_bytes(_state())
    random = np.random.default_rng(0)
    outcomes = set()
    for place in [*range(len(data))] * 3:
        changed = bytearray(data)
        changed[place] = random.choice([0, 0x80, 0x90, 0xC7, 0xD4, 0xDD, 0xFF, random.integers(256)])
        try:
            outcomes.add(type(load(bytes(changed))))
        except UserError:
            outcomes.add(UserError)
    assert outcomes == {dict, UserError}


BAD = {
    "list": (msgpack.packb([1, 2]), "a list"),
    "number": (msgpack.packb(3), "a int"),
    "nothing": (b"", "incomplete"),
    "empty": (b"\x80", "empty"),
    "number as key": (msgpack.packb({1: 2}), "key"),
    "bytes as key": (msgpack.packb({b"a": 2}), "key"),
    "objects": (msgpack.packb({"x": _array((1,), b"O", bytes(8))}), "type"),
    "structure": (msgpack.packb({"x": _array((1,), b"i4,i4", bytes(8))}), "type"),
    "fields": (msgpack.packb({"x": _array((1,), [["a", "O"]], bytes(8))}), "unhashable"),
    "too short": (msgpack.packb({"x": _array((3,), b"float32", bytes(8))}), "has 8 bytes"),
    "too long": (msgpack.packb({"x": _array((1,), b"float32", bytes(8))}), "has 8 bytes"),
    "huge": (msgpack.packb({"x": _array((2**40,), b"float32", bytes(8))}), "has 8 bytes"),
    "negative": (msgpack.packb({"x": _array((-1, -2), b"float32", bytes(8))}), "from 0"),
    "unknown extension": (msgpack.packb({"x": msgpack.ExtType(9, b"")}), "unknown type 9"),
    "time": (msgpack.packb({"x": msgpack.Timestamp(1)}), "Timestamp"),
    "pieces of nothing": (msgpack.packb({"__msgpack_chunked_array__": True, "shape": {"0": 3}, "chunks": {}}), "Flax"),
    "pieces missing": (msgpack.packb({"__msgpack_chunked_array__": True}), "shape"),
    "pieces of text": (
        msgpack.packb({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 3}, "chunks": {"0": "abc"}}}),
        "not arrays",
    ),
    "depth": (b"\x81\xa1a" * 5000 + b"\x01", "Flax"),
    "nested lists": (b"\x81\xa1a" + b"\x91" * 600 + b"\x01", "Flax"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_state_is_refused(refused, name):
    data, message = BAD[name]
    assert message in refused(data)


CLAIMS = {
    "lists": b"\x81\xa1a" + b"\xdd\x00\x01\x00\x00" * 400 + bytes(70_000),  # msgpack would reserve 200 MB
    "bytes": b"\x81\xa1a\xc6\xff\xff\xff\xff",
    "text": b"\x81\xa1a\xdb\xff\xff\xff\xff",
    "map": b"\x81\xa1a\xdf\xff\xff\xff\xff",
    "extension": b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
    "inner list": msgpack.packb(
        {"x": msgpack.ExtType(1, b"\x93" + (b"\xdd" + struct.pack(">I", 60_000)) * 400 + bytes(70_000))}
    ),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_small_file_that_claims_much_is_refused_in_little_memory(refused, claim):
    refused(CLAIMS[claim])
    assert peak_memory(lambda: refused(CLAIMS[claim])) < 2_000_000


def test_missing_files_and_directories_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_flax(tmp_path / "checkpoint_2")
    with pytest.raises(UserError, match="is a directory"):
        read_flax(tmp_path)


def test_the_kind_is_told_whatever_the_number_of_fields(tmp_path):
    path = tmp_path / "weights.pth"  # a wrong name on purpose
    for fields in (1, 15, 16, 70_000):
        path.write_bytes(msgpack.packb({f"field_{i:040d}": i for i in range(fields)}))
        assert file_kind(path) == "flax"
        assert len(read_flax(path)) == fields
