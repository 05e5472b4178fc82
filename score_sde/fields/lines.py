"""The line of a field in its group: its default, valid values and meaning, and the condition under which it is read.

Every function takes the default, the arguments of its kind, the meaning, the condition, and options of its class in
``kinds``: ``or_zero``, ``even``, ``distinct``, ``or_empty``, ``prefixes`` and ``instead``.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from score_sde.fields.conditions import When
from score_sde.fields.kinds import Choice, Flag, Integer, Kind, Path, Real, Several, Text


def flag(default: bool, meaning: str, when: When | None = None, **options: Any) -> Any:
    """A truth value."""
    return _line(Flag(default=default, meaning=meaning, when=when, **options))


def integer(default: int, low: int, high: int, meaning: str, when: When | None = None, **options: Any) -> Any:
    """A whole number; see :class:`~score_sde.fields.kinds.Integer`."""
    return _line(Integer(default=default, low=low, high=high, meaning=meaning, when=when, **options))


def real(default: float, low: float, high: float, meaning: str, when: When | None = None, **options: Any) -> Any:
    """A number; see :class:`~score_sde.fields.kinds.Real`."""
    return _line(Real(default=default, low=low, high=high, meaning=meaning, when=when, **options))


def choice(default: str, names: Sequence[str], meaning: str, when: When | None = None, **options: Any) -> Any:
    """One of some names; see :class:`~score_sde.fields.kinds.Choice`."""
    return _line(Choice(default=default, names=tuple(names), meaning=meaning, when=when, **options))


def text(default: str, pattern: str, form: str, meaning: str, when: When | None = None, **options: Any) -> Any:
    """Text of a form; see :class:`~score_sde.fields.kinds.Text`."""
    return _line(Text(default=default, pattern=pattern, form=form, meaning=meaning, when=when, **options))


def path(default: str, meaning: str, when: When | None = None, **options: Any) -> Any:
    """A path; see :class:`~score_sde.fields.kinds.Path`."""
    return _line(Path(default=default, meaning=meaning, when=when, **options))


def several(
    default: tuple[Any, ...], of: Kind, lengths: tuple[int, int], meaning: str, when: When | None = None, **options: Any
) -> Any:
    """A tuple; see :class:`~score_sde.fields.kinds.Several`."""
    return _line(Several(default=default, of=of, lengths=lengths, meaning=meaning, when=when, **options))


def _line(kind: Kind) -> Any:
    return dataclasses.field(default=kind.typed(kind.default), metadata={"kind": kind})
