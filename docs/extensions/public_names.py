"""The public names of the package, and the ones that the pages of the reference describe. It needs no Sphinx."""

import importlib
import inspect
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeAlias, TypeVar

#: A block of a page that describes all public names of some modules.
BLOCK = re.compile(r"^```\{modules\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Entry(NamedTuple):
    """A public name of a module, and where its object was made."""

    module: str
    name: str
    home: str

    @property
    def path(self) -> str:
        """The name that a program imports."""
        return f"{self.module}.{self.name}"


#: The names to describe of each module; ``None`` for all public ones.
Modules: TypeAlias = dict[str, tuple[str, ...] | None]


def modules_in(block: str) -> Modules:
    r"""The modules of a block: a line names one, and after a colon, if only some of its names matter, these.

    >>> modules_in("score_sde.times\nscore_sde.experiment: Experiment")
    {'score_sde.times': None, 'score_sde.experiment': ('Experiment',)}
    """
    parts = [line.partition(":") for line in block.splitlines() if line.strip()]
    return {
        module.strip(): tuple(name.strip() for name in names.split(",")) if colon else None
        for module, colon, names in parts
    }


def modules_of(pages: Path) -> Modules:
    """The modules that the pages of a folder describe."""
    texts = [page.read_text() for page in sorted(pages.glob("*.md"))]
    return {
        name: names for text in texts for found in BLOCK.finditer(text) for name, names in modules_in(found[1]).items()
    }


def home_of(module: str, name: str) -> str:
    """The module that defines a name of a module."""
    return _home(importlib.import_module(module), name)


def _home(module: ModuleType, name: str) -> str:
    """The module that defines a name: the object knows it, or else it is the first import that leads to it."""
    value = getattr(module, name)
    if is_made(value) and value.__module__.startswith("score_sde"):
        return value.__module__
    if name in _assigned(module):
        return module.__name__
    lines = rf"^from (score_sde[\w.]*) import (?:[^(\n]*\b{name}\b|\([^)]*\b{name}\b)"
    for imported in re.findall(lines, inspect.getsource(module), re.MULTILINE):
        return _home(importlib.import_module(imported), name)
    return module.__name__


def is_made(value: object) -> bool:
    """Whether a value is a class or a function, which know where they were made, and no alias of a type."""
    known = hasattr(value, "__qualname__") and isinstance(getattr(value, "__module__", None), str)
    return known and callable(value) and not hasattr(value, "__origin__")


def _assigned(module: ModuleType) -> set[str]:
    """The names that a module assigns at its top."""
    return set(re.findall(r"^([A-Za-z]\w*)(?:: [^=\n]+)? = ", inspect.getsource(module), re.MULTILINE))


def public_names(name: str, chosen: tuple[str, ...] | None = None) -> list[Entry]:
    """The public names of a module: ``__all__``, or else all that it defines whose names begin with no underscore.

    Of these, loggers and variables of types are not for users.
    """
    module = importlib.import_module(name)
    if chosen is not None:
        return [Entry(name, one, _home(module, one)) for one in chosen]
    if hasattr(module, "__all__"):
        names = [
            one for one in module.__all__ if not one.startswith("__") and not inspect.ismodule(getattr(module, one))
        ]
        return [Entry(name, one, _home(module, one)) for one in names]
    defined = [one for one, value in vars(module).items() if is_made(value) and value.__module__ == name]
    names = dict.fromkeys([*defined, *_assigned(module)])
    return [
        Entry(name, one, name)
        for one in names
        if not one.startswith("_") and not isinstance(getattr(module, one), (logging.Logger, TypeVar))
    ]


def described(modules: Modules) -> dict[tuple[str, str], str]:
    """For the modules that the reference describes: from the home and name of each object to its path on the pages.

    A name that several modules have, such as the weightings that ``objectives`` imports too, is described once: a
    class or a function in the package around its home if that is one of them, else in its home, else in the first.
    """
    found: dict[tuple[str, str], Entry] = {}
    for module, chosen in modules.items():
        for entry in public_names(module, chosen):
            before = found.setdefault((entry.home, entry.name), entry)
            if _distance(entry) < _distance(before):
                found[entry.home, entry.name] = entry
    return {key: entry.path for key, entry in found.items()}


def _distance(entry: Entry) -> int:
    """How far from the home of a name a module is: its package is nearest, then the home itself.

    A constant stays in its home, where its comment is.
    """
    made = is_made(getattr(importlib.import_module(entry.home), entry.name))
    if made and entry.home.rpartition(".")[0] == entry.module:
        return 0
    return 1 if entry.home == entry.module else 2


def entries_of(module: str, modules: Modules, found: Mapping[tuple[str, str], str]) -> list[Entry]:
    """The names that the reference describes under a module."""
    return [entry for entry in public_names(module, modules[module]) if found[entry.home, entry.name] == entry.path]


def summary(entry: Entry) -> str:
    """The first sentence about a public name: of its docstring, or of the comment with ``#:`` at its assignment."""
    module = importlib.import_module(entry.home)
    value = getattr(module, entry.name)
    if is_made(value) and value.__module__ == entry.home:
        return (value.__doc__ or "").strip().partition("\n")[0]
    source = inspect.getsource(module)
    assigned = re.search(rf"^{entry.name}(?:: [^=\n]+)? = .*?(?:  #: (.*))?$", source, re.MULTILINE)
    if assigned is None or assigned[1]:
        return "" if assigned is None else f"{assigned[1][0].upper()}{assigned[1][1:]}."
    before = re.search(r"((?:^#: .*\n)+)\Z", source[: assigned.start()], re.MULTILINE)
    return "" if before is None else " ".join(before[1].replace("#: ", "").split())


def undocumented(names: Modules, on_pages: Modules) -> list[str]:
    """Sentences about the public names of modules that no page describes, or that say nothing about themselves."""
    found = described(on_pages)
    problems = []
    for module, chosen in names.items():
        for entry in public_names(module, chosen):
            if (entry.home, entry.name) not in found:
                problems.append(f"{entry.path} is on no page of docs/reference.")
            if not summary(entry):
                problems.append(f"{entry.path} has no docstring, and no comment with '#:' in {entry.home}.")
    return problems
