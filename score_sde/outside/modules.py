"""Where the modules of a user are looked for, and their import.

A configuration file is the user's program, so modules beside it are imported like the file itself. A record is not: it
may come from anybody, with any file beside it. Modules named by a record are therefore looked for in the current
directory and on the path of Python, never in the directory of the record. Nothing of Python's own library, which holds
functions that run commands, can be a part, and nothing of an installed one where a record alone names it: there are
functions that execute the files they read. Only optimizers are, which read none.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from score_sde.errors import UserError, nearest

#: Installed modules that a record may name.
_OF_RECORDS = frozenset({"optax"})


class NoModule(UserError):
    """A name whose module does not exist."""


@dataclasses.dataclass
class _Places:
    """Where modules are looked for in this process, before the places where Python looks."""

    folders: list[Path] = dataclasses.field(default_factory=list)  # of configuration files
    never: list[Path] = dataclasses.field(default_factory=list)  # of records
    added: list[str] = dataclasses.field(default_factory=list)  # to sys.path, for modules that are imported later
    imported: list[str] = dataclasses.field(default_factory=list)  # modules of the user


_places = _Places()


def begin() -> None:
    """Forget where modules were looked for, and those found there: at the start of a command."""
    for name in _places.imported:
        sys.modules.pop(name, None)
    sys.path[:] = [place for place in sys.path if place not in _places.added]
    for places in (_places.folders, _places.never, _places.added, _places.imported):
        places.clear()


def search_beside(file: Path) -> None:
    """Look for modules beside a configuration file first."""
    folder = Path(os.path.realpath(file.parent))
    _places.folders[:] = [folder, *(other for other in _places.folders if other != folder)]


def never_inside(folder: Path) -> None:
    """Import nothing from a folder, whose record names modules."""
    _places.never.append(Path(os.path.realpath(folder)))


@contextlib.contextmanager
def first_on_path(folder: Path) -> Iterator[None]:
    """A block in which Python finds the modules of a folder first."""
    path = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = path


def object_of(name: str) -> Any:
    """The object behind ``module:name``.

    Raises:
        UserError: If there is no such module or object, if the module fails, or may not be imported.
    """
    module_name, _, attribute = name.partition(":")
    module = _module(module_name, name)
    if not hasattr(module, attribute):
        known = [one for one in vars(module) if not one.startswith("_")]
        raise UserError(f"{_file(module)} has no '{attribute}', which {name} names.{nearest(attribute, known)}")
    value = getattr(module, attribute)
    home = (getattr(value, "__module__", None) or "").partition(".")[0]
    if callable(value) and home in sys.stdlib_module_names and home != "functools":
        raise UserError(f"{name} is {home}.{attribute} of Python's own library, which is no part of a run.")
    return value


def _file(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or f"The module {module.__name__}")


def _module(name: str, asked: str) -> ModuleType:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        raise UserError(f"{asked} is in Python's own library, which has no parts of a run; expected a module of yours.")
    spec, folder = _spec(top)
    if spec is None:
        places = [*_places.folders, Path.cwd()]
        beside = sorted({file.stem for place in places if place.is_dir() for file in place.glob("*.py")})
        looked = " and ".join(dict.fromkeys(map(str, places)))
        advice = "" if _places.folders else " Start where it lies, set PYTHONPATH, or give the --config=FILE beside it."
        raise NoModule(
            f"There is no module '{top}', which {asked} names, in {looked}, or among the installed ones."
            f"{nearest(top, beside)}{advice}"
        )
    origin = spec.origin or next(iter(spec.submodule_search_locations or ()), "")
    file = Path(os.path.realpath(origin))
    installed = file.is_relative_to(os.path.realpath(sys.prefix))
    trusted = installed or folder in _places.folders
    if not trusted and any(file.is_relative_to(place) for place in _places.never):
        raise UserError(
            f"{asked} would be imported from {origin}, in the directory of the run, where a record may come from "
            "anybody; give the --config=FILE beside it if it is yours, or move it to the directory where you start."
        )
    if installed and _places.never and not _places.folders and top not in _OF_RECORDS:
        raise UserError(
            f"{asked} is in an installed module, {origin}, and a record, which may come from anybody, is all that "
            "names it; give the --config=FILE of the run if it is yours."
        )
    return _imported(name, top, origin, folder, asked)


def _spec(top: str) -> tuple[ModuleSpec | None, Path | None]:
    """The place of a module, and the folder in which it was found if that is one of :class:`_Places`."""
    folders = [(folder, PathFinder.find_spec(top, [str(folder)])) for folder in (*_places.folders, Path.cwd())]
    files: list[tuple[ModuleSpec | None, Path | None]]
    files = [(spec, folder) for folder, spec in folders if spec is not None and spec.origin is not None]
    # A folder without __init__.py counts last, as for Python itself.
    plain = [(spec, folder) for folder, spec in folders if spec is not None and spec.origin is None]
    with contextlib.suppress(ImportError, ValueError):
        if (installed := importlib.util.find_spec(top)) is not None:
            files.append((installed, None))
    return next(iter([*files, *plain]), (None, None))


def _imported(name: str, top: str, origin: str, folder: Path | None, asked: str) -> ModuleType:
    """Import a module, in place of one of the same name from another folder."""
    before = getattr(sys.modules.get(top), "__file__", None)
    if folder is not None and before is not None and os.path.realpath(before) != os.path.realpath(origin):
        for other in [one for one in sys.modules if one == top or one.startswith(f"{top}.")]:
            del sys.modules[other]
    known = set(sys.modules)
    try:
        with contextlib.nullcontext() if folder is None else first_on_path(folder):
            module = importlib.import_module(name)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"The module of {asked} cannot be imported{line_of(error)}: {error}.") from error
    except BaseException as error:  # the file is the user's program, and may end in any way
        said = "".join(f": {line}" for line in str(error).strip().splitlines()[:1])
        raise UserError(f"The module of {asked} fails{line_of(error)}: {type(error).__name__}{said}") from error
    if folder is None:
        return module
    new = {name: getattr(sys.modules[name], "__file__", None) for name in set(sys.modules) - known}
    _places.imported += [name for name, file in new.items() if file and Path(file).is_relative_to(folder)]
    if str(folder) not in sys.path:
        # At the end, for what the module imports later, and for the processes that read data.
        sys.path.append(str(folder))
        _places.added.append(str(folder))
    return module


def line_of(error: BaseException) -> str:
    """The last line outside the package and its libraries that an exception passed."""
    own, trace, found = str(Path(__file__).parents[1]), error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((own, "<", os.path.realpath(sys.prefix))) and "site-packages" not in file:
            found = f" in {file}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return found
