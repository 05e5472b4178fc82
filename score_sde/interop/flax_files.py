"""Flax checkpoints of the original JAX code: ``flax.training.checkpoints.save_checkpoint``, which is msgpack.

Flax's own ``msgpack_restore`` trusts the file about the type of an array and the length of a list, for which msgpack
allocates before it reads. The format is small, so it is decoded here with both checked.
"""

import math
import os
from typing import Any

import ml_dtypes
import msgpack
import numpy as np

from score_sde.errors import UserError
from score_sde.interop.sniff import existing_file, reading

_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3  # the extension types of flax.serialization
_MAX_LIST = 4096  # lists become maps in a state dictionary; msgpack reserves room for a list's claimed length
_MAX_DIMENSIONS = 64  # NumPy's
_CHUNKED = "__msgpack_chunked_array__"
_DTYPES = {
    name.encode(): np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
} | {b"bfloat16": np.dtype(ml_dtypes.bfloat16)}


def read_flax(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state dictionary in a Flax checkpoint: nested dictionaries with names as keys and read-only NumPy arrays.

    Raises:
        UserError: If the file is missing, damaged, or holds anything but a dictionary of arrays, numbers and text.
    """
    path = existing_file(path)
    with reading(path, "a Flax checkpoint"):
        data = path.read_bytes()
        state = msgpack.unpackb(data, ext_hook=_extension, raw=False, strict_map_key=True, max_array_len=_MAX_LIST)
        if not isinstance(state, dict) or not state:
            what = "an empty dictionary" if isinstance(state, dict) else f"a {type(state).__name__}"
            raise UserError(f"{path} holds {what}, expected the state of a training run. Give a Flax checkpoint.")
        return _plain(state)


def _extension(code: int, data: bytes) -> Any:
    if code == _ARRAY:
        return _array(data)
    if code == _SCALAR:
        return _array(data)[()]
    if code == _COMPLEX:
        real, imaginary = msgpack.unpackb(data, max_array_len=2)
        return complex(real, imaginary)
    raise ValueError(f"it has values of the unknown type {code}")


def _array(data: bytes) -> np.ndarray:
    shape, name, buffer = msgpack.unpackb(data, raw=True, max_array_len=_MAX_DIMENSIONS)
    if name not in _DTYPES:
        raise ValueError(f"an array has the type {str(name)[:50]}, expected numbers")
    sizes = _sizes(shape)
    if math.prod(sizes) * _DTYPES[name].itemsize != len(buffer):
        raise ValueError(f"an array of shape {sizes} and type {name.decode()} has {len(buffer)} bytes")
    return np.ndarray(sizes, _DTYPES[name], buffer)


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
        raise ValueError("an array has a shape that is no list of numbers from 0")
    return tuple(values)


def _plain(value: Any) -> Any:
    """The value, with arrays joined that Flax split because msgpack holds at most 2 GiB in one piece."""
    if isinstance(value, dict):
        if _CHUNKED in value:
            return _joined(value)
        if not all(isinstance(key, str) for key in value):
            raise ValueError("it has a dictionary with a key that is no text")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | float | complex | str | bytes | None | np.ndarray | np.generic):
        return value
    raise ValueError(f"it holds a {type(value).__name__}")


def _joined(value: dict[Any, Any]) -> np.ndarray:
    shape, chunks = ([value[part][str(i)] for i in range(len(value[part]))] for part in ("shape", "chunks"))
    if not all(isinstance(chunk, np.ndarray) for chunk in chunks):
        raise ValueError("the pieces of an array are not arrays")
    array = np.concatenate(chunks).reshape(_sizes(shape))
    array.flags.writeable = False
    return array
