"""Images drawn given observations of them, and how good the draws are: error, misfit, and the coverage of intervals."""

import functools
import json
import math
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.conditioning.degradations import DEGRADATIONS, Degradation, observe
from score_sde.conditioning.operators import observed_shape
from score_sde.conditioning.solving import pseudo_inverse
from score_sde.config import build
from score_sde.data.given import Given
from score_sde.distributed import batch_sharding, jit, shared_size, spread
from score_sde.errors import UserError, refuse
from score_sde.evaluation.base import Purpose, fingerprint, mean_and_std_error, root_key, sample_seed
from score_sde.evaluation.partial import Partial
from score_sde.evaluation.restorers import RESTORERS, Observed, problems_of_method
from score_sde.evaluation.samples import solved_in_parts
from score_sde.experiment import Experiment
from score_sde.fields import DEFAULTS
from score_sde.keys import fold_in, sample_keys
from score_sde.quantization import PLACES, Quantization
from score_sde.solvers.base import Solution
from score_sde.typing import Params, PRNGKey, SampleKeys
from score_sde.validation import need_score

_TAIL = 0.05  # share of the draws beyond each end of an interval
_MARGIN = 6.0  # standard deviations of the noise by which observations may leave the range of images
_OPERATOR, _IMAGES = 0, 1  # purposes of the keys derived from the key of observations
_DEQUANTIZATION, _NOISE = 0, 1  # and from the key of an image


class Observations(NamedTuple):
    """Observations of some images, in the range of the network."""

    y: np.ndarray  # ``(n, *observed)``
    truth: np.ndarray | None  # the images behind them ``(n, height, width, channels)``; ``None`` if they are unknown


class Quality(NamedTuple):
    """The draws for one image, summarized."""

    mean: np.ndarray  # mean of the draws
    std: np.ndarray  # their standard deviation, value by value
    misfit: float  # mean square of ``y - A x`` over draws and observations
    psnr_mean: float  # peak signal-to-noise ratio of the mean in dB; nan without the truth, as the next two
    psnr_draws: float  # mean of the ratios of the draws
    coverage: float  # share of the values within their intervals


def observed_of(experiment: Experiment) -> Observed:
    """The operator of ``config.conditioning``, the same for all images.

    Raises:
        UserError: If the data are no images, or operator, noise, method and sampler do not go together.
    """
    fields = experiment.settings.conditioning
    if experiment.latent is not None:
        raise UserError(f"config.model.name is {experiment.settings.model.name}, which has no score to restore with.")
    need_score(experiment.settings, "a restoration")
    if experiment.quantization.num_grey_levels is None:
        raise UserError(f"config.data.name is {experiment.settings.data.name}, which is of points; expected images.")
    height, width, channels = experiment.event_shape
    shape = (height, width, channels)
    key = jax.random.fold_in(root_key(experiment, Purpose.OBSERVATIONS), _OPERATOR)
    degradation: Degradation = build(DEGRADATIONS[fields.operator], fields)
    try:
        seen = Observed(degradation.operator(key, shape), degradation.known(key, shape))
    except UserError as error:
        raise UserError(f"config.conditioning.operator is {fields.operator}: {error}") from error
    refuse(problems_of_method(experiment, seen))
    return seen


def observations_of(experiment: Experiment, seen: Observed, given: Given) -> Observations:
    """The observations of given images, with noise of each image's own key; given observations as they are.

    The network saw images at some place of the bins of their gray levels (``objective.levels``), and so does a draw.

    Raises:
        UserError: If given observations have another shape than the operator makes, or lie far out of range.
    """
    if given.levels is None:
        assert given.y is not None
        return Observations(_checked(experiment, seen, given.y), given.truth)
    key = jax.random.fold_in(root_key(experiment, Purpose.OBSERVATIONS), _IMAGES)
    keys = sample_keys(key, 0, len(given.levels))
    place = functools.partial(PLACES[experiment.settings.objective.levels], experiment.quantization)
    truth = jax.vmap(place)(fold_in(keys, _DEQUANTIZATION), jnp.asarray(given.levels))
    noise_std = experiment.settings.conditioning.noise_std
    y = observe(fold_in(keys, _NOISE), seen.operator, truth, noise_std, seen.known)
    return Observations(np.asarray(y), np.asarray(truth))


def _checked(experiment: Experiment, seen: Observed, y: np.ndarray) -> np.ndarray:
    fields, shape = experiment.settings.conditioning, experiment.event_shape
    made = observed_shape(seen.operator, (len(y), *shape))
    if y.shape != made:
        raise UserError(
            f"{fields.images} has observations y of shape {y.shape}; expected {made}, as config.conditioning.operator="
            f"{fields.operator} makes of images of shape {shape}."
        )
    if seen.known is not None:  # anything may stand where nothing is known
        y = np.where(np.asarray(seen.known)[None], y, 0.0).astype(y.dtype)
    low, high = 1.0 - experiment.quantization.width, 1.0
    if not DEGRADATIONS[fields.operator].averages:
        high = max(-low, high) * math.sqrt(math.prod(shape))  # of a direction of length 1
        low = -high
    margin = _MARGIN * fields.noise_std + 1e-3
    known = y if seen.known is None else y[:, np.asarray(seen.known)]
    if known.min() < low - margin or known.max() > high + margin:
        raise UserError(
            f"{fields.images} has observations y from {known.min():g} to {known.max():g}; expected {low:g} to "
            f"{high:g}, the range of the network, and noise of config.conditioning.noise_std={fields.noise_std:g} "
            "around it. Scale them."
        )
    return y


def identity_of_restoration(experiment: Experiment, params: Params, observed: Observations) -> str:
    """The identity of restored images: settings, seeds, parameters and the observations themselves."""
    config = experiment.settings
    groups = {name: dict(config[name]) for name in ("sde", "parameterization", "model", "sampling")}
    # Fields of the guidance are left out while they guide as ever, for the identities of earlier results.
    usual = {
        name for name in ("guidance_interval", "rescale") if config.conditioning[name] == DEFAULTS.conditioning[name]
    }
    fields = {name: value for name, value in config.conditioning.items() if name not in {"images", *usual}}
    arrays = [zlib.crc32(np.ascontiguousarray(part).tobytes()) for part in observed if part is not None]
    known = [sample_seed(config), fingerprint(params), rows_at_once(experiment, len(observed.y)), arrays]
    return json.dumps([groups, fields, known])


def rows_at_once(experiment: Experiment, images: int) -> int:
    """Draws of one call of the compiled program, a multiple of the devices; whole images where they share a run."""
    fields, batch_size = experiment.settings.conditioning, experiment.settings.sampling.batch_size
    if not RESTORERS[fields.method].shares_run:
        return shared_size(experiment.mesh, min(batch_size, images * fields.draws))
    return fields.draws * shared_size(experiment.mesh, min(max(batch_size // fields.num_particles, 1), images))


def draw_restorations(
    experiment: Experiment, params: Params, seen: Observed, observed: Observations, kept: Partial
) -> Partial:
    """``conditioning.draws`` draws for each observation, image by image, and the evaluations of each.

    With ``conditioning.labels`` they are of these classes, which the images have in turn; without, of no class.
    Draw ``d`` for image ``i`` depends neither on the batch size nor on the numbers of draws and images.

    Raises:
        UserError: If a draw is not finite, or an adaptive solver gave one up.
    """
    fields, count = experiment.settings.conditioning, len(observed.y)
    restorer, size = RESTORERS[fields.method], rows_at_once(experiment, count)
    root = root_key(experiment, Purpose.RESTORATIONS)

    def draw(params: Params, images: Array, numbers: Array, y: Array) -> Solution:
        given = experiment.condition(params, images) if fields.labels else params
        return restorer.draw(experiment, seen, given, keys_of(root, images, numbers), y)

    program = jit(draw, out_shardings=batch_sharding(experiment.mesh))

    def rows(start: int) -> Solution:
        # Padding repeats draws of the last image.
        images, numbers = np.divmod(np.arange(start, start + size), fields.draws)
        images = np.minimum(images, count - 1)
        parts = (images.astype(np.uint32), numbers.astype(np.uint32), observed.y[images])
        return program(params, *(spread(experiment.mesh, part) for part in parts))

    each = {"size": size, "max_steps": experiment.settings.sampling.max_steps}
    return solved_in_parts(rows, count * fields.draws, **each, finish=lambda x: [x], kept=kept)


def keys_of(root: PRNGKey, images: Array, numbers: Array) -> SampleKeys:
    """The keys of draws, each by the number of its image and its own."""
    of_images = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(root, images)
    return jax.vmap(jax.random.fold_in)(of_images, numbers)


def interval_of(draws: int) -> tuple[int, float]:
    """The rank of the ends of an interval among sorted draws, and its coverage for a truth that is one more draw.

    It is the interval nearest to 90 % among those from the ``rank``-th smallest draw to the ``rank``-th largest.

    >>> interval_of(19), interval_of(40)[0], interval_of(3)
    ((1, 0.9), 2, (1, 0.5))
    """
    rank = max(round(_TAIL * (draws + 1)), 1)
    return rank, 1.0 - 2.0 * rank / (draws + 1)


def share_within(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Whether the interval of draws ``(draws, *event)`` holds the truth, value by value.

    Gray levels may be equal. The truth then has any place among its equals, and the share of these places within the
    interval counts, so that a truth that is one more draw is held as often as the interval says, whatever its law.

    >>> draws = np.arange(20.0)[1:, None]
    >>> [float(share_within(draws, np.array([truth]))[0]) for truth in (0.5, 1.5, 18.5, 19.5)]
    [0.0, 1.0, 1.0, 0.0]
    >>> share_within(np.full((19, 1), 7), np.array([7])).tolist()  # any of 20 places, the first and the last without
    [0.9]
    """
    rank, _ = interval_of(len(draws))
    below, equal = (draws < truth).sum(axis=0), (draws == truth).sum(axis=0)
    places = np.minimum(below + equal, len(draws) - rank) - np.maximum(below, rank) + 1
    return np.clip(places, 0, None) / (equal + 1)


def quality(
    experiment: Experiment, seen: Observed, y: np.ndarray, truth: np.ndarray | None, draws: np.ndarray
) -> Quality:
    """How good the draws ``(draws, *event)`` for one observation are."""
    residual = np.asarray(y[None] - seen.operator(jnp.asarray(draws)), np.float64)
    observed = residual if seen.known is None else residual[:, np.asarray(seen.known)]
    values = np.asarray(draws, np.float64)
    mean, misfit = values.mean(axis=0), float(np.mean(observed**2))
    found = Quality(mean, values.std(axis=0, ddof=1), misfit, math.nan, math.nan, math.nan)
    if truth is None:
        return found
    peak = experiment.quantization.width**2
    between = PLACES[experiment.settings.objective.levels] is Quantization.dequantize
    level = np.asarray if between else experiment.quantization.quantize  # to rounding, draws are on the levels
    inside = share_within(level(draws), level(truth))
    if seen.known is not None and experiment.settings.conditioning.noise_std == 0.0:
        inside = inside[~np.asarray(seen.known)]  # the others are known
    errors = np.mean((values - truth) ** 2, axis=tuple(range(1, values.ndim)))
    return found._replace(
        psnr_mean=10.0 * math.log10(peak / float(np.mean((mean - truth) ** 2))),
        psnr_draws=float(np.mean(10.0 * np.log10(peak / errors))),
        coverage=float(inside.mean()),
    )


def summary_of(found: list[Quality], noise_std: float) -> dict[str, Any]:
    """The means over the images, with their standard errors."""
    squares, error = mean_and_std_error(np.array([each.misfit for each in found]))
    misfit = math.sqrt(squares)
    report: dict[str, Any] = {"misfit": misfit, "misfit_std_error": error / (2.0 * misfit) if misfit else 0.0}
    if noise_std:
        report |= {"residual": misfit / noise_std, "residual_std_error": report["misfit_std_error"] / noise_std}
    for name in ("psnr_mean", "psnr_draws", "coverage"):
        values = np.array([getattr(each, name) for each in found])
        if np.isfinite(values).all():
            report[name], report[f"{name}_std_error"] = mean_and_std_error(values)
    return report


def entry_of(each: Quality, noise_std: float) -> dict[str, Any]:
    """The numbers of one image."""
    misfit = math.sqrt(each.misfit)
    report = {"misfit": misfit, **({"residual": misfit / noise_std} if noise_std else {})}
    known = {name: getattr(each, name) for name in ("psnr_mean", "psnr_draws", "coverage")}
    return report | {name: value for name, value in known.items() if math.isfinite(value)}


def in_image_space(seen: Observed, y: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Observations that are images as they are, and of others the smallest images that explain them."""
    if y.shape[1:] == shape:
        return y
    return np.asarray(pseudo_inverse(seen.operator, jnp.asarray(y), (len(y), *shape)))
