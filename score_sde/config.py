"""Configurations from files and overrides, turned into :class:`~score_sde.fields.Settings`.

Only modules that write configurations see a ConfigDict. A configuration file defines ``get_config()``; it starts from
:func:`default_config` and overrides what differs. The fields are described in ``fields/``.
"""

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from score_sde.errors import UserError, nearest, refuse
from score_sde.fields import FIELDS, GROUPS, Settings
from score_sde.fields.kinds import Option, Real, Several
from score_sde.fields.lines import Open
from score_sde.fields.settings import leaves, nested, wrong_names, wrong_values
from score_sde.files import read_json
from score_sde.outside.modules import first_on_path, never_inside, search_beside
from score_sde.outside.parts import Part

if TYPE_CHECKING:
    # The library types every field as a union of all kinds; ours are checked at run time, by Settings.of.
    class ConfigDict(Any):
        """A nested, typo-safe dictionary of fields."""

else:
    from ml_collections import ConfigDict

MAX_RUNS = 10_000  #: the most runs of a sweep
_MODULE = "score_sde_config_file"
_RUN = '{"optim.lr": 1e-3, "seed": 1}'


def default_config() -> ConfigDict:
    """Every field with its default; the defaults describe the continuous VP DDPM++ of Song et al."""
    config = ConfigDict()
    for group in filter(None, GROUPS):
        config[group] = ConfigDict()
    for name, kind in FIELDS.items():
        group, _, field = name.rpartition(".")
        (config[group] if group else config)[field] = kind.default
    opened = [group for group, kind in GROUPS.items() if issubclass(kind, Open)]
    for group in opened:
        config[group].options = ConfigDict()
    config.lock()
    for group in opened:
        config[group].options.unlock()  # its fields are those of the user's parts
    return config


def from_file(path: Path) -> ConfigDict:
    """The configuration that ``get_config()`` in a Python file returns, or that a run recorded in its ``config.json``.

    Raises:
        UserError: If the file is missing, fails, or defines no ``get_config()``; if a record is broken.
    """
    if not path.is_file():
        siblings = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UserError(f"There is no config file {path}.{nearest(str(path), siblings)}")
    if path.suffix == ".json":
        found = read_json(path, remedy="expected the config.json of a run") or {}
        return from_record(found, str(path), path.parent)
    with _run(path) as module:
        config = module.get_config()
        if isinstance(config, ConfigDict):
            leaves(config)  # fails for a configuration that contains itself
            return config if type(config) is ConfigDict else config.as_configdict()
    raise UserError(f"get_config() in {path} returns a {type(config).__name__}; expected a ConfigDict.")


def sweep_of(path: Path) -> list[Any]:
    """What ``sweep()`` in a Python file yields, one entry for each run of a sweep.

    Raises:
        UserError: If the file fails, defines no ``sweep()``, or yields nothing or too much.
    """
    make: Any = None
    found: list[Any] = []
    if path.suffix != ".json":
        with _run(path) as module:
            make = getattr(module, "sweep", None)
            yielded: Any = make() if callable(make) else ()
            found = list(itertools.islice(yielded, MAX_RUNS + 1))
    if not callable(make):
        raise UserError(
            f"{path} has no sweep(); expected a function that yields the fields of each run, such as {_RUN}."
        )
    if not found:
        raise UserError(f"sweep() in {path} yields no run; expected the fields of each, such as {_RUN}.")
    if len(found) > MAX_RUNS:
        raise UserError(f"sweep() in {path} yields more than {MAX_RUNS:,} runs; expected fewer.")
    return found


@contextlib.contextmanager
def _run(path: Path) -> Iterator[ModuleType]:
    """The module of a configuration file, while it runs; what it raises becomes one sentence."""
    search_beside(path)
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; expected one that defines get_config().")
    module = importlib.util.module_from_spec(spec)
    try:
        with _importable(module, path.parent):
            spec.loader.exec_module(module)
            yield module
    except UserError:
        raise
    except BaseException as error:  # the file is the user's program, and may end in any way, sys.exit(0) among them
        said = "".join(f": {line}" for line in str(error).strip().splitlines()[:1])
        raise UserError(f"The config file {path} fails: {type(error).__name__}{said}") from error


@contextlib.contextmanager
def _importable(module: ModuleType, folder: Path) -> Iterator[None]:
    """While a configuration file runs it is a module like any other, and may import the files beside it."""
    before = dict(sys.modules)
    sys.modules[_MODULE] = module
    try:
        with first_on_path(folder.resolve()):
            yield
    finally:
        for name in sys.modules.keys() - before.keys():
            # Another configuration may have a file of the same name beside it.
            origin = getattr(sys.modules[name], "__file__", None)
            if name != _MODULE and origin and Path(origin).resolve().is_relative_to(folder.resolve()):
                del sys.modules[name]


def from_record(recorded: Mapping[str, Any], where: str, home: Path | None = None) -> ConfigDict:
    """The configuration in a record. A field newer than the record has its present default.

    Errors call the record ``where``. It lies in the directory ``home``, from which nothing is imported that it names:
    whoever made the record may have put code beside it.

    Raises:
        UserError: If it has fields that do not exist, or values of a wrong kind.
    """
    if home is not None:
        never_inside(home)
    given = leaves(recorded)
    refuse(f"Unknown config field '{name}' in {where}.{nearest(name, FIELDS)}" for name in given if name not in FIELDS)
    # A configuration would take True for 1.0.
    refuse(wrong_values({name: value for name, value in given.items() if isinstance(value, bool)}))
    config = default_config()
    with config.ignore_type():  # Settings.of reports a wrong type in more detail
        config.update_from_flattened_dict({name: _from_json(name, value) for name, value in given.items()})
    return config


def _from_json(name: str, value: Any) -> Any:
    """The value of a field as it was before JSON, which has no tuples and writes 1.0 as 1."""
    if isinstance(FIELDS[name], Several | Option) and isinstance(value, list):
        return tuple(value)
    return float(value) if isinstance(FIELDS[name], Real) and FIELDS[name].accepts(value) else value


def with_overrides(config: ConfigDict, overrides: Sequence[str]) -> Settings:
    """The settings of a configuration with arguments ``--config.a.b=VALUE``, each parsed by the type of its field.

    Of several for one field the last counts.

    Raises:
        UserError: With every problem.
    """
    known, values = leaves(config), {}
    problems = wrong_names(known)
    for argument in overrides:
        name, equals, text = argument.removeprefix("--config.").partition("=")
        if name not in FIELDS:
            problems.append(f"Unknown config field '{name}' in {argument}.{nearest(name, FIELDS)}")
        elif not equals:
            problems.append(
                f"The override {argument} has no value; expected {argument}=VALUE, now {known.get(name)!r}."
            )
        else:
            values[name] = FIELDS[name].parse(text)
    refuse(problems + wrong_values(known | values))
    return Settings.of(nested(known | values))


def differing_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines ``name: old -> new`` for the fields of two configurations that differ.

    >>> differing_fields({"a": {"b": 1}}, {"a": {"b": 2}})
    ['a.b: 1 -> 2']
    """
    before, after = leaves(old), leaves(new)
    lines = []
    for name in sorted(before.keys() | after.keys()):
        a, b = before.get(name, "(absent)"), after.get(name, "(absent)")
        if (list(a) if isinstance(a, tuple) else a) != (list(b) if isinstance(b, tuple) else b):
            lines.append(f"{name}: {a} -> {b}")
    return lines


def changed_fields(
    recorded: Mapping[str, Any],
    config: Mapping[str, Any] | ConfigDict,
    *,
    groups: Collection[str],
    free: Collection[str] = (),
) -> list[str]:
    """Lines ``name: old -> new`` for the fields of some groups that differ from a recorded configuration.

    A field newer than the record has its present default. A field that neither of them reads may differ.

    A group may also be a single field at the top; free fields may differ.
    """
    old, new = ({**leaves(default_config()), **leaves(fields)} for fields in (recorded, config))
    lines = differing_fields(old, json.loads(json.dumps(new)))
    names = [line.split(":")[0] for line in lines]
    kinds = FIELDS.of(names)
    idle = {name for name, kind in kinds.items() if kind.when and kind.when.failing(old) and kind.when.failing(new)}
    return [
        line
        for name, line in zip(names, lines, strict=True)
        if name.split(".")[0] in groups
        and name not in idle
        and not {name, f"{name.partition('.options.')[0]}.options"} & set(free)
    ]


def build(cls: Any, fields: Mapping[str, Any] | ConfigDict, **overrides: Any) -> Any:
    """Construct a dataclass from a mapping of some of its fields; a part of the user's own takes its options."""
    if isinstance(cls, Part):
        given = {name: value for name, value in fields.items() if name in cls.given}
        return cls.made(fields.get("options", {}), **given, **overrides)
    if not isinstance(cls, type):
        return cls(**overrides)
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in fields.items() if name in names} | overrides)
