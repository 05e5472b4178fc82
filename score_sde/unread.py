"""Fields that a configuration sets and nothing reads, because another of its fields chooses what does not have them.

Which classes have a field is asked of the classes: a solver, a corrector, a network, an SDE or a parameterization takes
the fields that it knows. The rest is in one table.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from score_sde.config import ConfigDict, leaves
from score_sde.errors import plural
from score_sde.experiment import SDES
from score_sde.fields import FIELDS
from score_sde.fields.kinds import shown
from score_sde.fields.measuring import ADAPTIVE
from score_sde.models.registry import LATENT_FIELDS, NETWORKS
from score_sde.parameterization import PARAMETERIZATIONS
from score_sde.solvers import CORRECTORS, PREDICTORS, follows_of
from score_sde.validation import Purpose


class Where(NamedTuple):
    """The values of a field under which others are read: some, or all but some."""

    field: str
    values: tuple[Any, ...]
    but: bool = False

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the field has such a value."""
        return (values[self.field] in self.values) is not self.but

    def __str__(self) -> str:
        """The values in words."""
        *others, last = map(_word, self.values)
        words = f"{', '.join(others)} or {last}" if others else last
        return f"config.{self.field} is {'not ' * self.but}{words}"


def _word(value: Any) -> str:
    """A value as it is written on the command line."""
    return value or "empty" if isinstance(value, str) else shown(value)


def _of_group(group: str, but: Collection[str] = ()) -> tuple[str, ...]:
    return tuple(name for name in FIELDS if name.startswith(f"{group}.") and name.partition(".")[2] not in but)


def _fields_of(make: Callable[..., Any]) -> set[str]:
    cls = make if isinstance(make, type) else type(make())
    return {field.name for field in dataclasses.fields(cls)}


# Of each field that chooses a class, the fields of its group that each class has.
_CLASSES: Mapping[str, Mapping[str, Collection[str]]] = {
    "sde.name": {name: _fields_of(cls) for name, cls in SDES.items()},
    "parameterization.output": {
        name: _fields_of(cls) - ({"scale_input", "condition_on"} if name == "edm" else set())  # which are fixed
        for name, cls in PARAMETERIZATIONS.items()
    },
    "model.name": {
        **{name: _fields_of(family.module) - {*family.fixed} for name, family in NETWORKS.items()},
        # It has a filter and a combination for what it fixes to have neither.
        "ddpm": _fields_of(NETWORKS["ddpm"].module) - {*NETWORKS["ddpm"].fixed, "fir_kernel", "progressive_combine"},
        "vae": LATENT_FIELDS,
    },
    "sampling.predictor": {name: _fields_of(make) for name, make in PREDICTORS.items()} | dict.fromkeys(ADAPTIVE, ()),
    "sampling.corrector": {"none": ()} | {name: _fields_of(make) for name, make in CORRECTORS.items()},
}
_BY_NUMBER = ("level", "descending_level")  # how a network is told the number of a level
_HEEDFUL = tuple(name for name, make in PREDICTORS.items() if follows_of(make()) in ("any", "sde"))
_SCORE = Where("model.name", ("vae",), but=True)
_FLOW = ("num_steps", "tolerance", "grid", "order", "num_probes", "probe_kind", "fresh_probes", "t_min")

# What is read only where a condition holds, or one of several.
_TABLE: tuple[tuple[tuple[Where, ...], tuple[str, ...]], ...] = (
    ((_SCORE,), (*_of_group("sde"), *_of_group("parameterization"))),
    ((_SCORE,), _of_group("sampling", ("denoising", "seed", "first", "num_samples", "batch_size"))),
    ((_SCORE,), tuple(f"likelihood.{name}" for name in (*_FLOW, "decoder", "bound_times", "noise_levels"))),
    ((_SCORE,), ("likelihood.budget_examples", "objective.num_projections")),
    ((Where("model.name", ("vae",)),), ("likelihood.num_weights",)),
    ((Where("model.name", ("mlp", "vae"), but=True),), ("model.dtype",)),  # the convolutions have it
    ((Where("model.embedding", ("fourier",)),), ("model.fourier_scale",)),
    ((Where("model.resblock_type", ("ddpm",)), Where("model.name", ("ddpm",))), ("model.resample_with_conv",)),
    ((Where("model.fir", (True,)),), ("model.fir_kernel",)),
    ((Where("model.progressive_input", ("input_skip",)),), ("model.progressive_combine",)),
    ((Where("parameterization.scale_input", (True,)), Where("parameterization.output", ("edm",))), (
        "parameterization.data_std",
    )),
    ((
        Where("sde.schedule", ("continuous",), but=True),
        Where("objective.times", ("levels",)),
        Where("parameterization.condition_on", _BY_NUMBER),
        Where("model.name", ("ncsn",)),
    ), ("parameterization.num_scales",)),
    ((Where("objective.kind", ("bound",)),), ("parameterization.variances",)),
    ((Where("objective.kind", ("sliced", "sliced_vr")),), ("objective.num_projections",)),
    ((Where("objective.kind", ("bound",), but=True),), (
        "objective.weighting", "objective.times", "objective.t_min", "objective.reduce_mean"
    )),
    ((Where("optim.ema_rate", (0.0,), but=True),), ("optim.ema_warmup",)),
    ((Where("sampling.predictor", (*_HEEDFUL, "adaptive_sde")),), ("sampling.noise_scale",)),
    ((Where("sampling.predictor", ("adaptive",)),), ("sampling.tolerance",)),
    ((Where("sampling.predictor", ("adaptive_sde",)),), ("sampling.sde_rtol", "sampling.sde_atol")),
    ((Where("sampling.predictor", ADAPTIVE),), ("sampling.joint_steps", "sampling.max_steps")),
    ((Where("sampling.churn", (0.0,), but=True),), ("sampling.churn_min", "sampling.churn_max")),
    ((Where("sampling.corrector", ("none",), but=True),), ("sampling.num_corrections", "sampling.corrector_first")),
    ((Where("sampling.grid", ("edm",)),), ("sampling.rho",)),
    ((Where("sampling.thresholding", ("dynamic",)),), ("sampling.threshold_quantile",)),
    ((Where("likelihood.num_steps", (0,)),), ("likelihood.tolerance",)),
    ((Where("likelihood.num_steps", (0,), but=True),), (
        "likelihood.grid", "likelihood.order", "likelihood.fresh_probes"
    )),
    ((Where("likelihood.num_probes", (0,), but=True),), ("likelihood.probe_kind", "likelihood.fresh_probes")),
    ((Where("likelihood.num_dequantizations", (1,), but=True),), ("likelihood.importance_weighted",)),
    ((Where("sde.schedule", ("continuous",), but=True),), ("likelihood.chain_terms",)),
    ((Where("evaluation.num_samples", (0,), but=True),), (
        *(f"evaluation.{name}" for name in ("metrics", "extractor", "weights", "reference", "reference_split")),
        *("evaluation.reference_examples", "evaluation.keep_features"),
    )),
    ((Where("evaluation.reference", ("",)),), ("evaluation.reference_split", "evaluation.reference_examples")),
)  # fmt: skip


def _rules() -> Iterator[tuple[tuple[Where, ...], tuple[str, ...]]]:
    for selector, classes in _CLASSES.items():
        group = selector.partition(".")[0]
        for field in _of_group(group, (selector.partition(".")[2],)):
            having = tuple(name for name, known in classes.items() if field.partition(".")[2] in known)
            if 0 < len(having) < len(classes):
                yield (Where(selector, having),), (field,)
    yield from _TABLE


#: Conditions, of which one must hold, and the fields that are read only then.
RULES = tuple(_rules())

#: The groups of which a purpose reads every field for which the conditions hold.
_GROUPS: Mapping[Purpose, tuple[str, ...]] = {
    "train": ("sde", "parameterization", "model", "objective", "optim"),
    "sample": ("sampling",),
    "likelihood": ("likelihood",),
    "evaluate": ("evaluation",),
}
# What a purpose takes from elsewhere.
_SWEPT = ("predictor", "num_steps", "tolerance", "sde_rtol", "sde_atol", "joint_steps", "max_steps", "num_samples")
_CORRECTED = ("corrector", "snr", "per_sample", "num_corrections", "corrector_first")
_ELSEWHERE: Mapping[Purpose, tuple[str, tuple[str, ...]]] = {
    "pareto": ("config.pareto", tuple(f"sampling.{name}" for name in (*_SWEPT, *_CORRECTED))),
    "evaluate": ("config.evaluation", ("sampling.num_samples",)),
}


def unread(config: ConfigDict, purposes: Collection[Purpose], given: Collection[str]) -> Iterator[str]:
    """Sentences about fields that somebody has given a value and that have no effect on what is going to be done.

    A configuration file may hold values for more than one use; what is given by hand is meant for this one.

    Args:
        config: A configuration without mistakes.
        purposes: What it is used for.
        given: The fields that somebody has set; at its default none is mentioned.

    >>> from score_sde.config import default_config
    >>> config = default_config()
    >>> config.sampling.eta = 0.5
    >>> [list(unread(config, [purpose], ["sampling.eta"])) for purpose in ("train", "sample")]
    [[], ['config.sampling.eta=0.5 has no effect with config.sampling.predictor=euler_maruyama: it is read where ...']]
    """
    values = leaves(config)
    wanted = {group for purpose in purposes for group in _GROUPS.get(purpose, ())}
    without_effect: dict[tuple[Where, ...], list[str]] = {}
    for field, conditions in _failing(values).items():
        if field in given and field.partition(".")[0] in wanted and values[field] != FIELDS[field].default:
            without_effect.setdefault(conditions, []).append(field)
    for conditions, fields in without_effect.items():
        selectors = dict.fromkeys(where.field for where in conditions)
        found = " and ".join(f"config.{name}={_word(values[name])}" for name in selectors)
        where = " or ".join(map(str, conditions))
        has, it_is = plural(len(fields), "has", "have"), plural(len(fields), "it is", "they are")
        yield f"{_named(fields, values)} {has} no effect with {found}: {it_is} read where {where}."
    for purpose in purposes:
        place, names = _ELSEWHERE.get(purpose, ("", ()))
        if fields := [field for field in names if field in given and values[field] != FIELDS[field].default]:
            yield f"{_named(fields, values)} {plural(len(fields), 'has', 'have')} no effect here: {place} is read."


def _named(fields: Collection[str], values: Mapping[str, Any]) -> str:
    return " and ".join(f"config.{field}={_word(values[field])}" for field in fields)


def _failing(values: Mapping[str, Any]) -> dict[str, tuple[Where, ...]]:
    """Of every field that is not read the first conditions of which none holds."""
    found: dict[str, tuple[Where, ...]] = {}
    for conditions, fields in RULES:
        if not any(where.holds(values) for where in conditions):
            for field in fields:
                found.setdefault(field, conditions)
    return found
