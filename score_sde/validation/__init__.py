"""Checks of the combinations of fields; the range of each field alone is in ``fields/``.

Every check yields one sentence per problem, and only about fields that the purposes read.
"""

import functools
import math
from collections.abc import Collection, Iterator

from score_sde.data import STANDARDIZATIONS
from score_sde.diffusions import on_chain
from score_sde.fields import FIELDS, Settings
from score_sde.fields.conditions import shown
from score_sde.fields.training import DISPATCHED
from score_sde.likelihood import DEQUANTIZATIONS
from score_sde.methods import METHODS, make_predictor
from score_sde.models.layers import EMBEDDINGS
from score_sde.models.normalization import NORMALIZATIONS
from score_sde.models.registry import NETWORKS
from score_sde.models.sizes import dequantizer_count, feature_numbers, possible_sizes
from score_sde.parameterization import LEVEL_CONDITIONS, PARAMETERIZATIONS, THRESHOLDS
from score_sde.solvers import CORRECTORS, Solver, follows_of
from score_sde.solvers.pairing import follows_drift
from score_sde.training.objective import VARIANCES
from score_sde.validation.classes import class_problems
from score_sde.validation.few_steps import check_steps, few_step_problems, has_score, need_score
from score_sde.validation.objective import augmentation_problems, level_problems, objective_problems, time_problems
from score_sde.validation.purposes import PURPOSES, Purpose, purposes_of

__all__ = [
    "PURPOSES",
    "Purpose",
    "check_steps",
    "class_problems",
    "has_score",
    "need_score",
    "problems_of",
    "purposes_of",
]

_MAX_PARAMETERS = 1e11  # 400 GB in float32, and as much again for every moment and average
_MAX_BATCH = 1e12  # numbers in a batch
_MAX_SAMPLES = 1e13  # numbers in all samples
_MAX_PAIRS = 2e8  # pairs of a time and a level, which are compared to find the nearest


def problems_of(
    config: Settings,
    event_shape: tuple[int, ...],
    num_grey_levels: int | None,
    purposes: Collection[Purpose],
    *,
    own: bool = False,
) -> Iterator[str]:
    """Sentences about values that do not go together.

    The fields have been checked one by one. Fields that the purposes do not read are not checked. Continuous data have
    ``None`` gray levels. A network of one's ``own`` may stand in for the one of ``config.model``.
    """
    wanted = set(purposes)
    if num_grey_levels is not None and STANDARDIZATIONS[config.data.standardize] is not None:
        yield (
            f"config.data.standardize is {config.data.standardize}, and {config.data.name} has {num_grey_levels} gray "
            "levels, whose scale is config.data.centered; expected none."
        )
    yield from objective_problems(config)
    yield from level_problems(config, num_grey_levels, own=own)
    yield from augmentation_problems(config, event_shape)
    yield from few_step_problems(config, wanted, own=own)
    yield from _network(config, event_shape)
    largest = _largest(config, event_shape, num_grey_levels)
    batch = functools.partial(_batch, config, event_shape=event_shape, largest=largest)
    if "train" in wanted:
        yield from _trained(config, event_shape)
        yield from _averages(config)
        yield from _intervals(config, "training")
        yield from batch("training")
    if "dequantize" in wanted:
        yield from _intervals(config, "dequantizer")
        yield from batch("dequantizer")
        yield from _dequantizer(config, event_shape)
    if "guide" in wanted:
        yield from _intervals(config, "classifier")
        yield from batch("classifier")
    if wanted & {"train", "evaluate"}:
        yield from time_problems(config)
    if wanted & {"sample", "pareto"}:
        yield from batch("sampling")
        yield from _sampling(config, event_shape)
    if "sample" in wanted and not NETWORKS[config.model.name].is_latent:
        yield from _solver(config)
    if "likelihood" in wanted:
        yield from _likelihood(config, event_shape)
        yield from batch("likelihood")
    draws = wanted & {"sample", "pareto"} or ("train" in wanted and config.training.sample_every)
    if draws and num_grey_levels is None and config.sampling.thresholding in THRESHOLDS:
        yield "Thresholding clips to the range of images; set config.sampling.thresholding=none."


def _network(config: Settings, event_shape: tuple[int, ...]) -> Iterator[str]:
    model, family = config.model, NETWORKS[config.model.name]
    count = family.num_parameters(dict(model), event_shape, config.parameterization.num_scales)
    yield from _size(config, "model", count, _SIZES[family.is_latent])
    if config.reads("model.fir_kernel") and not any(model.fir_kernel):
        yield f"config.model.fir_kernel is {model.fir_kernel}; expected at least one weight above 0."
    yield from _waves(config)
    groups = getattr(NORMALIZATIONS[model.normalization](), "num_groups", 1)
    if config.reads("model.normalization") and model.features % groups:
        yield (
            f"config.model.features is {model.features}, and config.model.normalization={model.normalization} makes "
            f"{groups} groups of them; expected a multiple of {groups}, or another normalization."
        )


def _waves(config: Settings) -> Iterator[str]:
    """Sentences about waves that cannot be damped, since the network is not told the noise of what it sees."""
    if not config.reads("model.damped_waves") or not config.model.damped_waves:
        return
    seen = {**config.parameterization, **PARAMETERIZATIONS[config.parameterization.output].fixed}
    if seen["scale_input"]:
        yield (
            "config.model.damped_waves is True and the parameterization scales its inputs, whose noise the network "
            "does not know then; expected config.parameterization.scale_input=False and an output that allows it, or "
            "config.model.damped_waves=False."
        )
    elif seen["condition_on"] != "log_noise":
        yield (
            f"config.model.damped_waves is True and config.parameterization.condition_on is {seen['condition_on']}, "
            "which does not tell the network the noise; expected condition_on=log_noise, or "
            "config.model.damped_waves=False."
        )


_SIZES = {False: ("features", "channel_multipliers", "num_blocks"), True: ("channels", "widths", "latent_dim")}


def _trained(config: Settings, event_shape: tuple[int, ...]) -> Iterator[str]:
    """Sentences about values that new runs may not train with, though old runs may have."""
    model, parameterization, family = config.model, config.parameterization, NETWORKS[config.model.name]
    if family.needs_embedding and model.embedding not in EMBEDDINGS:
        yield (
            f"config.model.embedding is {model.embedding}, and the {model.name} always embeds the noise; expected "
            f"{' or '.join(EMBEDDINGS)}."
        )
    if family.looks_up_level and parameterization.condition_on not in LEVEL_CONDITIONS:
        yield (
            f"config.parameterization.condition_on is {parameterization.condition_on}, and config.model.name="
            f"{model.name} looks up the number of a level; expected descending_level, or another network, such as "
            "ncsnv2_64."
        )
    if config.reads("model.attention_resolutions") and len(event_shape) > 1:
        heights = possible_sizes(event_shape[0], len(model.channel_multipliers), model.patch_size)
        missing = [height for height in model.attention_resolutions if height not in heights]
        if missing and model.attention_resolutions != FIELDS["model.attention_resolutions"].default:
            yield (
                f"config.model.attention_resolutions is {shown(model.attention_resolutions)}, and the feature maps of "
                f"such images have heights {', '.join(map(str, heights))}; expected some of these, or ()."
            )


def _averages(config: Settings) -> Iterator[str]:
    widths, every, log_every = config.optim.ema_widths, config.optim.ema_snapshot_every, config.training.log_every
    if every % log_every:
        yield (
            f"config.optim.ema_snapshot_every is {every}; expected a multiple of config.training.log_every, "
            f"{log_every}, or 0 for no snapshots."
        )
    if every and not widths:
        yield (
            f"config.optim.ema_snapshot_every is {every} and there are no averages to take snapshots of; set "
            "config.optim.ema_widths=(0.05,0.10), or config.optim.ema_snapshot_every=0."
        )


def _intervals(config: Settings, group: str) -> Iterator[str]:
    settings = config[group]
    pairs = [
        *((name, "steps_per_dispatch", "because these steps are one program") for name in DISPATCHED),
        ("eval_every", "log_every", "because both go into one line of metrics"),
        ("checkpoint_every", "log_every", "so that resumed runs log the same means"),
        ("keep_every", "checkpoint_every", "because it chooses among these checkpoints"),
        ("batch_size", "accumulate", "because its parts are equal"),
    ]
    if settings.keep_best:
        pairs.append(("checkpoint_every", "eval_every", "so that every checkpoint has a loss to be judged by"))
    for name, unit, reason in pairs:
        if settings.get(name, 0) % (settings[unit] or 1):
            yield (
                f"config.{group}.{name} is {settings[name]}; expected a multiple of config.{group}.{unit}, "
                f"{settings[unit]}, {reason}."
            )


def _dequantizer(config: Settings, event_shape: tuple[int, ...]) -> Iterator[str]:
    if len(event_shape) == 3:
        count = dequantizer_count(dict(config.dequantizer), event_shape)
        yield from _size(config, "dequantizer", count, ("filters", "blocks", "num_flows", "components"))


def _size(config: Settings, group: str, count: float, names: Collection[str]) -> Iterator[str]:
    """The sentence about too many parameters, which these fields determine."""
    if count > _MAX_PARAMETERS:
        listed = ", ".join(f"config.{group}.{name}={shown(config[group][name])}" for name in names)
        yield (
            f"The {'network' if group == 'model' else group} would have about {count:.0e} parameters, "
            f"{4 * count / 1e12:,.0f} TB; expected at most {_MAX_PARAMETERS:.0e}. Its size is given by {listed}."
        )


def _largest(config: Settings, event_shape: tuple[int, ...], num_grey_levels: int | None) -> tuple[float, str]:
    """The numbers of an example where the network is largest, its feature maps or its logits, and their name."""
    numbers = maps = float(math.prod(event_shape))
    if not NETWORKS[config.model.name].is_latent:
        maps = feature_numbers(dict(config.model), event_shape)
    output = config.parameterization.output
    logits = numbers * (num_grey_levels or 0) if PARAMETERIZATIONS[output].of_levels else 0.0
    if logits > maps:
        return logits, f"config.parameterization.output is {output}: the array of logits"
    return maps, f"config.model.features is {config.model.features:,}: the feature maps"


def _batch(config: Settings, group: str, *, event_shape: tuple[int, ...], largest: tuple[float, str]) -> Iterator[str]:
    size = config[group].batch_size
    numbers, (maps, name) = size * math.prod(event_shape), (size * largest[0], largest[1])
    if maps > _MAX_BATCH:
        yield (
            f"config.{group}.batch_size is {size:,}, an example has shape {event_shape} and {name} of a batch would "
            f"have {maps:.0e} numbers, {4 * maps / 1e12:,.0f} TB; expected at most {_MAX_BATCH:.0e}."
        )
    if group != "training":
        return
    kept = config.data.prefetch * max(config.training.steps_per_dispatch, 1) * numbers
    if kept > _MAX_BATCH:
        yield (
            f"config.data.prefetch is {config.data.prefetch} and config.training.steps_per_dispatch "
            f"{config.training.steps_per_dispatch}: the batches kept ready would have {kept:.0e} numbers; expected at "
            f"most {_MAX_BATCH:.0e}."
        )


def _sampling(config: Settings, event_shape: tuple[int, ...]) -> Iterator[str]:
    sampling = config.sampling
    if (numbers := sampling.num_samples * math.prod(event_shape)) > _MAX_SAMPLES:
        yield (
            f"config.sampling.num_samples is {sampling.num_samples:,} and an example has shape {event_shape}: that is "
            f"{numbers:.0e} numbers; expected at most {_MAX_SAMPLES:.0e}."
        )
    if sampling.churn_min > sampling.churn_max:
        yield (
            f"config.sampling.churn_min is {sampling.churn_min:g} and config.sampling.churn_max is "
            f"{sampling.churn_max:g}; expected the first to be no larger."
        )
    if on_chain(config) and ((pairs := sampling.num_steps * config.parameterization.num_scales) > _MAX_PAIRS):
        yield (
            f"config.sampling.num_steps is {sampling.num_steps:,} and config.parameterization.num_scales is "
            f"{config.parameterization.num_scales:,}: {pairs:.0e} pairs of a step and a level; expected at most "
            f"{_MAX_PAIRS:.0e}."
        )


def _solver(config: Settings) -> Iterator[str]:
    name, schedule = config.sampling.predictor, config.sde.schedule
    method, corrected = make_predictor(name, config.sampling), config.sampling.corrector in CORRECTORS
    if on_chain(config) and follows_drift(method):
        others = [other for other, make in METHODS.items() if not follows_drift(make())]
        yield (
            f"The predictor {name} of config.sampling.predictor follows a drift, and a chain (config.sde.schedule="
            f"{schedule}) has none; expected one of {', '.join(sorted(others))}."
        )
    if follows_of(method) == "still" and not (corrected and config.sampling.num_corrections):
        missing = "num_corrections is 0" if corrected else "corrector is none"
        yield (
            f"config.sampling.predictor is {name} and config.sampling.{missing}: nothing would move; expected a "
            "predictor, or a corrector for Langevin dynamics at every level."
        )
    if (denoising := config.sampling.denoising) in getattr(method, "no_denoising", ()):
        yield (
            f"config.sampling.denoising is {denoising}, and the predictor {name} keeps the last step with its noise; "
            "expected tweedie or none."
        )
    if corrected and not isinstance(method, Solver):
        yield f"The predictor {name} takes no corrector; set config.sampling.corrector=none."
    elif corrected and getattr(method, "keeps_past", False):
        yield (
            f"The predictor {name} goes on from its own past, and a corrector would move the sample away "
            "from it; set config.sampling.corrector=none, or take dpm_solver_2s."
        )


def _likelihood(config: Settings, event_shape: tuple[int, ...]) -> Iterator[str]:
    likelihood, autoencoder = config.likelihood, NETWORKS[config.model.name].is_latent
    copies = "num_weights" if autoencoder else "num_probes"
    if (numbers := likelihood[copies] * likelihood.batch_size * math.prod(event_shape)) > _MAX_BATCH:
        yield (
            f"config.likelihood.{copies} is {likelihood[copies]:,} and config.likelihood.batch_size is "
            f"{likelihood.batch_size:,}: {numbers:.0e} numbers at a time; expected at most {_MAX_BATCH:.0e}."
        )
    if VARIANCES[config.parameterization.variances] is None and likelihood.chain_terms:
        yield (
            f"config.likelihood.chain_terms is {likelihood.chain_terms}, and the bound with learned variances "
            "takes all steps; expected config.likelihood.chain_terms=0."
        )
    kind = DEQUANTIZATIONS[likelihood.dequantization]
    if autoencoder and (kind.trained or kind.decodes):
        belongs = "is trained against a score" if kind.trained else "is the noise of a diffusion"
        yield (
            f"config.likelihood.dequantization is {likelihood.dequantization}, which {belongs}; expected uniform for "
            f"config.model.name={config.model.name}."
        )
    if kind.decodes and likelihood.decoder:
        yield (
            f"config.likelihood.decoder is True, and config.likelihood.dequantization={likelihood.dequantization} has "
            "the noise of t_min already; expected config.likelihood.decoder=False."
        )
