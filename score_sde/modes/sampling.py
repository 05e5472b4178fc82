"""Samples of a trained model, and latent codes of data under it."""

import json
import logging
from pathlib import Path

import numpy as np

from score_sde.data.base import labels_of
from score_sde.errors import UserError, plural
from score_sde.evaluation.base import sample_seed
from score_sde.evaluation.likelihood import BinNoise, identity_of
from score_sde.evaluation.partial import discard, partial_file
from score_sde.evaluation.results import digest, keep_earlier
from score_sde.evaluation.samples import (
    draw_samples,
    draw_trajectory,
    identity_of_samples,
    in_rows,
    latent_codes,
    sampled_labels,
)
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.files import atomic_savez, atomic_write_json, one_at_a_time
from score_sde.modes.guiding import conditions_of, guided_by_classifier
from score_sde.modes.workdir import (
    check_limit,
    experiment_of,
    kept_in,
    load_split,
    measured_split,
    provenance,
    summarize,
    trained_model,
)
from score_sde.report.continuous import show
from score_sde.report.plots import image_grid, trajectory_strip
from score_sde.training.writers import compiling

log = logging.getLogger(__name__)


@one_at_a_time("sample")
def run_sample(config: Settings, workdir: Path, command: str, *, out: Path | None = None) -> None:
    """Draw samples and a strip from noise to data: ``samples.png``, ``samples.npz``, ``trajectory.png``."""
    place = out or workdir
    experiment = experiment_of(config, workdir, "sample")
    state, average = trained_model(experiment, workdir)
    experiment, guided = guided_by_classifier(experiment)
    settings, params = config.sampling, guided(state.ema_params)
    num_grey_levels = experiment.quantization.num_grey_levels
    identity = identity_of_samples(experiment, params)
    compiling("the sampler")
    with kept_in(place, "samples", identity, total=settings.num_samples, doing="sampling") as kept:
        drawn = draw_samples(experiment, params, finish=experiment.quantization.quantize, kept=kept)
    levels, strip = drawn.x, None
    if (steps := experiment.sampler.along(experiment.times)) is not None:
        count = 1000 if len(experiment.event_shape) == 1 else 6  # points of a scatter plot, or rows of images
        strip = draw_trajectory(experiment, params, steps, count=count, frames=10)
    keep_earlier(place, "sample", digest(identity))
    known = {} if num_grey_levels is None else {"num_levels": np.asarray(num_grey_levels)}
    labels = sampled_labels(experiment, len(levels), settings.first)
    known |= {} if labels is None else {"labels": labels}
    atomic_savez(place / "samples.npz", samples=levels, **known)  # readable as data by npz:samples.npz
    if strip is not None:
        trajectory_strip(*strip, place / "trajectory.png", quantization=experiment.quantization)
    if num_grey_levels is None:
        show(levels, _data_at_hand(experiment), place / "samples.png")
    else:
        shown, columns = in_rows(None if labels is None else labels[: 10 * len(set(labels.tolist()))][:100])
        image_grid(levels[:100][shown], place / "samples.png", num_grey_levels=num_grey_levels, columns=columns)
    report = {
        "solver": experiment.sampler.name,
        "num_steps": settings.num_steps if experiment.sampler.on_grid else None,
        "num_evals": drawn.num_evals,
        "num_evals_max": drawn.num_evals_max,
        "num_samples": settings.num_samples,
        "seed": sample_seed(config),
        "first": settings.first,
        "denoising": settings.denoising,
        **conditions_of(experiment),
        "seconds": drawn.seconds,
        "identity": digest(identity),
        **provenance(state, command),
        **average,
    }
    atomic_write_json(place / "sampling.json", report)
    discard(partial_file(place, "samples", identity))
    log.info(
        "Drew %d %s with %.0f %s each in %.1f s.",
        *(len(levels), plural(len(levels), "sample"), drawn.num_evals, plural(round(drawn.num_evals), "evaluation")),
        drawn.seconds,
    )
    summarize(workdir, place)


def _data_at_hand(experiment: Experiment) -> np.ndarray | None:
    """Some data to show beside samples; ``None`` if the data are not available."""
    try:
        source = load_split(experiment.settings, "test")
    except UserError as error:
        log.info("The data are not at hand, and samples.png shows the samples alone (%s).", error)
        return None
    alike = source.info.shape == experiment.event_shape
    return source.gather(np.arange(min(len(source), 2000))) if alike else None


@one_at_a_time("latents")
def run_latents(config: Settings, workdir: Path, command: str, *, out: Path | None = None) -> None:
    """Encode held-out data, decode and interpolate their codes: ``latents.npz``, ``interpolation.png``."""
    place = out or workdir
    experiment = experiment_of(config, workdir, "latents")
    check_limit(config)
    state, average = trained_model(experiment, workdir)
    source = measured_split(config, workdir, "test")
    rows = np.arange(min(config.sampling.num_samples, len(source)))
    levels, labels = source.gather(rows), labels_of(source, rows) if experiment.num_classes else None
    compiling("encoder and decoder")
    found = latent_codes(experiment, state.ema_params, levels, labels)
    num_grey_levels = experiment.quantization.num_grey_levels
    identity = digest(json.dumps([identity_of(experiment, state.ema_params, BinNoise(), source), len(levels)]))
    keep_earlier(place, "latents", identity)
    atomic_savez(place / "latents.npz", data=levels, codes=found.codes, decoded=found.decoded, between=found.between)
    if num_grey_levels is not None:
        by_pair = found.between.swapaxes(0, 1)
        picture = by_pair.reshape(-1, *by_pair.shape[2:])
        image_grid(picture, place / "interpolation.png", num_grey_levels=num_grey_levels, columns=by_pair.shape[1])
    scale = float(experiment.sde.prior_std)
    report = {
        "num_examples": len(levels),
        "code_mean": float(found.codes.mean()) / scale,
        "code_std": float(found.codes.std()) / scale,
        "decoded_exactly": float(np.mean(found.decoded == levels)) if num_grey_levels is not None else None,
        "round_trip_rms": found.round_trip_rms,
        "num_evals_mean": found.num_evals,
        "seconds": found.seconds,
        "identity": identity,
        **provenance(state, command),
        **average,
    }
    atomic_write_json(place / "latents.json", report)
    summarize(workdir, place)
    log.info(
        "Encoded and decoded %d %s (%.0f evaluations each way, %.1f s): the root mean square change is %.2g, the "
        "codes have mean %.3f and standard deviation %.3f of the prior's.",
        *(len(levels), plural(len(levels), "example"), found.num_evals, found.seconds, found.round_trip_rms),
        *(report["code_mean"], report["code_std"]),
    )
