"""Fields that a configuration sets and nothing reads, because another of its fields chooses what does not have them.

Where a field is read is part of its description in ``fields/``.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from score_sde.errors import plural
from score_sde.fields import FIELDS
from score_sde.fields.conditions import Clause, told, word
from score_sde.fields.settings import Nested, leaves
from score_sde.validation import Purpose

#: The groups of which a purpose reads every field for which the conditions hold.
_GROUPS: Mapping[Purpose, tuple[str, ...]] = {
    "train": ("sde", "parameterization", "model", "objective", "optim"),
    "sample": ("sampling",),
    "pareto": ("pareto",),
    "likelihood": ("likelihood",),
    "evaluate": ("evaluation",),
}


def unread(config: Nested, purposes: Collection[Purpose], typed: Collection[str] = ()) -> Iterator[str]:
    """Sentences about fields with another value than the default that have no effect on what is going to be done.

    A field may be without effect beside the others of its configuration, whoever has set it. What a mode takes from
    another group is told of what is typed for this mode alone, for a configuration is meant for all modes.

    Args:
        config: A configuration without mistakes.
        purposes: What it is used for.
        typed: The fields that the command line sets.

    >>> from score_sde.fields import Settings
    >>> config = Settings().with_("sampling", eta=0.5).to_dict()
    >>> [list(unread(config, [purpose])) for purpose in ("train", "sample")]
    [[], ['config.sampling.eta=0.5 has no effect with config.sampling.predictor=euler_maruyama: it is read where ...']]
    """
    values = leaves(config)
    changed = [field for field, kind in FIELDS.items() if values[field] != kind.default]
    wanted = {group for purpose in purposes for group in _GROUPS.get(purpose, ())}
    without_effect: dict[Clause, list[str]] = {}
    for field in changed:
        when = FIELDS[field].when
        if field.partition(".")[0] in wanted and when and (failing := when.failing(values)):
            without_effect.setdefault(failing, []).append(field)
    for clause, fields in without_effect.items():
        found = " and ".join(f"config.{name}={word(values[name])}" for name in dict.fromkeys(w.field for w in clause))
        has, it_is = plural(len(fields), "has", "have"), plural(len(fields), "it is", "they are")
        yield f"{_named(fields, values)} {has} no effect with {found}: {it_is} read where {told(clause)}."
    for group in sorted(wanted):
        if fields := [field for field in changed if field in typed and group in FIELDS[field].instead]:
            has = plural(len(fields), "has", "have")
            yield f"{_named(fields, values)} {has} no effect here: config.{group} is read."


def _named(fields: Collection[str], values: Mapping[str, Any]) -> str:
    return " and ".join(f"config.{field}={word(values[field])}" for field in fields)
