"""Configurations: files and overrides in, checked fields out; the one border where a ConfigDict becomes typed objects.

Nothing below this module sees a configuration. A configuration file defines ``get_config()``; it starts from
:func:`default_config` and overrides what differs. The fields are in ``defaults.py``.
"""

import dataclasses
import importlib.util
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from score_sde.defaults import ConfigDict, default_config
from score_sde.errors import UserError, nearest, unknown
from score_sde.files import read_json


def from_file(path: Path) -> ConfigDict:
    """The configuration that ``get_config()`` in a Python file returns, or that a run recorded in its ``config.json``.

    Raises:
        UserError: If the file is missing, fails, or defines no ``get_config()``; if a record is broken.
    """
    if not path.is_file():
        siblings = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UserError(f"There is no config file {path}.{nearest(str(path), siblings)}")
    if path.suffix == ".json":
        return _from_record(path)
    spec = importlib.util.spec_from_file_location("score_sde_config_file", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; expected one that defines get_config().")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except UserError:
        raise
    except Exception as error:  # the file is the user's program, and may fail in any way
        raise UserError(f"The config file {path} fails: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config() in {path} returns a {type(config).__name__}; expected a ConfigDict.")
    return config


def _from_record(path: Path) -> ConfigDict:
    """The configuration in a record. One that is older than a field stands for what is now its default."""
    recorded = read_json(path, remedy="expected the config.json of a run") or {}
    config, known = default_config(), leaves(default_config())
    for name, value in leaves(recorded).items():
        if name not in known:
            raise UserError(f"Unknown config field '{name}' in {path}.{nearest(name, known)}")
        value = tuple(value) if isinstance(known[name], tuple) and isinstance(value, list) else value
        _check_type(name, value, known[name])
        config.update_from_flattened_dict({name: value})
    return config


def leaves(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """The fields of a nested configuration under dotted names.

    >>> leaves({"a": {"b": 1}, "c": (2,)})
    {'a.b': 1, 'c': (2,)}
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            flat.update(leaves(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = list(value) if isinstance(value, list) else value
    return flat


def check_fields(config: ConfigDict) -> None:
    """Refuse fields that do not exist, fields that are missing, and values of another type than the default's."""
    given, known = leaves(config), leaves(default_config())
    for name in given:
        if name not in known:
            raise UserError(f"Unknown config field '{name}'.{nearest(name, known)}")
    if missing := sorted(set(known) - set(given)):
        raise UserError(f"The config lacks {', '.join(missing)}: start from score_sde.config.default_config().")
    for name, value in given.items():
        _check_type(name, value, known[name])


def _check_type(name: str, value: Any, expected: Any) -> None:
    """Refuse a value of another type than the default's; a whole number may stand for a float."""
    kinds = (int, float) if type(expected) is float else (type(expected),)
    if type(value) not in kinds:
        raise UserError(f"config.{name} is {value!r}; expected {type(expected).__name__}, such as {expected!r}.")


def at_least(config: ConfigDict, minimum: float | int, *names: str) -> None:
    """Refuse values below ``minimum``, and NaN, for the named fields."""
    flat = leaves(config)
    for name in names:
        if not flat[name] >= minimum:
            raise UserError(f"config.{name} is {flat[name]}; expected at least {minimum}.")


def below(config: ConfigDict, bound: float | int, *names: str) -> None:
    """Refuse values of ``bound`` and above, and NaN, for the named fields."""
    flat = leaves(config)
    for name in names:
        if not flat[name] < bound:
            raise UserError(f"config.{name} is {flat[name]}; expected a value below {bound}.")


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
    recorded: Mapping[str, Any], config: ConfigDict, *, groups: Collection[str], free: Collection[str] = ()
) -> list[str]:
    """Lines ``name: old -> new`` for the fields of some groups that differ from a recorded configuration.

    A record that is older than a field stands for what is now its default.

    Args:
        recorded: The configuration as it was written.
        config: The one of now.
        groups: The groups to look at, or single fields at the top.
        free: Names of fields that may differ.
    """
    complete = {**leaves(default_config()), **leaves(recorded)}
    lines = differing_fields(complete, json.loads(json.dumps(config.to_dict())))
    names = [line.split(":")[0] for line in lines]
    return [line for name, line in zip(names, lines, strict=True) if name.split(".")[0] in groups and name not in free]


def choose(kind: str, name: str, registry: Mapping[str, Any]) -> Any:
    """The member of a registry, or an error that lists its names and the nearest one."""
    if name not in registry:
        raise unknown(kind, name, registry)
    return registry[name]


def build(cls: type, fields: Mapping[str, Any] | ConfigDict, **overrides: Any) -> Any:
    """Construct a dataclass from those of its fields that the mapping holds."""
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in fields.items() if name in names} | overrides)
