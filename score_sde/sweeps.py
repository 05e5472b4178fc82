"""The runs of a sweep: what ``sweep()`` in a configuration file yields, as settings under names.

``sweep()`` stands beside ``get_config()`` and yields the fields of each run, such as ``{"optim.lr": 1e-3, "seed": 1}``.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.config import from_file, sweep_of, with_overrides
from score_sde.errors import UserError, plural
from score_sde.fields import Settings
from score_sde.fields.settings import leaves
from score_sde.paths import typed_fields

_LONGEST = 120  # characters of a name, which is the name of a directory


class Run(NamedTuple):
    """A run of a sweep."""

    name: str  # also of its directory
    settings: Settings
    overrides: tuple[str, ...]  # of the configuration, as arguments of the command line


def planned(path: Path, overrides: Sequence[str]) -> tuple[Run, ...]:
    """The runs of the ``sweep()`` in a configuration file, with the overrides of the command line for all of them.

    Raises:
        UserError: If the file has no ``sweep()``, a run is no mapping of fields to valid values, two runs have the same
            name, or the command line sets a field that a run sets.
    """
    config, runs = from_file(path), []
    for number, given in enumerate(sweep_of(path)):
        where = f"Run {number} of sweep() in {path}"
        if not isinstance(given, Mapping) or not all(isinstance(field, str) for field in given):
            raise UserError(f'{where} is {given!r}; expected fields and their values, such as {{"optim.lr": 1e-3}}.')
        own = tuple(f"--config.{field}={_text(value)}" for field, value in given.items())
        fixed = {one.partition("=")[0] for one in overrides}
        if both := [one for one in own if one.partition("=")[0] in fixed]:
            raise UserError(f"{where} sets {both[0][9:]}, and so does the command line; leave one of them out.")
        arguments = (*overrides, *own)
        try:
            settings = typed_fields(with_overrides(config, arguments))
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        runs.append(Run(_name({field: leaves(settings)[field] for field in given}), settings, arguments))
    _check_names(runs, path)
    return tuple(runs)


def index_of(text: str, runs: Sequence[Run]) -> int:
    """The number of one run, from the text of a flag.

    Raises:
        UserError: If it is none.

    >>> index_of("0", [Run("seed=1", Settings(), ())])
    0
    """
    if not re.fullmatch(r"\d{1,9}", text) or int(text) >= len(runs):
        raise UserError(
            f"--index is '{text}', and the sweep has {len(runs)} {plural(len(runs), 'run')}; expected a number from 0 "
            f"to {len(runs) - 1}."
        )
    return int(text)


def _text(value: Any) -> str:
    """A value as it stands on the command line."""
    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return str(tuple(plain) if isinstance(plain, list) else plain)


def _name(fields: Mapping[str, Any]) -> str:
    """The name of a run with these fields, in characters that every file system and shell takes.

    >>> _name({"optim.lr": 1e-3, "seed": 1}), _name({"model.widths": (8, 8), "data.name": "toy:moons"}), _name({})
    ('optim.lr=0.001_seed=1', 'model.widths=8x8_data.name=toy-moons', 'base')
    """
    words = {
        field: "x".join(map(str, value)) if isinstance(value, tuple) else str(value) for field, value in fields.items()
    }
    name = "_".join(f"{field}={re.sub(r'[^A-Za-z0-9.+-]+', '-', word) or 'none'}" for field, word in words.items())
    if len(name) <= _LONGEST:
        return name or "base"
    digest = hashlib.sha256(repr(words).encode()).hexdigest()[:8]
    return f"{name[: _LONGEST - len(digest) - 1]}_{digest}"


def _check_names(runs: Sequence[Run], path: Path) -> None:
    numbers = defaultdict(list)
    for number, run in enumerate(runs):
        numbers[run.name.lower()].append(number)  # some file systems know no capitals
    for first, *others in numbers.values():
        if others:
            raise UserError(
                f"Runs {first} and {others[0]} of sweep() in {path} are both named {runs[first].name}; expected runs "
                "that differ in the fields which sweep() yields."
            )
