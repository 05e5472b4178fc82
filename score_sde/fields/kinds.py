"""The kinds of fields: each has its default, its valid values, and the text form of a value.

A kind is plain data and needs no library. :meth:`Kind.expected` is the phrase at the end of every message about a wrong
value, so that no check has wording of its own.
"""

import abc
import ast
import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from score_sde.errors import nearest
from score_sde.fields.conditions import When, shown

#: Longest text that a field may hold; also the longest path of Linux.
MAX_TEXT = 4096
_MAX_NAME = 255  # bytes in one part of a path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind(abc.ABC):
    """A field: its valid values, its default, and its purpose."""

    default: Any = None  # the value of a field that is not set
    meaning: str = ""  # the purpose of the field, in one phrase
    # Conditions for reading the field, besides its group's; ``None`` for the group's alone, and no clauses for a field
    # that is read regardless of them.
    when: When | None = None
    instead: tuple[str, ...] = ()  # groups whose modes replace the field by fields of their own

    @property
    @abc.abstractmethod
    def expected(self) -> str:
        """A phrase for all valid values."""

    @abc.abstractmethod
    def accepts(self, value: Any) -> bool:
        """Whether the value is valid."""

    def parse(self, text: str) -> Any:
        """The value of a text; unparsable text is returned unchanged, for :meth:`accepts` to refuse."""
        return text

    def typed(self, value: Any) -> Any:
        """A valid value, in the type of its line."""
        return value

    def hint(self, value: Any) -> str:
        """A clause about the likely intention behind a wrong value, or nothing."""
        del value
        return ""

    def problem(self, name: str, value: Any) -> str | None:
        """The sentence about an invalid value; ``None`` for a valid one."""
        if self.accepts(value):
            return None
        return f"config.{name} is {shown(value)}; expected {self.expected}.{self.hint(value)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flag(Kind):
    """Yes or no.

    >>> Flag(default=False).parse("true"), Flag(default=False).accepts(1)
    (True, False)
    """

    @property
    def expected(self) -> str:
        """True or False."""
        return "True or False"

    def accepts(self, value: Any) -> bool:
        """Only True and False: 0 and 1 are numbers."""
        return type(value) is bool

    def parse(self, text: str) -> Any:
        """``true`` and ``false`` in any case, ``1`` and ``0``."""
        return {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower(), text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Integer(Kind):
    """A whole number between two bounds, both included.

    >>> Integer(low=40, high=1000, or_zero=True).expected
    '0, or an integer from 40 to 1,000'
    """

    low: int  # the smallest value
    high: int  # the largest meaningful value; always far below the 2^63 of machine integers
    or_zero: bool = False  # whether 0, which then switches something off, is valid too
    even: bool = False  # whether the value must be even

    @property
    def expected(self) -> str:
        """Both bounds."""
        return f"{'0, or ' * self.or_zero}an {'even ' * self.even}integer from {self.low:,} to {self.high:,}"

    def accepts(self, value: Any) -> bool:
        """Whether it is an integer, not a truth value, and within the bounds."""
        if type(value) is not int:
            return False
        return (self.or_zero and value == 0) or (self.low <= value <= self.high and not (self.even and value % 2))

    def parse(self, text: str) -> Any:
        """Decimal digits, optionally with underscores between them."""
        try:
            return int(text) if text.isascii() else text
        except ValueError:  # not a number, or one of thousands of digits
            return text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Real(Kind):
    """A number between two finite bounds; whole numbers are numbers too.

    >>> Real(low=0.0, high=1.0).accepts(1), Real(low=0.0, high=1.0).accepts(float("nan"))
    (True, False)
    """

    low: float  # the smallest value
    high: float  # the largest meaningful value
    or_zero: bool = False  # whether 0, which then switches something off, is valid too

    @property
    def expected(self) -> str:
        """Both bounds."""
        return f"{'0, or ' * self.or_zero}a number from {self.low:g} to {self.high:.10g}"

    def accepts(self, value: Any) -> bool:
        """Whether it is a number, not a truth value, and within the bounds."""
        if type(value) not in (int, float):
            return False
        return (self.or_zero and value == 0) or self.low <= value <= self.high

    def typed(self, value: Any) -> float:
        """The number in floating point, even a whole one."""
        return float(value)

    def parse(self, text: str) -> Any:
        """A number in any notation of Python."""
        try:
            return float(text) if text.isascii() else text
        except ValueError:
            return text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice(Kind):
    """One of some names."""

    names: tuple[str, ...]
    prefixes: tuple[str, ...] = ()  # prefixes of further names, such as ``npz:``, whose rest is free
    # Whether it may be a part of the user's own, ``module:name``: the arguments that it is given besides its options.
    given: frozenset[str] | None = None

    @property
    def expected(self) -> str:
        """All of them."""
        named = [name or "''" for name in self.names] + [f"{prefix}..." for prefix in self.prefixes]
        own = ", or module:name of your own" * (self.given is not None)
        return f"one of {', '.join(named)}{own}" if len(named) > 1 or own else named[0]

    def accepts(self, value: Any) -> bool:
        """Whether it is a name, or a prefix with a valid rest."""
        if type(value) is not str:
            return False
        begun = [value.removeprefix(prefix) for prefix in self.prefixes if value.startswith(prefix)]
        return value in self.names or any(rest and is_path(rest) for rest in begun) or self.is_own(value)

    def is_own(self, value: str) -> bool:
        """Whether it names a part of the user's own; what comes before a colon in other names is no module."""
        taken = {name.partition(":")[0] for name in (*self.names, *self.prefixes) if ":" in name}
        return self.given is not None and is_outside(value) and value.partition(":")[0] not in taken

    def hint(self, value: Any) -> str:
        """The nearest name."""
        known = [*filter(None, self.names), *self.prefixes]
        return nearest(value, known) if type(value) is str and 0 < len(value) <= MAX_TEXT else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Kind):
    """Text of a form."""

    pattern: str  # a regular expression that all of it must match
    form: str  # the form in words

    @property
    def expected(self) -> str:
        """The form."""
        return self.form

    def accepts(self, value: Any) -> bool:
        """Whether it has the form, and is not too long."""
        return type(value) is str and len(value) <= MAX_TEXT and re.fullmatch(self.pattern, value) is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Path(Kind):
    """The path of a file or folder, or nothing."""

    @property
    def expected(self) -> str:
        """A path."""
        return f"a path of at most {MAX_TEXT:,} bytes, each part at most {_MAX_NAME}"

    def accepts(self, value: Any) -> bool:
        """Whether a file could have this path."""
        return type(value) is str and is_path(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Several(Kind):
    """A tuple of values of one kind.

    >>> kind = Several(of=Integer(low=1, high=9), lengths=(1, 3))
    >>> kind.parse("(1, 2)"), kind.parse("1,2"), kind.accepts((1, True)), kind.accepts(())
    ((1, 2), (1, 2), False, False)
    """

    of: Kind  # the kind of its entries
    lengths: tuple[int, int]  # the least and the greatest number of entries
    distinct: bool = False  # whether entries must differ
    or_empty: bool = False  # whether an empty tuple is valid, even where the least number is above 0

    @property
    def expected(self) -> str:
        """The number and kind of entries."""
        least, most = self.lengths
        count = f"{least}" if least == most else f"{least} to {most}"
        words = f"a tuple of {count}{' different' * self.distinct} entries, each {self.of.expected}"
        return f"(), or {words}" if self.or_empty else words

    def accepts(self, value: Any) -> bool:
        """Whether it is a tuple of the right length of such entries."""
        if type(value) is not tuple or not all(map(self.of.accepts, value)):
            return False
        if self.or_empty and not value:
            return True
        repeated = self.distinct and len(set(value)) < len(value)
        return self.lengths[0] <= len(value) <= self.lengths[1] and not repeated

    def typed(self, value: Any) -> tuple[Any, ...]:
        """The unchanged entries: whole numbers stay whole in records."""
        return tuple(value)

    def parse(self, text: str) -> Any:
        """Entries separated by commas, with or without brackets around all and quotes around each."""
        inner = text.strip()
        for opening, closing in ("()", "[]"):
            if inner.startswith(opening) and inner.endswith(closing):
                inner = inner[1:-1].strip()
                break
        parts = [part.strip() for part in inner.split(",")]
        if parts[-1] == "":  # empty, or a comma after the last entry
            parts.pop()
        return tuple(self.of.parse(_unquoted(part)) for part in parts)

    def hint(self, value: Any) -> str:
        """The likely intention behind the first wrong entry."""
        if not isinstance(value, Sequence) or isinstance(value, str):
            return ""
        return next((self.of.hint(entry) for entry in value if not self.of.accepts(entry)), "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option(Kind):
    """A field of a part of the user's own: numbers, texts and tuples of them, whose types the part declares.

    >>> [Option().parse(text) for text in ("1e-3", "(1, 2)", "True", "swish")]
    [0.001, (1, 2), True, 'swish']
    """

    @property
    def expected(self) -> str:
        """The kinds of values that a record can hold."""
        return "a number, True or False, a text, or a tuple of these"

    def accepts(self, value: Any) -> bool:
        """Whether a record can hold it."""
        if isinstance(value, tuple | list):
            return len(value) <= MAX_TEXT and not any(
                isinstance(one, tuple | list) or not self.accepts(one) for one in value
            )
        if type(value) is float:
            return math.isfinite(value)
        if type(value) is int:
            return abs(value) < 2**63
        return type(value) is bool or (type(value) is str and len(value) <= MAX_TEXT and _is_text(value))

    def typed(self, value: Any) -> Any:
        """A tuple for a list."""
        return tuple(value) if isinstance(value, list) else value

    def parse(self, text: str) -> Any:
        """The value as Python writes it, or else the text."""
        try:
            value = ast.literal_eval(text) if len(text) <= MAX_TEXT else text
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text
        return value if self.accepts(value) else text


def is_outside(name: str) -> bool:
    """Whether a name has the form ``module:name``, with dots in the module.

    >>> is_outside("rings:Ring"), is_outside("lab.parts:net"), is_outside("npz:a/b.npz"), is_outside("vp")
    (True, True, False, False)
    """
    module, colon, attribute = name.partition(":")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _is_text(text: str) -> bool:
    """Whether a record can hold a text: no zero byte, and encodable."""
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return "\0" not in text


def is_path(text: str) -> bool:
    """Whether a text can name a file: no control characters, not too long in parts or as a whole, and encodable.

    >>> is_path("data/x.npz"), is_path("a" * 256), is_path("a" + chr(0))
    (True, False, False)
    """
    try:
        parts = [len(part.encode()) for part in text.split("/")]
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    control = any(ord(character) < 32 or ord(character) == 127 for character in text)
    return not control and sum(parts) + len(parts) <= MAX_TEXT and max(parts) <= _MAX_NAME


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" else text
