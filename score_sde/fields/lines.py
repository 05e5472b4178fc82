"""Groups of fields, and the line of a field: its default, valid values, meaning, and condition for being read.

Every function but :func:`choice` takes the default, the arguments of its kind, the meaning, the condition, and options
of its class in ``kinds``: ``or_zero``, ``even``, ``distinct``, ``or_empty``, ``prefixes`` and ``instead``.
"""

import dataclasses
import functools
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence
from typing import Any

from score_sde.fields.conditions import When
from score_sde.fields.kinds import Choice, Flag, Integer, Kind, Path, Real, Several, Text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group(Mapping[str, Any]):
    """The values of some fields, as attributes and by their names, in the order of these.

    >>> from score_sde.fields import Settings
    >>> mesh = Settings().mesh
    >>> mesh.fsdp, mesh["fsdp"], dict(mesh)
    (1, 1, {'data': 0, 'fsdp': 1})
    """

    def __getitem__(self, name: str) -> Any:
        if name not in _names(type(self)):
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(_names(type(self)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def items(self) -> ItemsView[str, Any]:
        """All at once, since settings are taken apart often."""
        return {name: getattr(self, name) for name in self}.items()


@functools.cache
def _names(group: type[Group]) -> tuple[str, ...]:
    return tuple(sorted(field.name for field in dataclasses.fields(group)))


class Options(dict[str, Any]):
    """The fields of parts of the user's own, which are not known here. They stay as they are made.

    >>> options = Options({"kappa": 3.0})
    >>> options["kappa"], options == {"kappa": 3.0}, hash(options) == hash(Options(kappa=3.0))
    (3.0, True, True)
    """

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride] -- none of its values changes
        return hash(tuple(sorted(self.items())))

    def __setitem__(self, name: str, value: Any) -> None:
        raise TypeError(f"Options do not change; {name} was to become {value!r}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Open(Group):
    """A group with names of parts, which may be the user's own, ``module:name``; their fields stand in ``options``.

    >>> from score_sde.fields import Settings
    >>> sde = Settings().with_("sde", name="rings:Ring", options={"kappa": 3.0}).sde
    >>> sde.options["kappa"], "options" in dict(sde), "options" in dict(Settings().sde)
    (3.0, True, False)
    """

    options: Mapping[str, Any] = dataclasses.field(default_factory=Options)

    def __post_init__(self) -> None:
        """Take the options from any mapping."""
        object.__setattr__(self, "options", Options(sorted(self.options.items())))

    def __iter__(self) -> Iterator[str]:
        """The options are one of the fields if there are any."""
        return (name for name in super().__iter__() if name != "options" or self.options)


def _maker(kind: type[Kind], *arguments: str) -> Callable[..., Any]:
    """The function for lines of a kind with these arguments."""
    names = ("default", *arguments, "meaning", "when")

    def line(*given: Any, **options: Any) -> Any:
        described = kind(**dict(zip(names[: len(given)], given, strict=True)), **options)
        return dataclasses.field(default=described.typed(described.default), metadata={"kind": described})

    return line


def choice(names: Sequence[str], meaning: str, when: When | None = None, **options: Any) -> Any:
    """The line of one of some names, by default the first; an option ``default`` names another."""
    described = Choice(names=tuple(names), meaning=meaning, when=when, **{"default": names[0], **options})
    return dataclasses.field(default=described.default, metadata={"kind": described})


flag = _maker(Flag)
integer = _maker(Integer, "low", "high")
real = _maker(Real, "low", "high")
text = _maker(Text, "pattern", "form")
path = _maker(Path)
several = _maker(Several, "of", "lengths")
