"""Fields that a configuration sets but nothing reads, because another field selects a component without them.

The description of a field in ``fields/`` says where it is read.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from score_sde.errors import plural
from score_sde.fields import FIELDS
from score_sde.fields.conditions import Clause, When, told, unless, word
from score_sde.fields.settings import Nested, leaves
from score_sde.validation import Purpose

#: The groups that each purpose reads: every field whose conditions hold.
_GROUPS: Mapping[Purpose, tuple[str, ...]] = {
    "train": ("sde", "parameterization", "model", "objective", "optim", "conditioning"),
    "sample": ("sampling", "conditioning"),
    "restore": ("conditioning",),
    "pareto": ("pareto",),
    "likelihood": ("likelihood",),
    "evaluate": ("evaluation",),
}
#: Conditions of a field for one purpose, beside those of its line: images are of no class unless labels say theirs.
_FOR: Mapping[Purpose, Mapping[str, When]] = {
    "restore": {
        f"conditioning.{name}": unless("conditioning.labels", ()) for name in ("scale", "guidance_interval", "rescale")
    },
}


def unread(config: Nested, purposes: Collection[Purpose], typed: Collection[str] = ()) -> Iterator[str]:
    """Sentences about fields with non-default values that have no effect on the given purposes.

    A field may have no effect beside the others of its configuration, whoever has set it. Fields of groups that a mode
    does not read are reported only if they were typed for this mode, since a configuration serves all modes.

    The configuration is valid; the command line sets the ``typed`` fields.

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
        when = FIELDS[field].when or When()
        for purpose in purposes:
            when = when & _FOR.get(purpose, {}).get(field, When())
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
