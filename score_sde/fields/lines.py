"""The line of a field in its group: its default, valid values and meaning, and the condition under which it is read.

Every function takes the default, the arguments of its kind, the meaning, the condition, and options of its class in
``kinds``: ``or_zero``, ``even``, ``distinct``, ``or_empty``, ``prefixes`` and ``instead``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from score_sde.fields.kinds import Choice, Flag, Integer, Kind, Path, Real, Several, Text


def _maker(kind: type[Kind], *arguments: str) -> Callable[..., Any]:
    """The function for lines of a kind with these arguments."""
    names = ("default", *arguments, "meaning", "when")

    def line(*given: Any, **options: Any) -> Any:
        described = kind(**dict(zip(names[: len(given)], given, strict=True)), **options)
        return dataclasses.field(default=described.typed(described.default), metadata={"kind": described})

    return line


flag = _maker(Flag)
integer = _maker(Integer, "low", "high")
real = _maker(Real, "low", "high")
choice = _maker(Choice, "names")
text = _maker(Text, "pattern", "form")
path = _maker(Path)
several = _maker(Several, "of", "lengths")
