"""What torch.save writes, written without PyTorch: a pickle assembler and the two layouts of the file."""

import io
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

STORAGE_NAMES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Name(NamedTuple):
    """A global; the pickle refers to it by name."""

    module: str
    name: str


class Call(NamedTuple):
    """A call of a global, and what its result is filled with: items of a dictionary, then a state."""

    function: Name
    args: tuple
    state: Any = None
    items: Any = None


class Persistent(NamedTuple):
    """A reference to something outside the pickle."""

    value: tuple


def assemble(value: Any) -> bytes:
    """A pickle of protocol 2, instruction by instruction."""
    return b"\x80\x02" + _code(value) + b"."


def _code(value: Any) -> bytes:
    match value:
        case Name():
            return f"c{value.module}\n{value.name}\n".encode()
        case Call():
            code = _code(value.function) + _code(value.args) + b"R"
            if value.items:
                code += b"(" + b"".join(_code(part) for pair in value.items.items() for part in pair) + b"u"
            return code if value.state is None else code + _code(value.state) + b"b"
        case Persistent():
            return _code(value.value) + b"Q"
        case dict():
            return b"}(" + b"".join(_code(part) for pair in value.items() for part in pair) + b"u"
        case list():
            return b"](" + b"".join(map(_code, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(_code, value)) + b"t"
        case _:
            return pickle.dumps(value, 2)[2:-1]


def reference(key: str, array: np.ndarray, *, size: int | None = None) -> tuple:
    kind = Name("torch", STORAGE_NAMES[array.dtype.name])
    return ("storage", kind, key, "cpu", array.size if size is None else size)


def tensor(key: str, storage: np.ndarray, offset: Any = 0, shape: Any = None, strides: Any = None) -> Call:
    """A view of a flat storage; all of it by default."""
    shape, strides = ((storage.size,), (1,)) if shape is None else (shape, strides)
    args = (
        Persistent(reference(key, storage)),
        offset,
        shape,
        strides,
        False,
        Call(Name("collections", "OrderedDict"), ()),
    )
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), args)


def numpy_dtype(array: Any) -> Call:
    return Call(Name("numpy", "dtype"), (array.dtype.str[1:], False, True), (3, "<", None, None, None, -1, -1, 0))


def numpy_bytes(array: Any) -> Call:
    return Call(Name("_codecs", "encode"), (array.tobytes().decode("latin-1"), "latin1"))


def numpy_scalar(value: np.generic) -> Call:
    return Call(Name("numpy.core.multiarray", "scalar"), (numpy_dtype(value), numpy_bytes(value)))


def archive(
    pickled: bytes,
    storages: dict[str, np.ndarray],
    *,
    top: str = "archive",
    order: str | None = "little",
    **extra: bytes,
) -> bytes:
    """The layout since PyTorch 1.6. ``order=None`` leaves the byte order out, as it was before 2.1."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(f"{top}/data.pkl", pickled)
        if order:
            file.writestr(f"{top}/byteorder", order)
        for key, array in storages.items():
            file.writestr(f"{top}/data/{key}", array.tobytes())
        for name, data in extra.items():
            file.writestr(f"{top}/{name}", data)
    return buffer.getvalue()


def legacy(pickled: bytes, storages: dict[str, np.ndarray], *, version: int = 1001) -> bytes:
    """The layout before PyTorch 1.6."""
    head = (0x1950A86A20F9469CFC6C, version, {"little_endian": True})
    parts = [pickle.dumps(part, 2) for part in head] + [pickled, pickle.dumps(list(storages), 2)]
    parts += [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
    return b"".join(parts)


LAYOUTS = {"zip": archive, "legacy": legacy}


def small_checkpoint(layout: Callable[..., bytes]) -> bytes:
    """Tensors, an empty one, a state dictionary and a NumPy scalar."""
    flat = np.arange(6, dtype=np.float32)
    value = {
        "model": Call(
            Name("collections", "OrderedDict"), (), items={"w": tensor("0", flat), "b": tensor("1", flat[:2])}
        ),
        "lr": numpy_scalar(np.float64(1)),
        "e": tensor("2", flat[:0]),
    }
    return layout(assemble(value), {"0": flat, "1": flat[:2], "2": flat[:0]})


def peak_memory(function: Callable[[], Any]) -> int:
    """The most bytes that Python had allocated while a function ran."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


FLAT = np.arange(24, dtype=np.float32)
ORDERED = Name("collections", "OrderedDict")
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
