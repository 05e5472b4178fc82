"""The pickle machine agrees with Python's unpickler on data, and on everything else does nothing at all."""

import collections
import copyreg
import io
import pickle
import struct

import pytest

from score_sde.interop.pickle_machine import Constructor, Machine, RefusedError, as_dict
from tests.interop.torch_writer import peak_memory

ENCODE = {"_codecs.encode": Constructor("_codecs.encode", lambda text, encoding: text.encode(encoding))}
ORDERED = {"collections.OrderedDict": Constructor("collections.OrderedDict", lambda pairs=(): as_dict(pairs))}
MALFORMED = (ValueError, LookupError, TypeError)

PLAIN = {
    "constants": [None, True, False],
    "integers": [0, 1, 255, 256, 65535, 65536, -1, -(2**31), 2**31, 2**63, -(2**2100)],
    "floats": [0.0, -1.5, 1e300, float("inf")],
    "text": ["", "conv.weight", "é\n\\", "\U0001f600" * 100],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((), ((),))],
    "dictionaries": {"a": {}, "b": {"c": []}, 1: {2.5: {None: "d"}}},
    "many": {str(i): list(range(i)) for i in range(40)},
}


def run(data, names=None):
    return Machine(io.BytesIO(data), names or {}).load()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", PLAIN.values(), ids=PLAIN)
def test_data_are_what_the_unpickler_makes_of_them(value, protocol):
    loaded = run(pickle.dumps(value, protocol))
    assert repr(loaded) == repr(value)  # equality alone takes True for 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bytes_and_ordered_dictionaries_are_what_the_unpickler_makes_of_them(protocol):
    ordered = collections.OrderedDict([("z", b"\x00\xff"), ("a", b"x" * 1000)])
    loaded = run(pickle.dumps(ordered, protocol), {**ENCODE, **ORDERED})
    assert list(loaded.items()) == list(ordered.items())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_is_shared_stays_shared(protocol):
    inner = ["x"]
    first, second, by_name = run(pickle.dumps([inner, inner, {"key": inner}], protocol))
    assert first is second is by_name["key"]


def test_the_stream_is_left_after_the_last_byte_of_the_pickle():
    stream = io.BytesIO(pickle.dumps("first", 2) + pickle.dumps("second", 2) + b"rest")
    assert [Machine(stream, {}).load() for _ in range(2)] == ["first", "second"]
    assert stream.read() == b"rest"


# Pickles that run a command when Python's unpickler loads them; {command} leaves a file behind.


def _text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def payloads(command):
    call = b"(" + _text(command) + b"tR."
    return {
        "global": ("posix.system", b"cposix\nsystem\n" + call),
        "global of os": ("os.system", b"cos\nsystem\n" + call),
        "protocol 0": ("posix.system", f"cposix\nsystem\n(S'{command}'\ntR.".encode()),
        "stack global": ("posix.system", b"\x80\x04" + _text("posix") + _text("system") + b"\x93" + call),
        "dotted": ("torch._utils.os.system", b"\x80\x04" + _text("torch._utils") + _text("os.system") + b"\x93" + call),
        "inst": ("posix.system", b"(" + _text(command) + b"iposix\nsystem\n."),
        "obj": ("posix.system", b"(cposix\nsystem\n" + _text(command) + b"o."),
        "eval": ("builtins.eval", b"cbuiltins\neval\n(" + _text(f"__import__('os').system({command!r})") + b"tR."),
        "getattr": ("builtins.getattr", b"cbuiltins\ngetattr\n(cos\n__dict__\n" + _text("system") + b"tR" + call),
        "newobj": ("posix.system", b"\x80\x04cposix\nsystem\n(" + _text(command) + b"t\x81."),
    }


# The unpickler fails on these before they do anything; they must be refused by name all the same.
WITHOUT_EFFECT = ("dotted", "getattr", "newobj")


@pytest.mark.parametrize("name", payloads(""))
def test_a_pickle_that_runs_a_command_is_refused_by_name_and_leaves_no_trace(name, tmp_path):
    trace = tmp_path / "trace"
    named, data = payloads(f"touch {trace}")[name]
    with pytest.raises(RefusedError, match=named):
        run(data, {**ENCODE, **ORDERED})
    assert not trace.exists()
    if name not in WITHOUT_EFFECT:  # or else this test would prove nothing
        pickle.loads(data)
        assert trace.exists()


def test_extension_codes_are_refused_though_registered(tmp_path):
    trace = tmp_path / "trace"
    data = b"\x80\x02\x82\xc8(" + _text(f"touch {trace}") + b"tR."
    copyreg.add_extension("posix", "system", 200)
    try:
        with pytest.raises(RefusedError, match="EXT1"):
            run(data)
        assert not trace.exists()
        pickle.loads(data)
        assert trace.exists()
    finally:
        copyreg.remove_extension("posix", "system", 200)


@pytest.mark.parametrize("instruction", [b")\x81", b")}\x92", b")o"])
def test_classes_are_never_instantiated_but_by_a_call(instruction):
    with pytest.raises(RefusedError, match="which data do not need"):
        run(b"\x80\x04(ccollections\nOrderedDict\n" + instruction + b".", ORDERED)


@pytest.mark.parametrize("state", [{"make": 1, "name": "x"}, (None, {"make": 1}), {"__class__": 1}])
def test_the_constructors_cannot_be_changed_by_a_pickle(state):
    before = dict(vars(ORDERED["collections.OrderedDict"]))
    with pytest.raises(RefusedError, match="sets the state of a Constructor"):
        run(b"\x80\x02ccollections\nOrderedDict\n" + pickle.dumps(state, 2)[2:-1] + b"b.", ORDERED)
    assert vars(ORDERED["collections.OrderedDict"]) == before


def test_the_attributes_of_an_ordered_dictionary_are_dropped():
    state = pickle.dumps({"__setstate__": 1, "_metadata": {"version": 1}}, 2)[2:-1]
    loaded = run(b"\x80\x02ccollections\nOrderedDict\n)R" + state + b"b.", ORDERED)
    assert type(loaded) is dict and loaded == {} and not hasattr(loaded, "_metadata")


@pytest.mark.parametrize(
    "data",
    [
        b"N)R.",  # calls None
        b"ccollections\nOrderedDict\n)R)R.",  # calls a dictionary
        b"ccollections\nOrderedDict\nNR.",  # calls without a tuple
        b"](1e.",  # appends a mark
        b"(.",
        b"NN.",
        b".",
        b"1.",
        b"h\x05.",
        b"}(Nu.",
        b"N(NNu.",
        b"Na.",
        b"}]Ns.",  # an unhashable key
        b"}})Ns.",
        b"NQ.",
        b"(d0(d",
    ],
)
def test_nonsense_is_an_error_and_not_a_crash(data):
    with pytest.raises(MALFORMED):
        run(data, ORDERED)


def test_a_deeply_nested_key_is_refused_before_its_hash_overflows_the_stack():
    """With more levels, Python's unpickler crashes the process here."""
    for start, end in ((b"})", b"Ns"), (b"}()", b"Nu"), (b"()", b"Nd")):
        with pytest.raises(RefusedError, match="key"):
            run(b"\x80\x02" + start + b"\x85" * 1000 + end + b".")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # an index of the memo: Python's unpickler fills 32 GiB
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
        b"\x80\x04\x8d" + struct.pack("<Q", 2**34) + b"x.",
        b"\x80\x04B" + struct.pack("<I", 2**32 - 1) + b"x.",
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
        b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
    ],
)
def test_a_claim_of_gigabytes_takes_no_memory(data):
    def attempt():
        try:
            assert run(data) is None
        except ValueError:
            pass

    attempt()  # once for the caches of the library
    assert peak_memory(attempt) < 1_000_000


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (_text("x" * 20_000) + b"q\x000" + _text("latin1") + b"q\x010", b"c_codecs\nencode\nh\x00h\x01\x86R"),
        (b"(" + b"NN\x86" * 5_000 + b"lq\x000", b"ccollections\nOrderedDict\nh\x00\x85R"),
    ],
    ids=["encode", "OrderedDict"],
)
def test_a_pickle_cannot_have_its_data_copied_without_end(start, again):
    data = b"\x80\x02" + start + b"(" + again * 100 + b"l."
    with pytest.raises(RefusedError, match="multiplies"):
        run(data, {**ENCODE, **ORDERED})
    assert len(run(b"\x80\x02" + start + b"(" + again * 2 + b"l.", {**ENCODE, **ORDERED})) == 2


def test_every_cut_of_a_pickle_is_an_error():
    data = pickle.dumps({"step": 3, "lr": [0.1, None], "names": ("conv", ("bias", 2**70))}, 2)
    for end in range(len(data)):
        with pytest.raises(MALFORMED):
            run(data[:end])


def test_names_that_are_known_make_what_they_stand_for():
    assert run(b"ctorch\nSize\n.", {"torch.Size": 7}) == 7
    with pytest.raises(RefusedError, match=r"torch\.Other"):
        run(b"ctorch\nOther\n.", {"torch.Size": 7})
