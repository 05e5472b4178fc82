"""Checked, harmless stand-ins for the functions and classes that PyTorch's and NumPy's pickles name.

Each accepts any arguments from a file, and makes an array or raises. None allocates more than it receives.
"""

import functools
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from score_sde.interop.pickle_machine import Constructor, RefusedError, Settable, as_dict

_MAX_DIMENSIONS = 64  # NumPy's
_NUMPY_CODE = re.compile(r"[?]|b1|[iu][1248]|f[248]|c8|c16")

# Storages and tensors.


@dataclass(frozen=True)
class StorageType:
    """A class of storages, named in the reference to one; untyped storages count bytes."""

    dtype: np.dtype


@dataclass(frozen=True)
class Storage:
    """The memory behind tensors."""

    dtype: np.dtype  # the type of its elements
    size: int  # their number
    # The memory in the byte order of this machine, for elements of a type; ``None`` while it is unknown.
    data: Callable[[np.dtype], bytes] | None
    limit: int  # the size in bytes that a view of it may have when all its elements are written out

    def view(self, dtype: np.dtype, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray | None:
        """The array at an offset, counted like the strides in elements, or ``None`` if the memory is not known yet."""
        count, available = math.prod(shape), self.size * self.dtype.itemsize // dtype.itemsize
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) if count else offset - 1
        if last >= available:
            raise RefusedError(f"a tensor of shape {shape} reaches element {last} of a storage of {available}")
        if count * dtype.itemsize > self.limit:
            raise RefusedError(f"a tensor of shape {shape} is larger than the file")
        if self.data is None:
            return None
        steps = tuple(stride * dtype.itemsize if n > 1 else 0 for n, stride in zip(shape, strides, strict=True))
        if not count:
            offset, steps = 0, (0,) * len(shape)
        return np.ndarray(shape, dtype, self.data(dtype), offset * dtype.itemsize, steps)


def storages(read: Callable[[str], bytes], byteorder: str, limit: int) -> Callable[[Any], Storage]:
    """The storages of a checkpoint by their references, each read once and converted to this machine's byte order.

    ``read`` gives the bytes of a storage by its key; elements are in the ``byteorder`` ``little`` or ``big``. A
    reference to more or fewer elements than there are is refused.
    """
    raw = functools.cache(read)

    @functools.cache
    def swapped(key: str, unit: int) -> bytes:
        return np.frombuffer(raw(key), f"u{unit}").byteswap().tobytes()

    def storage(value: Any) -> Storage:
        reference = reference_of(value)

        def data(dtype: np.dtype) -> bytes:
            unit = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
            return raw(reference.key) if byteorder == sys.byteorder or unit == 1 else swapped(reference.key, unit)

        present = len(raw(reference.key))  # now, while the file is open
        if reference.size * reference.kind.dtype.itemsize != present:
            raise RefusedError(f"storage {reference.key[:50]!r} of {reference.size} elements has {present} bytes")
        return Storage(reference.kind.dtype, reference.size, data, limit)

    return storage


class Reference(NamedTuple):
    """A pickle's reference to a storage: its type, key and number of elements."""

    tag: str
    kind: StorageType
    key: str
    location: str
    size: int


def reference_of(value: Any) -> Reference:
    """The reference in a pickle's persistent id.

    Raises:
        RefusedError: If it is not a reference, or has the form of early versions of PyTorch.
    """
    if not isinstance(value, tuple) or value[0] != "storage" or len(value) not in (5, 6):
        raise RefusedError("it refers to something that is no storage")
    if len(value) == 6 and value[5] is not None:
        raise RefusedError("it has views of storages, which only PyTorch before version 0.4 wrote")
    reference = Reference(*value[:5])
    if not isinstance(reference.kind, StorageType) or not isinstance(reference.key, str):
        raise RefusedError("it refers to a storage by no type or no name")
    _naturals((reference.size,))
    return reference


def _naturals(values: Any) -> tuple[int, ...]:
    """The values as a tuple, all of them integers from 0."""
    if not isinstance(values, list | tuple) or len(values) > _MAX_DIMENSIONS:
        raise RefusedError("a size or stride is no short list")
    if not all(type(value) is int and value >= 0 for value in values):
        raise RefusedError("a size, stride or offset is not a number from 0")
    return tuple(values)


def _tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> np.ndarray | None:
    del grad, hooks  # training only
    if not isinstance(storage, Storage) or not isinstance(dtype, np.dtype):
        raise RefusedError("a tensor has no storage or no type")
    if metadata:
        raise RefusedError("a tensor is a conjugate or negative view; save it after resolve_conj and resolve_neg")
    (start,) = _naturals((offset,))
    return storage.view(dtype, start, _naturals(size), _naturals(stride))


def _tensor_v2(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any = False, hooks: Any = None, metadata: Any = None
) -> np.ndarray | None:
    dtype = storage.dtype if isinstance(storage, Storage) else None
    return _tensor_v3(storage, offset, size, stride, grad, hooks, dtype, metadata)


def _parameter(data: Any, grad: Any, hooks: Any) -> np.ndarray | None:
    del grad, hooks
    if not isinstance(data, np.ndarray | None):
        raise RefusedError("a parameter holds no tensor")
    return data


# NumPy's scalars and arrays, which training scripts leave in the state of an optimizer.


@dataclass
class NumpyType(Settable):
    """``numpy.dtype(code)``, whose byte order is set afterwards."""

    dtype: np.dtype

    def set_state(self, state: Any) -> None:
        """Set the byte order."""
        if not isinstance(state, tuple) or state[1] not in ("<", ">", "=", "|"):
            raise RefusedError("a NumPy type has a strange byte order")
        self.dtype = self.dtype.newbyteorder(state[1])


@dataclass
class NumpyArray(Settable):
    """``numpy.ndarray``, whose shape and content are set afterwards."""

    array: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        """Set the shape, the type and the bytes."""
        _, shape, kind, fortran, raw = state
        dtype, data = _numpy_data(kind, raw)
        sizes = _naturals(shape)
        if math.prod(sizes) * dtype.itemsize != len(data):
            raise RefusedError(f"a NumPy array of shape {sizes} has {len(data)} bytes")
        if not dtype.isnative:
            raise RefusedError("a NumPy array has the byte order of another machine")
        self.array = np.ndarray(sizes, dtype, data, order="F" if fortran else "C")


def _numpy_type(code: Any, align: Any = False, copy: Any = False) -> NumpyType:
    del align, copy
    if not isinstance(code, str) or not _NUMPY_CODE.fullmatch(code):
        raise RefusedError(f"it has NumPy data of type {str(code)[:50]!r}, expected numbers")
    return NumpyType(np.dtype(code))


def _numpy_data(kind: Any, raw: Any) -> tuple[np.dtype, bytes]:
    if isinstance(raw, str):
        raw = raw.encode("latin-1")  # Python 2 had no bytes
    if not isinstance(kind, NumpyType) or not isinstance(raw, bytes):
        raise RefusedError("NumPy data are not numbers in bytes")
    return kind.dtype, raw


def _numpy_scalar(kind: Any, raw: Any) -> np.generic:
    dtype, data = _numpy_data(kind, raw)
    if len(data) != dtype.itemsize:
        raise RefusedError(f"a NumPy {dtype} has {len(data)} bytes")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))[0]


def _numpy_array(kind: Any, shape: Any, code: Any) -> NumpyArray:
    del shape, code  # set afterwards
    if kind is not _NDARRAY:
        raise RefusedError("it has a subclass of NumPy's array")
    return NumpyArray()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError("it encodes text otherwise than by Latin-1")
    return text.encode("latin-1")


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, int | None):
        raise RefusedError("a device has no name")
    return kind if index is None else f"{kind}:{index}"


# The names that a checkpoint may use, and their stand-ins.

_NDARRAY = Constructor("numpy.ndarray", lambda: None)
_STORAGE_TYPES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
    "ComplexFloat": "complex64", "ComplexDouble": "complex128",
}  # fmt: skip
_MORE_TYPES = ("uint16", "uint32", "uint64")
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda pairs=(): as_dict(pairs),
    "torch._utils._rebuild_tensor": lambda storage, offset, size, stride: _tensor_v2(storage, offset, size, stride),
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": lambda sizes=(): _naturals(sizes),
    "torch.device": _device,
    "numpy.dtype": _numpy_type,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "_codecs.encode": _encode,
    "__builtin__.bytes": lambda: b"",  # the empty value in protocol 2
}


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


NAMES: dict[str, object] = {
    **{name: Constructor(name, function) for name, function in _FUNCTIONS.items()},
    **{f"torch.{name}Storage": StorageType(_dtype(dtype)) for name, dtype in _STORAGE_TYPES.items()},
    **{f"torch.{name}": _dtype(name) for name in (*_STORAGE_TYPES.values(), *_MORE_TYPES)},
    "torch.storage.UntypedStorage": StorageType(np.dtype(np.uint8)),
    "numpy.ndarray": _NDARRAY,
}
