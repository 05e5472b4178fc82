"""Inverse problems: images drawn given observations of them."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.cautions import restoration_cautions
from score_sde.data.given import Given, load_given
from score_sde.errors import UserError, plural
from score_sde.evaluation.base import sample_seed
from score_sde.evaluation.partial import discard, partial_file
from score_sde.evaluation.restoration import (
    Observations,
    Quality,
    draw_restorations,
    entry_of,
    identity_of_restoration,
    in_image_space,
    interval_of,
    observations_of,
    observed_of,
    quality,
    summary_of,
)
from score_sde.evaluation.restorers import RESTORERS, Observed
from score_sde.evaluation.results import digest, keep_earlier
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.files import atomic_savez, atomic_write_json, one_at_a_time
from score_sde.modes.guiding import conditions_of, guided_by_classifier
from score_sde.modes.workdir import experiment_of, kept_in, measured_split, provenance, summarize, trained_model
from score_sde.report.plots import restored_rows
from score_sde.training.writers import compiling

log = logging.getLogger(__name__)

_ROWS, _DRAWS = 16, 5  # images and draws of each in the picture


@one_at_a_time("restore")
def run_restore(config: Settings, workdir: Path, command: str, *, out: Path | None = None) -> None:
    """Draw images given observations of them: ``restoration.png``, ``restoration.json``, ``restoration.npz``."""
    place = out or workdir
    experiment = experiment_of(config, workdir, "restore")
    seen = observed_of(experiment)
    restorer = RESTORERS[config.conditioning.method]
    for sentence in restoration_cautions(experiment.settings, restorer.products(config.conditioning)):
        log.warning("%s", sentence)
    observed = observations_of(experiment, seen, _given(experiment, config, workdir))
    state, average = trained_model(experiment, workdir)
    experiment, guided = guided_by_classifier(experiment)
    params, fields, count = guided(state.ema_params), config.conditioning, len(observed.y)
    identity = identity_of_restoration(experiment, params, observed)
    compiling("the sampler")
    with kept_in(place, "restoration", identity, total=count * fields.draws, doing="restoring") as kept:
        kept = draw_restorations(experiment, params, seen, observed, kept)
    x, num_evals = kept.columns()
    by_image = x.reshape(count, fields.draws, *experiment.event_shape)
    found = [_quality(experiment, seen, observed, number, draws) for number, draws in enumerate(by_image)]
    keep_earlier(place, "restore", digest(identity))
    _save(experiment, observed, by_image, found, place)
    _picture(experiment, seen, observed, by_image, found, place)
    report = {
        "operator": fields.operator,
        "method": fields.method,
        "solver": experiment.sampler.name if restorer.takes_solver else None,
        "num_steps": config.sampling.num_steps if experiment.sampler.on_grid or not restorer.takes_solver else None,
        "noise_std": fields.noise_std,
        "num_images": count,
        "draws": fields.draws,
        "nominal_coverage": interval_of(fields.draws)[1],
        **(conditions_of(experiment) if fields.labels else {}),
        **summary_of(found, fields.noise_std),
        "num_evals": float(num_evals.mean()),
        "num_products": float(num_evals.mean()) * restorer.products(fields),
        "seconds": kept.seconds,
        "seed": sample_seed(config),
        "images": [entry_of(each, fields.noise_std) for each in found],
        "identity": digest(identity),
        **provenance(state, command),
        **average,
    }
    atomic_write_json(place / "restoration.json", report)
    discard(partial_file(place, "restoration", identity))
    _tell(report)
    summarize(workdir, place)


def _given(experiment: Experiment, config: Settings, workdir: Path) -> Given:
    """The first images of the test split, or of the given file."""
    fields, shape = config.conditioning, experiment.event_shape
    levels = experiment.quantization.num_grey_levels
    assert levels is not None
    if fields.images:
        found = load_given(fields.images, shape, levels)
        return Given(*(None if part is None else part[: fields.num_images] for part in found))
    source = measured_split(config, workdir, "test")
    if (source.info.shape, source.info.num_grey_levels) != (shape, levels):
        raise UserError(
            f"{source.info.name} has images of shape {source.info.shape} with {source.info.num_grey_levels} gray "
            f"levels; expected {shape} with {levels}, as the run has."
        )
    return Given(source.gather(np.arange(min(fields.num_images, len(source)))))


def _quality(experiment: Experiment, seen: Observed, observed: Observations, number: int, draws: np.ndarray) -> Quality:
    truth = None if observed.truth is None else observed.truth[number]
    return quality(experiment, seen, observed.y[number], truth, draws)


def _save(
    experiment: Experiment, observed: Observations, by_image: np.ndarray, found: list[Quality], place: Path
) -> None:
    """Observations, truth, draws as gray levels, and their mean and standard deviation."""
    truth = {} if observed.truth is None else {"truth": observed.truth}
    moments = {name: np.stack([getattr(each, name) for each in found]).astype(np.float32) for name in ("mean", "std")}
    levels = np.asarray(experiment.quantization.num_grey_levels)
    draws = experiment.quantization.quantize(by_image)
    atomic_savez(place / "restoration.npz", y=observed.y, **truth, draws=draws, **moments, num_levels=levels)


def _picture(
    experiment: Experiment,
    seen: Observed,
    observed: Observations,
    by_image: np.ndarray,
    found: list[Quality],
    place: Path,
) -> None:
    """A row for each of the first images: truth, observation, draws, mean and standard deviation."""
    width, shape, drawn = experiment.quantization.width, experiment.event_shape, by_image[:_ROWS, :_DRAWS]
    columns = [] if observed.truth is None else [("truth", observed.truth[:_ROWS])]
    columns.append(("observed", in_image_space(seen, observed.y[:_ROWS], shape)))
    columns += [(f"draw {number + 1}", drawn[:, number]) for number in range(drawn.shape[1])]
    columns.append(("mean", np.stack([each.mean for each in found[:_ROWS]])))
    unit = [(title, (values - (1.0 - width)) / width) for title, values in columns]
    std = np.stack([each.std for each in found[:_ROWS]])
    unit.append((f"std to {std.max():.2g}", std / max(float(std.max()), 1e-12)))
    restored_rows(unit, place / "restoration.png")


def _tell(report: dict[str, Any]) -> None:
    error, coverage = report.get("psnr_mean", math.nan), report.get("coverage", math.nan)
    log.info(
        "Restored %d %s with %d draws each in %.1f s (%.0f evaluations and %.0f products per draw).",
        *(report["num_images"], plural(report["num_images"], "image"), report["draws"], report["seconds"]),
        *(report["num_evals"], report["num_products"]),
    )
    if math.isfinite(coverage):
        log.info(
            "The mean of the draws has %.2f dB; intervals of %.0f %% hold %.1f %% of the values.",
            *(error, 100.0 * report["nominal_coverage"], 100.0 * coverage),
        )
