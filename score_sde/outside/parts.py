"""Parts of a run from a user's modules, named in a configuration as ``module:name``.

:class:`Registry` is a table of the package's own parts by name, which takes such names too. The object behind one is a
:class:`Part`. Its own fields stand in ``config.<section>.options``; their names and types are those of its signature.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from score_sde.errors import UserError, nearest, plural
from score_sde.fields import FIELDS, Settings
from score_sde.fields.kinds import Choice, Kind, Several, is_outside
from score_sde.fields.lines import Options
from score_sde.outside.modules import NoModule, line_of, object_of

T = TypeVar("T")
_made: dict[Any, tuple[Any, Any]] = {}  # what parts have made; with the parts, whose ids are in use so long
_FREE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Registry(Mapping[str, T]):
    """Parts by the names of a field: those of the package, which are listed, and any ``module:name``.

    >>> sdes = Registry("sde.name", {"none": None}, adopt=lambda part: part.value)
    >>> sdes["none"], "vpp" in sdes, list(sdes), sdes["score_sde.sdes:VP"].__name__
    (None, False, ['none'], 'VP')
    """

    def __init__(
        self,
        field: str,
        own: Mapping[str, T],
        *,
        check: "Callable[[Part, Any], None] | None" = None,
        adopt: "Callable[[Part], Any]" = lambda part: part,
    ) -> None:
        """The package's own parts of a field, the contract of any other, and its entry."""
        self._field, self._own, self._check, self._adopt = field, dict(own), check, adopt

    def __getitem__(self, name: str) -> T:
        if name in self._own or not is_outside(name):
            return self._own[name]
        return self._adopt(part_of(name, self._field, check=self._check))

    def __contains__(self, name: object) -> bool:
        return name in self._own or (isinstance(name, str) and is_outside(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """An object of a user's module."""

    name: str  # by which a configuration calls it
    value: Any
    field: str  # of the configuration, which names it
    check: "Callable[[Part, Any], None] | None" = None  # refuses what breaks the contract of what it makes

    @property
    def options(self) -> str:
        """Where its own fields stand."""
        return f"config.{self.field.partition('.')[0]}.options"

    @property
    def given(self) -> frozenset[str]:
        """The arguments that it is given, which are no options."""
        return getattr(_kind_of(self.field), "given", None) or frozenset()

    @property
    def makes(self) -> bool:
        """Whether it is a function or a class, which makes what is meant."""
        return isinstance(self.value, type | functools.partial) or inspect.isroutine(self.value)

    @functools.cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of its signature; none for an object that is no function and no class.

        Raises:
            UserError: If it has no signature that can be read.
        """
        if not callable(self.value):
            return {}
        try:
            found = inspect.signature(self.value).parameters
            if isinstance(self.value, type) and all(p.kind in _FREE for p in found.values()):
                # A metaclass hides the arguments, as NNX's does.
                _, *own = inspect.signature(self.value.__init__).parameters.items()
                return dict(own)
            return found
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.name} has no signature ({error}); expected one of Python's functions.") from None

    def takes(self, name: str) -> bool:
        """Whether a keyword argument may be passed to it."""
        return name in self.parameters or any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())

    def bound(self, options: Mapping[str, Any], **given: Any) -> Callable[..., Any]:
        """The function or class with its options, and with those of the given arguments that its signature has.

        Raises:
            UserError: If it needs an option that is not set, or an option has the wrong type.
        """
        if not callable(self.value):
            raise self.refused(f"is a {type(self.value).__name__}", "a function or a class")
        later = self.given - given.keys()
        missing = [
            name
            for name, parameter in self.parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind not in _FREE
            and name not in {*options, *given, *later}
        ]
        if missing:
            named, are = " and ".join(f"{self.options}.{name}" for name in missing), plural(len(missing), "is", "are")
            raise UserError(f"{self.name} needs {named}, which {are} not set.")
        known = {name: value for name, value in given.items() if name in self.parameters}
        own = {
            name: self._typed(name, value)
            for name, value in options.items()
            if self.takes(name) and name not in self.given
        }
        return functools.partial(self.value, **own, **known)

    def made(self, options: Mapping[str, Any], **given: Any) -> Any:
        """What the function or class returns, checked; an object that is neither is meant itself.

        It is made once for the same options and given arguments.

        Raises:
            UserError: As :meth:`bound` does, if it fails, and if the result breaks its contract.
        """
        key = (self.name, self.field, id(self.value), Options(options), tuple(given.items()))
        try:
            if key in _made:
                return _made[key][0]
        except TypeError:  # of arguments that have no hash
            key = None
        made = self.calling(self.bound(options, **given)) if self.makes else self.value
        if self.check is not None:
            self.check(self, made)
        if key is not None:
            _made[key] = (made, self.value)
        return made

    def calling(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of the part returns; an exception of the user's code is the user's to mend.

        Raises:
            UserError: With the exception and the line of the user's module that raised it.
        """
        try:
            return function(*arguments)
        except UserError as error:
            if str(error).startswith(self.name):
                raise
            raise UserError(f"{self.name}: {error}") from error
        except Exception as error:
            said = "".join(f": {line}" for line in str(error).strip().splitlines()[:1])
            raise UserError(f"{self.name} fails{line_of(error)}: {type(error).__name__}{said}") from error

    def refused(self, clause: str, expected: str) -> UserError:
        """The error for a part that breaks a clause of its contract."""
        return UserError(f"{self.name} {clause}; expected {expected}.")

    def _typed(self, name: str, value: Any) -> Any:
        """The value of an option in the type that the signature declares, by an annotation or by its default."""
        parameter = self.parameters.get(name)
        if parameter is None:  # it goes to **options
            return value
        declared = _hints(self.value).get(name, type(parameter.default))
        converted = _CONVERSIONS.get(declared, lambda value: value)(value)
        if converted is None and value is not None:
            raise UserError(
                f"{self.options}.{name} is {value!r}; expected a value of type {declared.__name__}, as {self.name} "
                "declares."
            )
        return converted


def option_problems(settings: Settings, section: str) -> Iterator[str]:
    """Sentences about options of a section that none of its parts has."""
    group = settings[section]
    named = {
        f"{section}.{name}": value if isinstance(value, tuple) else (value,)
        for name, value in group.items()
        if name != "options"
    }
    found = [
        part_of(value, field)
        for field, values in named.items()
        for value in values
        if isinstance(kind := _kind_of(field), Choice) and kind.is_own(value)
    ]
    if any(p.kind is p.VAR_KEYWORD for part in found for p in part.parameters.values()):
        return
    known = {option for part in found for option in part.parameters if option not in part.given}
    for name in group.options:
        if not found:
            yield (
                f"config.{section}.options.{name} is set, and config.{section} names no part of your own (module:name) "
                "that could read it; leave it out."
            )
        elif name not in known:
            yield (
                f"Unknown option config.{section}.options.{name} of {' and '.join(part.name for part in found)}."
                f"{nearest(name, known)} Known: {', '.join(sorted(known)) or 'none'}."
            )


def _kind_of(field: str) -> Kind:
    """The kind of a field, or of each of its entries."""
    kind = FIELDS[field]
    return kind.of if isinstance(kind, Several) else kind


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def _real(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) else None


def _flag(value: Any) -> bool | None:
    return value if type(value) is bool else {"true": True, "false": False}.get(str(value).lower())


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else str(value) if type(value) in (int, float, bool) else None


def _several(value: Any) -> tuple[Any, ...] | None:
    return value if isinstance(value, tuple) else None


_CONVERSIONS: Mapping[Any, Callable[[Any], Any]] = {bool: _flag, int: _whole, float: _real, str: _text, tuple: _several}


def _hints(value: Any) -> Mapping[str, Any]:
    """The types of parameters; those of a class stand at its ``__init__`` or, of a dataclass, at its fields."""
    found: dict[str, Any] = {}
    for holder in (value, getattr(value, "__init__", None)) if isinstance(value, type) else (value,):
        try:
            found.update(typing.get_type_hints(holder))
        except (NameError, TypeError, AttributeError):  # of names that exist for a type checker alone
            continue
    return {name: typing.get_origin(hint) or hint for name, hint in found.items()}


def part_of(name: str, field: str, *, check: Callable[[Part, Any], None] | None = None) -> Part:
    """The object behind ``module:name``, the value of a field.

    Raises:
        UserError: If there is no such module or object, if the module fails, or may not be imported.
    """
    try:
        return Part(name, object_of(name), field, check)
    except NoModule as error:  # perhaps another name with a colon is meant, such as toy:moons
        kind = _kind_of(field)
        known = [one for one in (*kind.names, *kind.prefixes) if ":" in one] if isinstance(kind, Choice) else []
        raise UserError(f"{error}{nearest(name, known)}") from error
