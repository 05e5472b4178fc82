"""Hostile PyTorch files: each gives an error and nothing else, at once and in little memory."""

import pickle
import struct
import time
import zipfile

import numpy as np
import pytest

from score_sde.errors import UserError
from tests.interop.torch_writer import (
    FLAT,
    ORDERED,
    Call,
    Name,
    Persistent,
    archive,
    assemble,
    each_layout,
    legacy,
    numpy_dtype,
    peak_memory,
    reference,
    small_checkpoint,
    tensor,
)

# A file that asks for more than data.


class Touch:
    """Pickles as a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return eval, (f"open({str(self.path)!r}, 'w').close()",)


@each_layout
def test_a_file_that_runs_code_is_refused_by_name_and_runs_nothing(refused, layout, tmp_path):
    trace = tmp_path / "trace"
    pickled = pickle.dumps({"model": {}, "step": Touch(trace)}, 2)
    message = refused(layout(pickled, {}))
    assert "'__builtin__.eval'" in message and "Nothing in it was executed" in message
    assert not trace.exists()
    pickle.loads(pickled)
    assert trace.exists()


def test_code_in_any_pickle_of_a_legacy_file_is_refused(refused, tmp_path):
    trace = tmp_path / "trace"
    good = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}, {}, [])]
    for place in range(1, 5):
        parts = [*good[:place], pickle.dumps(Touch(trace), 2), *good[place + 1 :]]
        assert "__builtin__.eval" in refused(b"".join(parts))
    assert not trace.exists()


def _object_dtype():
    return Call(Name("numpy", "dtype"), ("O8", False, True), (3, "|", None, None, None, -1, -1, 63))


HOSTILE = {
    "nested name": ("torch._utils.os", Call(Name("torch", "_utils.os.system"), ("true",))),
    "loader": ("torch.storage._load_from_bytes", Call(Name("torch.storage", "_load_from_bytes"), ("x",))),
    "module": ("torch.nn.modules.linear.Linear", Call(Name("torch.nn.modules.linear", "Linear"), ())),
    "numpy.load": ("numpy.load", Call(Name("numpy", "load"), ("x",))),
    "object type": ("'O8'", _object_dtype()),
    "object scalar": ("'O8'", Call(Name("numpy.core.multiarray", "scalar"), (_object_dtype(), [Name("os", "x")][:0]))),
    "structure": ("'f4,O'", Call(Name("numpy", "dtype"), ("f4,O", False, True))),
    "wide": ("'V99999999999'", Call(Name("numpy", "dtype"), ("V99999999999", False, True))),
    "list of fields": ("NumPy data", Call(Name("numpy", "dtype"), ([("a", "O")],))),
    "codec": ("Latin-1", Call(Name("_codecs", "encode"), ("x", "zlib_codec"))),
    "bytes codec": ("Latin-1", Call(Name("_codecs", "encode"), (7, "latin1"))),
    "short scalar": ("bytes", Call(Name("numpy.core.multiarray", "scalar"), (numpy_dtype(np.float64(1)), "1234567"))),
    "subclass": ("subclass", Call(Name("numpy.core.multiarray", "_reconstruct"), (ORDERED, (0,), "b"))),
    "state of a class": ("sets the state", Call(Name("torch._utils", "_rebuild_tensor_v2"), (), {})),
    "bare class": ("holds a Constructor", [ORDERED]),
    "bare storage type": ("holds a StorageType", [Name("torch", "FloatStorage")]),
    "bare array": (
        "holds a NumpyArray",
        Call(Name("numpy.core.multiarray", "_reconstruct"), (Name("numpy", "ndarray"), (0,), "b")),
    ),
    "arguments": ("argument", Call(Name("torch._utils", "_rebuild_tensor_v2"), (1, 2))),
    "no storage": ("no storage", Call(Name("torch._utils", "_rebuild_tensor_v2"), (1, 0, (), (), False, None))),
    "pairs": ("dictionary", Call(ORDERED, ("abc",))),
    "parameter": ("parameter", Call(Name("torch._utils", "_rebuild_parameter"), ({}, True, None))),
}


@each_layout
@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_data_is_refused_and_named(refused, layout, name):
    named, value = HOSTILE[name]
    if name == "state of a class":
        pickled = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b."
    else:
        pickled = assemble(value)
    assert named in refused(layout(pickled, {}))


@each_layout
def test_an_array_of_objects_or_of_a_wrong_size_is_refused(refused, layout):
    start = (Name("numpy", "ndarray"), (0,), "b")
    double = numpy_dtype(np.float64(0))
    states = [
        ((1, (1,), _object_dtype(), False, [1]), "'O8'"),
        ((1, (1,), double, False, [1]), "not numbers in bytes"),
        ((1, (2**40,), double, False, "12345678"), "has 8 bytes"),
        ((1, (-1,), double, False, "12345678"), "from 0"),
        ((1, (1,), double, False), "unpack"),
        ({"__dict__": 1}, "unpack"),
    ]
    for state, message in states:
        assert message in refused(
            layout(assemble(Call(Name("numpy.core.multiarray", "_reconstruct"), start, state)), {})
        )


def test_files_read_after_a_hostile_one_are_read_as_before(load, refused):
    """A state set on a class or function would outlive the file."""
    for name in (
        "torch._utils\n_rebuild_tensor_v2",
        "collections\nOrderedDict",
        "torch\nFloatStorage",
        "torch\nfloat32",
    ):
        for state in (b"}X\x04\x00\x00\x00makeNs", b"N}X\x0c\x00\x00\x00__defaults__Ns\x86"):
            refused(archive(b"\x80\x02c" + name.encode() + b"\n" + state + b"b.", {}))
    loaded = load(archive(assemble({"w": tensor("0", FLAT), "d": Call(ORDERED, ())}), {"0": FLAT}))
    np.testing.assert_array_equal(loaded["w"], FLAT)
    assert loaded["d"] == {}


# A file that is cut, changed or exaggerates.


@pytest.mark.sweep
@each_layout
def test_a_file_cut_anywhere_is_refused(load, layout):
    data = small_checkpoint(layout)
    assert list(load(data)) == ["model", "lr", "e"]
    for end in range(0, len(data), 2):
        with pytest.raises(UserError):
            load(data[:end])


@pytest.mark.sweep
@each_layout
def test_a_file_changed_anywhere_is_read_or_refused_and_nothing_else(load, layout):
    data = small_checkpoint(layout)
    random = np.random.default_rng(0)
    outcomes = set()
    for place in range(0, len(data), 2):
        changed = bytearray(data)
        changed[place] = random.choice([0, 1, 0x28, 0x2E, 0x52, 0x62, 0x7F, 0xFF, random.integers(256)])
        try:
            load(bytes(changed))
            outcomes.add("read")
        except UserError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def _exaggerated_entry(data, compressed=False):
    """The archive with a claim of 3 GiB for its last entry, in the directory at its end."""
    place = data.rindex(b"PK\x01\x02") + (20 if compressed else 24)
    return data[:place] + struct.pack("<I", 3 << 30) + data[place + 4 :]


def _exaggerated_storage(data):
    return data[: -FLAT.nbytes - 8] + struct.pack("<q", 2**28) + data[-FLAT.nbytes :]


def _shared_lists(levels):
    """A list of ten times the same list of ten times the same list, and so on."""
    deeper = (b"q%c0](" % level + b"h%c" % level * 10 + b"e" for level in range(levels))
    return b"\x80\x02](NNe" + b"".join(deeper) + b"."


CLAIMS = {
    "entry": lambda: _exaggerated_entry(archive(assemble(tensor("0", FLAT)), {"0": FLAT})),
    "compressed entry": lambda: _exaggerated_entry(archive(assemble(tensor("0", FLAT)), {"0": FLAT}), compressed=True),
    "storage": lambda: _exaggerated_storage(legacy(assemble(tensor("0", FLAT)), {"0": FLAT})),
    "both": lambda: _exaggerated_storage(
        legacy(
            assemble(Call(tensor("0", FLAT).function, (Persistent(reference("0", FLAT, size=2**28)), 0, (1,), (1,)))),
            {"0": FLAT},
        )
    ),
    "pickle": lambda: legacy(b"\x80\x04\x8e" + struct.pack("<Q", 2**30), {}),
    "shared lists": lambda: archive(_shared_lists(60), {}),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_small_file_that_claims_gigabytes_is_refused_at_once(refused, claim):
    data = CLAIMS[claim]()
    refused(data)
    start = time.monotonic()
    assert peak_memory(lambda: refused(data)) < 2_000_000
    assert time.monotonic() - start < 5


def test_compressed_and_overlapping_entries_are_refused(refused, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", assemble(0))
        file.writestr("archive/data/0", bytes(10_000_000))
    data = (tmp_path / "bomb").read_bytes()
    assert len(data) < 20_000
    assert "compressed or encrypted" in refused(data)

    buffer = archive(assemble(tensor("0", FLAT)), {"0": np.tile(FLAT, 100)})
    entry = buffer[buffer.rindex(b"PK\x01\x02") : buffer.rindex(b"PK\x05\x06")]
    end = bytearray(buffer[buffer.rindex(b"PK\x05\x06") :])
    count, size = struct.unpack_from("<H", end, 10)[0], struct.unpack_from("<I", end, 12)[0]
    struct.pack_into("<HHI", end, 8, count + 9, count + 9, size + 9 * len(entry))
    assert "more bytes than the file" in refused(buffer[: -len(end)] + entry * 9 + bytes(end))


@each_layout
def test_a_storage_of_two_sizes_is_refused(refused, layout):
    function = tensor("0", FLAT).function
    halves = [Call(function, (Persistent(reference("0", FLAT, size=size)), 0, (1,), (1,))) for size in (24, 12)]
    assert "12 elements" in refused(layout(assemble(halves), {"0": FLAT}))


def test_a_storage_listed_twice_is_refused(refused):
    data = legacy(assemble(tensor("0", FLAT)), {"0": FLAT})
    once, twice = (pickle.dumps(["0"] * times, 2) for times in (1, 2))
    assert data.count(once) == 1
    assert "list of storages" in refused(data.replace(once, twice) + data[-FLAT.nbytes - 8 :])


@each_layout
def test_endless_values_are_refused(refused, layout):
    assert "nested" in refused(layout(b"\x80\x02]" + b"](" * 2_000 + b"e" * 2_000 + b"a.", {}))
    assert "nested" in refused(layout(b"\x80\x02]q\x00h\x00a.", {}))  # a list that holds itself
    assert "nested" in refused(layout(b"\x80\x02)" + b"\x85" * 2_000 + b".", {}))
