"""Samples of a trained model, with the solver of its configuration, and latent codes of data under it."""

import functools
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.distributed import batch_sharding, everywhere, gathered, jit, shared_size, spread
from score_sde.errors import UserError, plural
from score_sde.evaluation.base import Purpose, fingerprint, root_key, sample_seed, statistics_of
from score_sde.evaluation.partial import Partial
from score_sde.experiment import Experiment
from score_sde.labels import Conditioned, Labeled, conditioned
from score_sde.likelihood.latents import decode, encode, interpolate
from score_sde.sampling import FixedSteps
from score_sde.solvers.base import Solution
from score_sde.typing import Params, PRNGKey
from score_sde.validation import has_score

_ROWS, _COLUMNS = 8, 10  # interpolated pairs of examples, and points of each
SKETCH_STEPS = 24  # of a second-order probability-flow solver: enough to see progress, cheap beside training


class DrawnSamples(NamedTuple):
    """Samples, in the scale of the model or as mapped by ``finish``, and their cost."""

    x: np.ndarray
    num_evals: float  # of the score, mean over the samples
    num_evals_max: int
    seconds: float


def draw_samples(
    experiment: Experiment,
    params: Params,
    *,
    finish: Callable[[np.ndarray], np.ndarray] = lambda x: x,
    kept: Partial | None = None,
) -> DrawnSamples:
    """``sampling.num_samples`` samples from ``sampling.first`` on, with the configured solver.

    Sample ``i`` depends neither on the batch size nor on the number of samples.

    ``finish`` maps a batch of samples to the array to keep. An interrupted call resumes from ``kept`` to the same bits;
    it is in memory only unless given, and arrays are read from its file lazily.

    Raises:
        UserError: If a sample is not finite, or an adaptive solver gave one up.
    """
    draw = compiled_sampler(experiment)
    kept = draw_in_parts(
        experiment,
        lambda *where: draw(params, *where),
        experiment.settings.sampling.num_samples,
        finish=lambda x: [finish(x)],
        kept=kept or Partial(),
    )
    x, num_evals = kept.columns()
    return DrawnSamples(x, float(num_evals.mean()), int(num_evals.max()), kept.seconds)


def draw_in_parts(
    experiment: Experiment,
    draw: Callable[[PRNGKey, tuple[int, ...], int], Solution],
    total: int,
    *,
    finish: Callable[[np.ndarray], list[np.ndarray]],
    kept: Partial,
) -> Partial:
    """Draw the missing ones of the first ``total`` samples; keep ``finish`` of each batch and its cost.

    Raises:
        UserError: If a sample is not finite, an adaptive solver gave one up, or the configured classifier would guide
            nothing.
    """
    if experiment.settings.conditioning.classifier and experiment.classifier is None:
        raise UserError(
            f"config.conditioning.classifier is {experiment.settings.conditioning.classifier}, and it was not loaded: "
            "expected the run and the parameters of modes.guiding.guided_by_classifier, or no classifier."
        )
    settings = experiment.settings.sampling
    size = shared_size(experiment.mesh, min(settings.batch_size, total))
    key, shape = root_key(experiment, Purpose.SAMPLES), (size, *experiment.event_shape)
    each = {"size": size, "max_steps": settings.max_steps}
    return solved_in_parts(
        lambda start: draw(key, shape, settings.first + start), total, **each, finish=finish, kept=kept
    )


def solved_in_parts(
    draw: Callable[[int], Solution],
    total: int,
    *,
    size: int,
    max_steps: int,
    finish: Callable[[np.ndarray], list[np.ndarray]],
    kept: Partial,
) -> Partial:
    """Draw the missing batches of ``size`` of ``total`` examples, given the number of their first example.

    Raises:
        UserError: If a sample is not finite, or an adaptive solver gave one up.
    """
    for number, start in enumerate(range(0, total, size)):
        count = min(size, total - start)
        if number >= kept.batches:
            began = time.perf_counter()
            x, num_evals, success = (part[:count] for part in gathered(draw(start)))
            check_samples(x, success, max_steps)
            kept.add([*finish(x), num_evals], time.perf_counter() - began)
        kept.progress(count)
    return kept


def sketch(experiment: Experiment, count: int) -> Callable[[Params], np.ndarray]:
    """A function from parameters to ``count`` samples as levels, always from the same initial noise and no other.

    It takes a few steps of DPM-Solver++ (2M), whatever solver ``config.sampling`` names, and is compiled once. A model
    of few steps takes those of ``config.sampling``.
    """
    mesh, size = experiment.mesh, shared_size(experiment.mesh, count)
    sketched = {"predictor": "dpm_solver_2m", "corrector": "none", "grid": "log_snr", "num_steps": SKETCH_STEPS}
    steps = sketched if has_score(experiment.settings) else {}

    @functools.cache
    def program() -> Callable[[Params, PRNGKey], Array]:
        # Made with the first samples: its grid alone takes the compiler a second, which no training should begin with.
        sampler = experiment.with_sampling(**steps).sampler
        return jit(
            lambda params, key: sampler(params, key, (size, *experiment.event_shape), 0)[0],
            out_shardings=batch_sharding(mesh),
        )

    def samples(params: Params) -> np.ndarray:
        x = gathered(program()(everywhere(mesh, params), root_key(experiment, Purpose.PROGRESS)))
        return experiment.quantization.quantize(x[:count])

    return samples


def identity_of_samples(experiment: Experiment, params: Params) -> str:
    """The identity of samples: settings, seed, parameters, and batch size, on which some correctors depend."""
    config, quantization = experiment.settings, experiment.quantization
    groups = ("sde", "parameterization", "model", "sampling")
    known = [sample_seed(config), fingerprint(params), shared_size(experiment.mesh, config.sampling.batch_size)]
    data = [experiment.event_shape, quantization.num_grey_levels, quantization.centered, *statistics_of(experiment)]
    fields = {name: dict(config[name]) for name in groups}
    return json.dumps([fields, known, data, *guidance_of(experiment)])


def guidance_of(experiment: Experiment) -> list[list[Any]]:
    """Classes and guidance in the identity of samples, besides the parameters; nothing for samples of no class."""
    fields = experiment.settings.conditioning
    if not experiment.sampled_classes:
        return []
    classes: list[list[Any]] = [[experiment.num_classes, experiment.sampled_classes, fields.scale]]
    if experiment.classifier is not None:
        classes += [[fields.classifier_scale]]
    limits = [list(fields.guidance_interval), fields.rescale]
    return classes if limits == [[], 0.0] else [*classes, limits]


def sampled_labels(experiment: Experiment, count: int, first: int = 0) -> np.ndarray | None:
    """The class of each of some samples; ``None`` for a run without labels."""
    classes = np.asarray(experiment.sampled_classes, np.int32)
    return classes[(first + np.arange(count)) % len(classes)] if len(classes) else None


def in_rows(labels: np.ndarray | None) -> tuple[np.ndarray | slice, int | None]:
    """The places of samples in a grid with a row for each class, and its columns.

    Where a class has a single sample, and without labels, all samples keep their order, and the grid has no rows of
    classes.

    >>> place, columns = in_rows(np.array([3, 7, 3, 7, 3]))
    >>> place.tolist(), columns
    ([0, 2, 1, 3], 2)
    """
    if labels is None:
        return slice(None), None
    _, first, counts = np.unique(labels, return_index=True, return_counts=True)
    if counts.min() < 2:
        return slice(None), None
    places = [np.flatnonzero(labels == labels[index])[: counts.min()] for index in np.sort(first)]
    return np.concatenate(places), int(counts.min())


def compiled_sampler(experiment: Experiment) -> Callable[..., Solution]:
    """The configured sampler ``(params, key, shape, first) -> Solution``, with samples sharded over the devices."""
    return jit(experiment.sampler, static_argnums=2, out_shardings=batch_sharding(experiment.mesh))


def check_samples(x: np.ndarray, success: np.ndarray, max_steps: int) -> None:
    """Refuse samples that are not finite or that an adaptive solver gave up."""
    infinite = int((~np.isfinite(x)).reshape(len(x), -1).any(axis=1).sum())
    if infinite:
        raise UserError(
            f"{infinite} of {len(x)} {plural(len(x), 'sample is', 'samples are')} not finite: either the score of "
            "the network is not, or the steps are too large for this process. Raise "
            "config.sampling.num_steps or lower config.sampling.snr; where denoised images leave their range, set "
            "config.sampling.thresholding=static."
        )
    if not success.all():
        raise UserError(
            f"{int((~success).sum())} of {len(x)} {plural(len(x), 'sample')} did not reach config.sampling.t_min in "
            f"{max_steps} attempted steps; raise config.sampling.max_steps or the tolerance."
        )


def draw_trajectory(
    experiment: Experiment, params: Params, steps: FixedSteps, *, count: int, frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Samples at ``frames`` times between the prior and the data, and these times."""
    run, chosen = trajectory_program(steps, (count, *experiment.event_shape), frames)
    path = gathered(run(params, root_key(experiment, Purpose.SAMPLES), experiment.settings.sampling.first))
    return path, np.asarray(steps.times, np.float64)[chosen]


def trajectory_program(
    steps: FixedSteps, shape: tuple[int, ...], frames: int
) -> tuple[Callable[[Params, PRNGKey, Array | int], Array], np.ndarray]:
    """The compiled program ``(params, key, first) -> path`` of :func:`draw_trajectory`, and the times of its frames."""
    times = np.asarray(steps.times, np.float64)
    # Uniform in sqrt(t): most visible change happens late, at small times.
    wanted = np.linspace(1.0, np.sqrt(times[-1]), frames) ** 2
    chosen = np.abs(times[None] - wanted[:, None]).argmin(axis=1)
    return jit(lambda params, key, first: steps.path(params, key, shape, first, frames=chosen)), chosen


class LatentCodes(NamedTuple):
    """Codes of data, their reconstructions, and interpolations between the first ones."""

    codes: np.ndarray
    decoded: np.ndarray  # rounded to gray levels, as the data
    between: np.ndarray  # (points, pairs, *event), rounded
    round_trip_rms: float  # of encoded minus decoded data, in the scale of the model
    num_evals: float  # mean, one way
    seconds: float


def latent_codes(
    experiment: Experiment, params: Params, levels: np.ndarray, labels: np.ndarray | None = None
) -> LatentCodes:
    """Carry data along the probability flow to noise and back, and interpolate between the codes of pairs.

    The tolerances are the likelihood's: a code is the endpoint of its solve. With labels the flow is of the class of
    each example, and between two examples of the class of the nearer one.

    Raises:
        UserError: If a solve is given up.
    """
    settings, sde = experiment.settings.likelihood, experiment.sde
    accuracy = {"t_end": settings.t_min, "tolerance": settings.tolerance}

    @jit
    def there_and_back(params: Params, key: PRNGKey, batch: Any) -> Any:
        params, levels = conditioned(params, batch)
        x = experiment.prepare(key, levels)
        codes = encode(sde, experiment.score_fn(params), x, **accuracy)
        return x, codes, decode(sde, experiment.score_fn(params), codes.y, **accuracy)

    start = time.perf_counter()
    # Repeating the last one pads the rows, so that they divide evenly over the devices.
    rows = np.minimum(np.arange(shared_size(experiment.mesh, len(levels))), len(levels) - 1)
    examples = levels[rows] if labels is None else Labeled(levels[rows], labels[rows])
    batch = jax.tree.map(lambda part: spread(experiment.mesh, part), examples)
    found = there_and_back(params, root_key(experiment, Purpose.LATENTS), batch)
    x, codes, back = jax.tree.map(lambda leaf: leaf[: len(levels)], gathered(found))
    pairs = min(_ROWS, len(levels) // 2)
    path = interpolate(jnp.asarray(codes.y[: 2 * pairs : 2]), jnp.asarray(codes.y[1 : 2 * pairs : 2]), _COLUMNS)
    given = params
    if labels is not None:
        near = np.arange(_COLUMNS)[:, None] < _COLUMNS / 2
        label = np.where(near, labels[: 2 * pairs : 2], labels[1 : 2 * pairs : 2])
        given = Conditioned(params, jnp.asarray(label.reshape(-1)))
    between = gathered(
        jit(lambda params, z: decode(sde, experiment.score_fn(params), z, **accuracy))(
            given, path.reshape(-1, *x.shape[1:])
        )
    )
    if not all(bool(solution.success.all()) for solution in (codes, back, between)):
        raise UserError("The ODE solver gave up on some of the examples; raise config.likelihood.tolerance.")
    quantize = experiment.quantization.quantize
    return LatentCodes(
        codes=np.asarray(codes.y),
        decoded=quantize(np.asarray(back.y)),
        between=quantize(np.asarray(between.y)).reshape(path.shape),
        round_trip_rms=float(jnp.sqrt(jnp.mean((back.y - x) ** 2))),
        num_evals=float(0.5 * (codes.num_evals + back.num_evals).mean()),
        seconds=time.perf_counter() - start,
    )
