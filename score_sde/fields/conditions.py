"""Conditions on other fields under which a field is read, as data that can be tested and put into words.

>>> fourier = given("model.embedding", "fourier") & unless("model.name", "vae")
>>> print(fourier)
config.model.embedding is fourier and config.model.name is not vae
>>> print((given("seed", 1, 2) | given("seed", 4)) & unless("mesh.data", 1))
(config.seed is 1 or 2 or config.seed is 4) and config.mesh.data is not 1
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

_SHOWN = 80  # characters of a value that a message repeats


class Where(NamedTuple):
    """The values of a field under which others are read: a set, or all but a set."""

    field: str
    values: tuple[Any, ...]
    but: bool = False

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the field has one of the values."""
        return (values[self.field] in self.values) is not self.but

    def __str__(self) -> str:
        *others, last = map(word, self.values)
        words = f"{', '.join(others)} or {last}" if others else last
        return f"config.{self.field} is {'not ' * self.but}{words}"


Clause = tuple[Where, ...]  # alternatives, one of which must hold


@dataclasses.dataclass(frozen=True)
class When:
    """Clauses that must all hold."""

    clauses: tuple[Clause, ...] = ()  # the clauses, each a set of alternatives; none for a field that is always read

    def __and__(self, other: "When") -> "When":
        return When(self.clauses + other.clauses)

    def __or__(self, other: "When") -> "When":
        return When(tuple(a + b for a in self.clauses for b in other.clauses))

    def __bool__(self) -> bool:
        return bool(self.clauses)

    def failing(self, values: Mapping[str, Any]) -> Clause | None:
        """The first clause that does not hold; ``None`` if all do."""
        return next((clause for clause in self.clauses if not any(where.holds(values) for where in clause)), None)

    def __str__(self) -> str:
        alone = len(self.clauses) == 1
        return " and ".join(
            told(clause) if alone or len(clause) == 1 else f"({told(clause)})" for clause in self.clauses
        )


def told(clause: Clause) -> str:
    """A clause in words."""
    return " or ".join(map(str, clause))


def given(field: str, *values: Any) -> When:
    """The condition that a field has one of the values."""
    return When(((Where(field, values),),))


def unless(field: str, *values: Any) -> When:
    """The condition that a field has none of the values."""
    return When(((Where(field, values, but=True),),))


def word(value: Any) -> str:
    """A value as it is written on the command line.

    >>> word("uniform"), word(""), word(0.5), word((1, 2))
    ('uniform', 'empty', '0.5', '(1, 2)')
    """
    return value or "empty" if isinstance(value, str) else shown(value)


def shown(value: Any, depth: int = 0) -> str:
    """A value as shown in a message: as Python writes it, shortened if it is long.

    >>> shown("x" * 200)[-20:], shown(10**5000)
    ('xxxxxxxxxxxxxxxxx...', 'a number of about 5000 digits')
    """
    if type(value) is int and value.bit_length() > 1000:
        return f"a number of about {int(value.bit_length() * math.log10(2.0)):d} digits"
    if isinstance(value, tuple | list):
        entries = [shown(entry, depth + 1) for entry in value[:20]] if depth < 3 else ["..."] * bool(value)
        text = f"({', '.join(entries)}{', ...' if len(value) > 20 else ',' * (len(value) == 1)})"
    else:
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
