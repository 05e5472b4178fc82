"""What there is to choose from, a line each: from the tables that configurations are read with, and docstrings."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from score_sde.errors import UserError, nearest
from score_sde.modes import TABLE
from score_sde.paths import shipped

Lines = Iterable[tuple[str, str]]  # names, and what they are in a line


def listed(asked: str = "") -> str:
    """Every kind of part with its members, or one kind.

    Raises:
        UserError: For an unknown kind, with the nearest one.

    >>> print(listed("correctors"))
    correctors, by config.sampling.corrector:
      langevin           ...
      annealed_langevin  ...
    """
    if asked and asked not in _KINDS:
        raise UserError(f"There is no list of '{asked}'.{nearest(asked, _KINDS)} Known: {', '.join(_KINDS)}.")
    return "\n\n".join(_section(kind) for kind in ([asked] if asked else _KINDS))


def _section(kind: str) -> str:
    chosen_by, lines = _KINDS[kind]
    found = list(lines())
    width = max(len(name) for name, _ in found)
    return "\n  ".join([f"{kind}, by {chosen_by}:", *(f"{name:<{width}}  {line}".rstrip() for name, line in found)])


def _configurations() -> Lines:
    for path in sorted(shipped().rglob("*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        yield path.relative_to(shipped()).with_suffix("").as_posix(), _first(doc)


def _models() -> Lines:
    from score_sde.modes.models import pretrained

    for name, folder in pretrained().items():
        yield name, _card(folder)


def _card(folder: Path) -> str:
    """The first sentence of a model card, and its network."""
    text = (folder / "README.md").read_text()
    network = re.search(r"^\| Network \| (.*) \|$", text, re.MULTILINE)
    sentence = re.search(r"^# .*\n+(.*)$", text, re.MULTILINE)
    return f"{sentence[1] if sentence else ''} {network[1] if network else ''}".strip()


def _samplers() -> Lines:
    from score_sde.samplers import METHODS

    return _made(METHODS)


def _correctors() -> Lines:
    from score_sde.solvers import CORRECTORS

    return _made(CORRECTORS)


def _weightings() -> Lines:
    from score_sde.weightings import WEIGHTINGS

    return _made({name: kind.make for name, kind in WEIGHTINGS.items()})


def _times() -> Lines:
    from score_sde.times import TIME_SAMPLERS

    return ((name, _doc(make)) for name, make in TIME_SAMPLERS.items())


def _processes() -> Lines:
    from score_sde.diffusions import DIFFUSIONS

    for name, diffusion in DIFFUSIONS.items():
        chains = f" Chains: {', '.join(diffusion.schedules)}." if diffusion.schedules else ""
        yield name, _doc(diffusion.sde) + chains


def _networks() -> Lines:
    from score_sde.models.registry import NETWORKS

    for name, family in NETWORKS.items():
        fixed = "" if len(family.fixed) > 1 else "".join(f" ({key}={value})" for key, value in family.fixed.items())
        yield name, _doc(family.module) + fixed


def _toys() -> Lines:
    from score_sde.data.toys import TOYS

    return ((f"toy:{name}", _doc(make)) for name, make in TOYS.items())


def _made(makers: Mapping[str, Callable[[], Any]]) -> Lines:
    """Parts that are described by what their makers make; of those of one class, the fields in which they differ."""
    parts = {name: make() for name, make in makers.items()}
    for name, part in parts.items():
        alike = [_fields(other) for other in parts.values() if type(other) is type(part)]
        own = [f"{key}={value}" for key, value in _fields(part).items() if any(each[key] != value for each in alike)]
        yield name, _doc(part if inspect.isroutine(part) else type(part)) + (f" ({', '.join(own)})" if own else "")


def _fields(part: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(part)] if dataclasses.is_dataclass(part) else []
    return {name: getattr(part, name) for name in names}


def _doc(part: Any) -> str:
    return _first(inspect.getdoc(part) or "")


def _first(doc: str) -> str:
    """The first line of a docstring, without markup."""
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", doc.strip().partition("\n")[0]).replace("``", "")


#: What can be listed: how a command names it, and its lines.
_KINDS: Mapping[str, tuple[str, Callable[[], Lines]]] = {
    "configurations": ("--config", _configurations),
    "models": ("score_sde.load, and config.training.init_from", _models),
    "samplers": ("config.sampling.predictor", _samplers),
    "correctors": ("config.sampling.corrector", _correctors),
    "networks": ("config.model.name", _networks),
    "processes": ("config.sde.name", _processes),
    "weightings": ("config.objective.weighting", _weightings),
    "times": ("config.objective.times", _times),
    "toys": ("config.data.name", _toys),
    "modes": ("--mode", lambda: ((name, mode.text) for name, mode in TABLE.items())),
}
