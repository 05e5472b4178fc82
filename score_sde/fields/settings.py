"""All fields of a run as one frozen object, and the checks that turn a nested configuration into it."""

import dataclasses
import functools
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from dataclasses import MISSING, field
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from score_sde.errors import nearest, refuse
from score_sde.fields.conditioning import Conditioning
from score_sde.fields.conditions import When
from score_sde.fields.diffusion import Diffusion, Mesh, Parameterization, Top
from score_sde.fields.kinds import Kind, Option
from score_sde.fields.lines import Group, Open
from score_sde.fields.measuring import Evaluation, Export, Likelihood, Pareto, Plan, Sampling
from score_sde.fields.model import Data, Model
from score_sde.fields.training import Classifier, Dequantizer, Objective, Optim, Training


@runtime_checkable
class Nested(Protocol):
    """Groups of fields under their names: a dictionary, or a configuration of another library."""

    def items(self) -> Iterable[tuple[str, Any]]:
        """Names and values; groups are nested in turn."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Top):
    """Every field with its value: the first group's at the top, the others in their groups.

    >>> settings = Settings().with_("sampling", num_steps=50).with_(seed=7)
    >>> settings.sampling.num_steps, settings.seed, settings.model.widths
    (50, 7, (256,))
    >>> Settings.of(settings.to_dict()) == settings
    True
    """

    mesh: Mesh = field(default_factory=Mesh)
    sde: Diffusion = field(default_factory=Diffusion)
    parameterization: Parameterization = field(default_factory=Parameterization)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    objective: Objective = field(default_factory=Objective)
    optim: Optim = field(default_factory=Optim)
    training: Training = field(default_factory=Training)
    dequantizer: Dequantizer = field(default_factory=Dequantizer)
    classifier: Classifier = field(default_factory=Classifier)
    sampling: Sampling = field(default_factory=Sampling)
    pareto: Pareto = field(default_factory=Pareto)
    plan: Plan = field(default_factory=Plan)
    likelihood: Likelihood = field(default_factory=Likelihood)
    evaluation: Evaluation = field(default_factory=Evaluation)
    export: Export = field(default_factory=Export)
    conditioning: Conditioning = field(default_factory=Conditioning)

    @classmethod
    def of(cls, config: Nested) -> "Settings":
        """The settings in a nested configuration that has every field.

        Raises:
            UserError: With all fields that are unknown, missing, or invalid.
        """
        given = leaves(config)
        refuse(wrong_names(given) + wrong_values(given))
        values = nested(given | {name: FIELDS[name].typed(value) for name, value in _not_default(given).items()})
        groups = {group: GROUPS[group](**values.pop(group)) for group in filter(None, GROUPS)}
        return cls(**values, **groups)

    def with_(self, group: str = "", **changes: Any) -> "Settings":
        """These settings with some fields of one group changed, by default of the first."""
        if not group:
            return dataclasses.replace(self, **changes)
        return dataclasses.replace(self, **{group: dataclasses.replace(getattr(self, group), **changes)})

    def with_fields(self, values: Mapping[str, Any]) -> "Settings":
        """These settings with some fields changed, given by their dotted names and in the types of a record."""
        known = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return Settings.of(nested({**leaves(self), **known}))

    def reads(self, name: str) -> bool:
        """Whether a field is read beside the values of the others.

        >>> Settings().reads("sampling.snr"), Settings().with_("sampling", corrector="langevin").reads("sampling.snr")
        (False, True)
        """
        return (FIELDS[name].when or When()).failing(self._leaves) is None

    @functools.cached_property
    def _leaves(self) -> Mapping[str, Any]:
        return leaves(self)

    def to_dict(self) -> dict[str, Any]:
        """A nested dictionary of plain values, for records."""
        return nested(self._leaves)


#: The groups by their names in a configuration; the fields of the first one stand at its top.
GROUPS: Mapping[str, Any] = MappingProxyType(
    {"": Top} | {one.name: one.default_factory for one in dataclasses.fields(Settings) if one.default is MISSING}
)


def _within(cls: Any, kind: Kind) -> Kind:
    """A field with the conditions of its group, unless it is read regardless of them."""
    own, group = kind.when, getattr(cls, "when", When())
    return dataclasses.replace(kind, when=group if own is None else group & own if own else own)


class _Fields(Mapping[str, Kind]):
    """Every field under its dotted name; it knows, but does not list, the options of parts of the user's own."""

    def __init__(self, named: Mapping[str, Kind]) -> None:
        self._named = named

    def __getitem__(self, name: str) -> Kind:
        group, dot, option = name.partition(".options.")
        if dot and option.isidentifier() and issubclass(GROUPS.get(group, Group), Open):
            return OPTION
        return self._named[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)

    def items(self) -> ItemsView[str, Kind]:
        """All at once, since there are hundreds."""
        return self._named.items()

    def of(self, names: Iterable[str]) -> dict[str, Kind]:
        """The kinds of those names that are of fields."""
        return {name: self._named.get(name) or self[name] for name in names if name in self._named or name in self}


OPTION = Option()
#: Every field under its dotted name.
FIELDS = _Fields(
    {
        f"{group}.{one.name}".lstrip("."): _within(cls, one.metadata["kind"])
        for group, cls in GROUPS.items()
        for one in dataclasses.fields(cls)
        if "kind" in one.metadata
    }
)


def leaves(config: Nested, prefix: str = "") -> dict[str, Any]:
    """The fields of a nested configuration under dotted names.

    >>> leaves({"a": {"b": 1}, "c": (2,)})
    {'a.b': 1, 'c': (2,)}
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if hasattr(value, "items"):  # as Nested has it; to ask for that takes ten times as long
            flat.update(leaves(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = list(value) if isinstance(value, list) else value
    return flat


#: Every field with its default; arguments with a field's meaning take their defaults from here.
DEFAULTS = Settings()
_VALID: Mapping[str, Any] = MappingProxyType(leaves(DEFAULTS))


def _not_default(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not the very objects of the defaults, which are valid and have their types."""
    return {name: value for name, value in given.items() if name not in _VALID or value is not _VALID[name]}


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`leaves`: a nested dictionary of values under dotted names.

    >>> nested({"a.b": 1, "c": (2,)})
    {'a': {'b': 1}, 'c': (2,)}
    """
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, last = name.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return tree


def wrong_names(given: Mapping[str, Any]) -> list[str]:
    """Sentences about unknown fields, and one about missing ones."""
    known = FIELDS.of(given)
    unknown = [f"Unknown config field '{name}'.{nearest(name, FIELDS)}" for name in given if name not in known]
    missing = ", ".join(sorted(set(FIELDS) - set(given)))
    lacking = f"The config lacks {missing}: start from score_sde.config.default_config()."
    return unknown + [lacking] * bool(missing)


def wrong_values(given: Mapping[str, Any]) -> list[str]:
    """Sentences about invalid values."""
    asked = _not_default(given)
    kinds = FIELDS.of(asked)
    return [said for name, kind in kinds.items() if (said := kind.problem(name, asked[name])) is not None]
