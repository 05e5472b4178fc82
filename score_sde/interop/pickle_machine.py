"""A machine for the part of the pickle language that holds data.

Python's own unpickler calls any function that a pickle names. Restricting the names is not enough: a dozen bytes make
it fill gigabytes (an index of its memo is an allocation), or crash the process (the hash of a tuple in a million
tuples). Here the instructions come from :func:`pickletools.genops`, which only decodes them, and act on plain values.
Names are looked up only in a table of the caller, and memory stays proportional to the bytes read.
"""

import abc
import io
import mmap
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_MARK = object()
# Constructors may copy their arguments, and a pickle may pass the same one again and again for a few bytes each.
_MAX_GROWTH = 16
_KEYS = (str, int, float, bytes, type(None))


class RefusedError(ValueError):
    """A pickle that needs more than data, or contradicts itself."""


class Settable(abc.ABC):
    """A value whose content arrives after its construction."""

    @abc.abstractmethod
    def set_state(self, state: Any) -> None:
        """Set the content, after checking it."""


@dataclass(frozen=True)
class Constructor:
    """The stand-in for a function or class that pickles name: ``make`` must be safe for any arguments."""

    name: str
    make: Callable[..., Any]


class Machine:
    """Runs one pickle.

    ``stream`` is at the start of the pickle, in memory or a mapped file, whose reads never allocate more than there is;
    it is left after the pickle's last byte. The meanings of ``names`` must be immutable; all other names are refused.
    ``persistent`` makes the external objects to which the pickle refers.
    """

    def __init__(
        self,
        stream: io.BytesIO | mmap.mmap,
        names: Mapping[str, object],
        persistent: Callable[[Any], object] | None = None,
    ) -> None:
        """Set up an empty stack and memo."""
        self._stream: Any = stream
        self._names = names
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._position = 0
        self._given = 0

    def load(self) -> Any:
        """The value of the pickle.

        Raises:
            RefusedError: If it needs more than data.
            ValueError, LookupError, TypeError: If it is cut short or makes no sense.
        """
        for opcode, arg, position in pickletools.genops(self._stream):
            self._position = position or 0
            self._step(opcode.name, arg)
        value = self._stack.pop()
        if self._stack or value is _MARK:
            raise RefusedError("its pickle ends with values left over")
        return value

    def _step(self, name: str, arg: Any) -> None:
        if name in _VALUES:
            self._stack.append(_VALUES[name](self, arg))
        elif name in _STEPS:
            _STEPS[name](self, arg)
        else:
            named = "" if arg is None else f" of '{_dotted(arg)}'"
            raise RefusedError(f"its pickle has the instruction {name}{named}, which data do not need")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise RefusedError("its pickle takes a value where there is none")
        return value

    def _top(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise RefusedError(f"its pickle fills a {type(self._stack[-1]).__name__} as if it were a {kind.__name__}")
        return self._stack[-1]

    def _pop_mark(self) -> list[Any]:
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _pop_tuple(self, length: int) -> tuple[Any, ...]:
        return tuple(self._pop() for _ in range(length))[::-1]

    def _duplicate(self) -> None:
        self._stack += [self._pop()] * 2

    def _extend(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def _update(self, pairs: list[tuple[Any, Any]]) -> None:
        items = as_dict(pairs)
        self._top(dict).update(items)

    def _put(self, index: int | None) -> None:
        value = self._pop()
        self._stack.append(value)
        self._memo[len(self._memo) if index is None else index] = value

    def _get(self, index: int) -> Any:
        if index not in self._memo:
            raise RefusedError(f"its pickle refers to an object {index} that it does not hold")
        return self._memo[index]

    def _named_on_stack(self) -> object:
        module, name = self._pop_tuple(2)
        if not isinstance(name, str) or not isinstance(module, str):
            raise RefusedError("its pickle names an object by something other than text")
        return self._named(f"{module}.{name}")

    def _named(self, name: str) -> object:
        if name not in self._names:
            raise RefusedError(
                f"it names the Python object '{name[:200]}', which weights do not need; save a plain state dict of "
                "arrays, numbers and strings"
            )
        return self._names[name]

    def _called(self) -> Any:
        function, args = self._pop_tuple(2)
        if not isinstance(function, Constructor) or not isinstance(args, tuple):
            raise RefusedError(f"its pickle calls a {type(function).__name__}")
        self._charge(args)
        return function.make(*args)

    def _build(self) -> None:
        state = self._pop()
        target = self._stack[-1]
        if isinstance(target, dict):
            return  # attributes of an ordered dictionary, such as the _metadata of a state dict: no weights among them
        if not isinstance(target, Settable):
            raise RefusedError(f"its pickle sets the state of a {type(target).__name__}")
        self._charge(state)
        target.set_state(state)

    def _charge(self, values: Any) -> None:
        """Count values passed on to be copied, against the bytes read so far."""
        values = values if isinstance(values, tuple) else (values,)
        self._given += sum(len(value) for value in values if isinstance(value, str | bytes | list | tuple | dict))
        if self._given > _MAX_GROWTH * (self._position + 1):
            raise RefusedError("its pickle multiplies its own data")

    def _outside(self) -> Any:
        if self._persistent is None:
            raise RefusedError("its pickle refers to data outside it where there are none")
        return self._persistent(self._pop())


_ARGUMENTS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
)
# The instructions that push a value, and the others.
_VALUES: dict[str, Callable[[Machine, Any], Any]] = {
    **dict.fromkeys(_ARGUMENTS, lambda _, arg: arg),
    "NONE": lambda *_: None,
    "NEWTRUE": lambda *_: True,
    "NEWFALSE": lambda *_: False,
    "MARK": lambda *_: _MARK,
    "EMPTY_TUPLE": lambda *_: (),
    "EMPTY_LIST": lambda *_: [],
    "EMPTY_DICT": lambda *_: {},
    "TUPLE1": lambda machine, _: machine._pop_tuple(1),
    "TUPLE2": lambda machine, _: machine._pop_tuple(2),
    "TUPLE3": lambda machine, _: machine._pop_tuple(3),
    "TUPLE": lambda machine, _: tuple(machine._pop_mark()),
    "LIST": lambda machine, _: machine._pop_mark(),
    "DICT": lambda machine, _: as_dict(_pairs(machine._pop_mark())),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine._get),
    "GLOBAL": lambda machine, arg: machine._named(_dotted(arg)),
    "STACK_GLOBAL": lambda machine, _: machine._named_on_stack(),
    "REDUCE": lambda machine, _: machine._called(),
    "BINPERSID": lambda machine, _: machine._outside(),
}
_STEPS: dict[str, Callable[[Machine, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda *_: None),
    "POP": lambda machine, _: machine._stack.pop(),
    "POP_MARK": lambda machine, _: machine._pop_mark(),
    "DUP": lambda machine, _: machine._duplicate(),
    "APPEND": lambda machine, _: machine._extend([machine._pop()]),
    "APPENDS": lambda machine, _: machine._extend(machine._pop_mark()),
    "SETITEM": lambda machine, _: machine._update([machine._pop_tuple(2)]),
    "SETITEMS": lambda machine, _: machine._update(_pairs(machine._pop_mark())),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Machine._put),
    "BUILD": lambda machine, _: machine._build(),
}


def as_dict(pairs: Any) -> dict[Any, Any]:
    """A dictionary of pairs whose keys are plain; the hash of nested tuples could exhaust the stack of the process.

    Raises:
        RefusedError: If a key is not plain, or ``pairs`` is not a list of pairs.
    """
    if not isinstance(pairs, list | tuple):
        raise RefusedError(f"it makes a dictionary of a {type(pairs).__name__}")
    items = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], _KEYS):
            raise RefusedError("it has a dictionary with a key that is neither text nor a number")
        items[pair[0]] = pair[1]
    return items


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(values[::2], values[1::2], strict=True))


def _dotted(arg: Any) -> str:
    """The name ``module.name`` that :mod:`pickletools` reports with a space between the two."""
    return str(arg).replace(" ", ".", 1)[:300]
