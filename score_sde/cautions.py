"""Warnings about a run's configuration and data, given before training starts.

None of them stops a run. Each names the fields, the consequence, and better values.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from score_sde.data import Source
from score_sde.diffusions import DIFFUSIONS, make_sde
from score_sde.errors import plural
from score_sde.fields import Settings
from score_sde.likelihood import DEQUANTIZATIONS
from score_sde.models.registry import NETWORKS
from score_sde.models.sizes import map_sizes, padded_size
from score_sde.outside.parts import Part
from score_sde.parameterization import CONDITIONS, PARAMETERIZATIONS
from score_sde.quantization import PLACES, Quantization
from score_sde.standardization import Standardization
from score_sde.training.ema import reconstruction_error, reconstruction_weights

_EXAMPLES = 10_000  # whose mean and deviation are taken
_NUMBERS = 2**25  # in these examples
_LEFT = 0.1  # share of the initialization in an average that deserves a warning
_ROUGH = 0.05  # error of a reconstructed average
_PERIODS = 1000.0  # of waves, from the least noise to the most; NCSN++ has 136
_FEW_PERIODS = 100.0
_PADDED = 1.5  # times as much work for padding
_MANY = 400  # snapshots, which reconstruct every width well


class DataScale(NamedTuple):
    """Location and spread of the training data, in the scale that the network sees."""

    mean: Float64[np.ndarray, " dimensions"]
    std: Float64[np.ndarray, " dimensions"]

    @property
    def size(self) -> float:
        """The largest root mean square of a dimension."""
        return float(np.sqrt(self.mean**2 + self.std**2).max())

    @property
    def overall_std(self) -> float:
        """Standard deviation of values about the mean of their dimension, over all dimensions."""
        return float(np.sqrt(np.mean(self.std**2)))


def scale_of(source: Source, *, centered: bool, standardization: Standardization | None = None) -> DataScale:
    """Mean and standard deviation of every dimension, from up to ten thousand examples spread over the data.

    They are in the scale that the network sees.

    >>> from score_sde.data import load_source
    >>> scale = scale_of(load_source("digits", "train"), centered=True)
    >>> scale.mean.shape, bool(abs(scale.mean).max() <= 1.0)
    ((64,), True)
    """
    count = max(1, min(_EXAMPLES, len(source), _NUMBERS // math.prod(source.info.shape)))
    rows = np.linspace(0, len(source) - 1, count).astype(int)
    examples = np.asarray(source.gather(rows), np.float64)
    values = examples if standardization is None else np.asarray(standardization.forward(examples))
    values = values.reshape(count, -1)
    if (levels := source.info.num_grey_levels) is not None:
        values = values / (levels - 1)
        values = 2.0 * values - 1.0 if centered else values
    return DataScale(values.mean(axis=0), values.std(axis=0))


def cautions(config: Settings, source: Source, standardization: Standardization | None = None) -> Iterator[str]:
    """All sentences about the training of a network on a training split, which may be standardized."""
    yield from run_cautions(config)
    yield from network_cautions(config, source.info.shape)
    continuous = source.info.num_grey_levels is None
    if continuous or _scales_input(config):
        scale = scale_of(source, centered=config.data.centered, standardization=standardization)
        yield from data_cautions(config, scale, continuous=continuous)


def run_cautions(config: Settings, group: str = "training") -> Iterator[str]:
    """Sentences about intervals in a configuration that do not fit the length of the run.

    The group is ``training``, or ``dequantizer`` or ``classifier`` for the run that trains one.
    """
    steps = config[group].num_steps
    optim = config.optim if group == "training" else config[group]
    name = "optim" if group == "training" else group
    yield from _average(f"config.{name}.ema_rate", optim.ema_rate, steps, warms_up=config.optim.ema_warmup)
    if optim.warmup >= steps:
        few = f"{steps // 10:,} or fewer" if steps >= 10 else "0"
        yield (
            f"config.{name}.warmup is {optim.warmup:,} and the run has {steps:,} {plural(steps, 'step')}: the learning "
            f"rate rises to the end, to {min(steps / optim.warmup, 1.0):.0%} of config.{name}.lr; set it to {few}."
        )
    every = {field: config[group].get(field, 0) for field in ("eval_every", "checkpoint_every", "sample_every")}
    if late := {field: value for field, value in every.items() if value > steps}:
        listed = ", ".join(f"{field}={value:,}" for field, value in late.items())
        length = f"{steps:,} {plural(steps, 'step')}"
        yield f"config.{group} has {listed}, and the run has {length}: this happens once, after the last step."
    if group == "training":
        yield from _power_averages(config)


def network_cautions(config: Settings, event_shape: tuple[int, ...]) -> Iterator[str]:
    """Sentences about noise that the network cannot tell, attention on maps that it lacks, and much padding."""
    yield from _waves(config)
    model = config.model
    if not config.reads("model.attention_resolutions") or len(event_shape) < 2:
        return
    levels = len(model.channel_multipliers)
    heights = map_sizes(event_shape[0], levels, model.patch_size)
    if missing := [height for height in model.attention_resolutions if height not in heights]:
        yield (
            f"config.model.attention_resolutions has {', '.join(map(str, missing))}, and the feature maps have heights "
            f"{', '.join(map(str, heights))}: there is no attention for it. Set it to some of these, or to ()."
        )
    factor = model.patch_size * 2 ** (levels - 1)
    size, padded = event_shape[:-1], [padded_size(length, factor) for length in event_shape[:-1]]
    if (share := math.prod(padded) / math.prod(size)) > _PADDED:
        yield (
            f"The network halves data of {'x'.join(map(str, size))} {plural(levels - 1, 'time')}, for which it pads "
            f"them to {'x'.join(map(str, padded))}: {share:.1f} times the work. Take fewer entries in "
            "config.model.channel_multipliers."
        )


def _waves(config: Settings) -> Iterator[str]:
    """The sentence about waves of the noise condition that are too short for neighboring levels to look alike."""
    if not config.reads("model.fourier_scale"):
        return
    kind, scale, sde = PARAMETERIZATIONS[config.parameterization.output], config.model.fourier_scale, make_sde(config)
    name = {**config.parameterization, **kind.fixed}["condition_on"]
    ends = CONDITIONS[name](sde, jnp.array([config.objective.t_min, 1.0]), config.parameterization.num_scales)
    if (periods := scale * float(jnp.abs(ends[1] - ends[0]))) > _PERIODS:
        yield (
            f"config.model.fourier_scale is {scale:g}, and config.parameterization.condition_on={name} takes the waves "
            f"of the noise through about {periods:,.0f} periods: neighboring noise levels look unrelated to the "
            "network. Set config.parameterization.condition_on=log_noise, or config.model.fourier_scale="
            f"{_FEW_PERIODS * scale / periods:.2g}."
        )


def likelihood_cautions(config: Settings, *, continuous: bool) -> Iterator[str]:
    """Sentences about dequantization noise that the network was not trained with, before a likelihood is measured."""
    name, levels = config.likelihood.dequantization, config.objective.levels
    if not DEQUANTIZATIONS[name].decodes or NETWORKS[config.model.name].is_latent:
        return
    if continuous:
        yield (
            f"config.likelihood.dequantization={name} has no effect: {config.data.name} has no gray levels; leave it "
            "out."
        )
    elif PLACES[levels] is Quantization.dequantize:
        yield (
            f"config.likelihood.dequantization={name} asks for images in the middle of their bins with little noise, "
            f"and config.objective.levels={levels} trained the network anywhere in the bins: the likelihood suffers. "
            "Set config.likelihood.dequantization=uniform, or train with config.objective.levels=midpoints."
        )


def restoration_cautions(config: Settings, products: int) -> Iterator[str]:
    """Sentences about a network whose derivatives are noise, for a method that takes products with its Jacobian."""
    if products and config.reads("model.damped_waves") and not config.model.damped_waves:
        yield (
            f"config.conditioning.method={config.conditioning.method} takes derivatives of the network, and those of "
            "its waves (config.model.input_frequencies) are large where noise hides them: draws may be far from the "
            "observation. Set config.conditioning.method=daps, or train with config.model.damped_waves=True."
        )


def data_cautions(config: Settings, scale: DataScale, *, continuous: bool) -> Iterator[str]:
    """Sentences about data far from the scale that the configuration assumes.

    Continuous data are arbitrary numbers; images of gray levels always lie in their range.
    """
    diffusion = DIFFUSIONS[config.sde.name]
    if not np.isfinite(scale.mean).all() or not np.isfinite(scale.std).all():
        yield "The training data have values that are not finite; nothing can be learned from them."
        return
    if NETWORKS[config.model.name].is_latent:
        return
    data_std = config.parameterization.data_std
    ratio = scale.overall_std / data_std
    if _scales_input(config) and not 1 / 3 < ratio < 3:
        yield (
            f"The training data have standard deviation {scale.overall_std:.3g}, and config.parameterization.data_std "
            f"is {data_std:g}, by which inputs are scaled; set it to {scale.overall_std:.2g}."
        )
    if not continuous:
        return
    where = f"The training data lie at {_range(scale.mean)} with standard deviations of {_range(scale.std)}"
    known = not isinstance(diffusion.sde, Part)
    if known and diffusion.keeps_data and config.sde.sigma_max < scale.size:
        yield (
            f"{where}, and config.sde.sigma_max={config.sde.sigma_max:g} does not cover them: samples begin elsewhere. "
            "Set it to the largest distance between two examples."
        )
    if known and not diffusion.keeps_data and scale.size > 10.0:
        yield (
            f"{where}, and {config.sde.name} assumes values of about 1: noise of variance 1 does not cover them. "
            "Set config.data.standardize=columns."
        )
    t_min = config.objective.t_min
    if diffusion.early_std is not None:  # a marginal would cost a program before the first step
        smallest = diffusion.early_std(config.sde, t_min)
    else:
        smallest = float(make_sde(config).marginal(jnp.float32(t_min)).std)
    yield from _spreads(scale, smallest, where)


def _scales_input(config: Settings) -> bool:
    fields = config.parameterization
    return PARAMETERIZATIONS[fields.output].fixed.get("scale_input", fields.scale_input)


def _spreads(scale: DataScale, smallest: float, where: str) -> Iterator[str]:
    """Sentences about dimensions that vary too little for the standard deviation of the smallest noise."""
    constant = scale.std < 1e-12 * np.maximum(1.0, np.abs(scale.mean))
    if constant.all():
        yield "The training examples are all alike: nothing can be learned but this one."
    elif constant.any():
        yield "A dimension of the training data is constant: nothing can be learned of it. Leave it out."
    elif (least := float(scale.std.min())) < 3.0 * smallest:
        yield (
            f"A dimension of the training data varies by {least:.2g} only, and the smallest noise is {smallest:.2g}: "
            "what it does is not learned. Leave it out, or set config.data.standardize=columns."
        )
    elif float(scale.std.max()) > 100.0 * least:
        advice = "Standardize them one by one, with config.data.standardize=columns."
        yield f"{where}: the smallest are lost beside the largest. {advice}"


def _average(name: str, rate: float, steps: int, *, warms_up: bool) -> Iterator[str]:
    left = 0.0 if warms_up else rate**steps
    if left > _LEFT:
        better = f"{1.0 - float(f'{10.0 / steps:.0e}'):g}" if steps > 20 else "0"
        yield (
            f"{name} is {rate:g}, an average over {1.0 / (1.0 - rate):,.0f} steps, and the run has {steps:,}: "
            f"{left:.0%} of the parameters that are sampled and measured are the initialization. Set {name}={better}, "
            "or config.optim.ema_warmup=True."
        )


def _power_averages(config: Settings) -> Iterator[str]:
    widths, every, steps = config.optim.ema_widths, config.optim.ema_snapshot_every, config.training.num_steps
    if not widths:
        return
    often = max(steps // 30 // config.training.log_every, 1) * config.training.log_every
    if not every:
        yield (
            f"config.optim.ema_widths is {widths} and config.optim.ema_snapshot_every is 0: the averages are computed "
            f"and never kept. Set config.optim.ema_snapshot_every={often}."
        )
        return
    taken = sorted({*range(every, steps + 1, every), steps})
    if len(taken) > _MANY:
        return
    pairs = [(step, width) for step in taken for width in widths]
    times, known = zip(*pairs, strict=True)
    target = {"target_width": math.sqrt(min(widths) * max(widths)), "target_time": steps}
    error = reconstruction_error(reconstruction_weights(times, known, **target), times, known, **target)
    if error > _ROUGH:
        yield (
            f"config.optim.ema_snapshot_every is {every:,}, and the run has {steps:,} {plural(steps, 'step')}: "
            f"{len(taken)} {plural(len(taken), 'snapshot gives', 'snapshots give')} the "
            f"average of width {target['target_width']:.2g} with an error of {error:.0%}. Set it to {often}."
        )


def _range(values: Float64[np.ndarray, " dimensions"]) -> str:
    low, high = f"{values.min():.3g}", f"{values.max():.3g}"
    return low if low == high else f"{low} to {high}"
