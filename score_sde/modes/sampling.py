"""Sampling from a trained model, and measurements of the samplers."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.data import fingerprint
from score_sde.data.base import labels_of
from score_sde.errors import UserError, plural
from score_sde.evaluation.base import sample_seed
from score_sde.evaluation.conformance import NOISY, PROBLEMS, SNRS, corrector_rows, flow_rows, noisy_rows
from score_sde.evaluation.likelihood import BinNoise, identity_of
from score_sde.evaluation.pareto import front, measure, recommended, settings_of
from score_sde.evaluation.partial import discard, partial_file
from score_sde.evaluation.problems import CASES
from score_sde.evaluation.results import digest, keep_earlier
from score_sde.evaluation.samples import (
    draw_samples,
    draw_trajectory,
    identity_of_samples,
    in_rows,
    latent_codes,
    sampled_labels,
)
from score_sde.experiment import Experiment, make_predictor
from score_sde.fields import Settings
from score_sde.files import atomic_savez, atomic_write_json, atomic_write_text, check_writable, jsonable, one_at_a_time
from score_sde.metrics import moments
from score_sde.modes.workdir import (
    check_limit,
    experiment_of,
    kept_in,
    load_split,
    machine,
    measured_split,
    provenance,
    summarize,
    trained_model,
)
from score_sde.report.charts import save_charts
from score_sde.report.measured import pareto_chart
from score_sde.report.plots import image_grid, scatter, trajectory_strip
from score_sde.report.rendering import render
from score_sde.solvers import DETERMINISTIC
from score_sde.training.writers import ProgressBar, compiling

log = logging.getLogger(__name__)

_PARETO_DATA = 50_000  # training examples for the reference moments


@one_at_a_time("sample")
def run_sample(config: Settings, workdir: Path, command: str, *, out: Path | None = None) -> None:
    """Draw samples and a strip from noise to data: ``samples.png``, ``samples.npz``, ``trajectory.png``."""
    place = out or workdir
    experiment = experiment_of(config, workdir, "sample")
    state, average = trained_model(experiment, workdir)
    settings = config.sampling
    num_grey_levels = experiment.quantization.num_grey_levels
    identity = identity_of_samples(experiment, state.ema_params)
    compiling("the sampler")
    with kept_in(place, "samples", identity, total=settings.num_samples, doing="sampling") as kept:
        drawn = draw_samples(experiment, state.ema_params, finish=experiment.quantization.quantize, kept=kept)
    levels, strip = drawn.x, None
    if (steps := experiment.sampler.along(experiment.times)) is not None:
        count = 6 if num_grey_levels is not None else 1000  # rows of images, or points of a scatter
        strip = draw_trajectory(experiment, state.ema_params, steps, count=count, frames=10)
    keep_earlier(place, "sample", digest(identity))
    known = {} if num_grey_levels is None else {"num_levels": np.asarray(num_grey_levels)}
    labels = sampled_labels(experiment, len(levels), settings.first)
    known |= {} if labels is None else {"labels": labels}
    atomic_savez(place / "samples.npz", samples=levels, **known)  # readable as data by npz:samples.npz
    if strip is not None:
        trajectory_strip(*strip, place / "trajectory.png", quantization=experiment.quantization)
    if num_grey_levels is None:
        scatter(levels, _points_at_hand(experiment), place / "samples.png")
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
        **_conditions(experiment),
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


def _conditions(experiment: Experiment) -> dict[str, Any]:
    """The classes of the samples and their guidance, for a report; nothing for a run without labels."""
    if not experiment.num_classes:
        return {}
    return {"classes": list(experiment.sampled_classes), "scale": experiment.settings.conditioning.scale}


def _points_at_hand(experiment: Experiment) -> np.ndarray | None:
    """Some points to show beside samples; ``None`` if the data are not available."""
    try:
        source = load_split(experiment.settings, "test")
    except UserError as error:
        log.info("The data are not at hand, and samples.png shows the samples alone (%s).", error)
        return None
    alike = source.info.shape == experiment.event_shape
    return source.gather(np.arange(min(len(source), 2000))) if alike else None


@one_at_a_time("pareto")
def run_pareto(config: Settings, workdir: Path, command: str, *, out: Path | None = None) -> None:
    """Quality against cost of many samplers, and a recommendation: ``pareto.md``, ``pareto.json``, ``pareto.png``."""
    place = out or workdir
    experiment = experiment_of(config, workdir, "pareto")
    references, settings = settings_of(experiment)
    state, average = trained_model(experiment, workdir)
    source = measured_split(config, workdir, "train")
    levels = source.gather(np.arange(min(len(source), _PARETO_DATA)))
    num_grey_levels = experiment.quantization.num_grey_levels
    data = moments(levels if num_grey_levels is None else levels / (num_grey_levels - 1))
    ordered = [*references, *settings]
    total = sum(s.num_steps * make_predictor(s.solver, config.sampling).num_evals + 1 for s in ordered)
    compiling("the samplers, one after another")
    identity = json.dumps([identity_of_samples(experiment, state.ema_params), dict(config.pareto), fingerprint(source)])
    with kept_in(place, "pareto", identity, total=total, doing="pareto", unit="evaluation") as kept:
        measured = list(measure(experiment, state.ema_params, data, ordered, kept=kept))
    first, points = measured[: len(references)], measured[len(references) :]
    how = {
        "num_samples": config.pareto.num_samples,
        "identity": digest(identity),
        **provenance(state, command),
        **average,
    }
    keep_earlier(place, "pareto", digest(identity))
    choice = recommended(points, first)
    report = {
        "references": [dataclasses.asdict(point) for point in first],
        "points": [dataclasses.asdict(point) for point in points],
        "recommended": None if choice is None else dataclasses.asdict(choice),
        **how,
    }
    atomic_write_json(place / "pareto.json", report)
    save_charts(place / "pareto.png", pareto_chart(jsonable(report)))
    shown = {
        "reference": min(first, key=lambda point: point.distance),
        "choice": choice,
        "references": [(each, recommended(points, [each])) for each in first],
        "front": front(points),
        "everything": [*first, *points],
    }
    atomic_write_text(place / "pareto.md", render("pareto.md", how=how, **shown))
    discard(partial_file(place, "pareto", identity))
    summarize(workdir, place)
    if choice is None:
        log.info("No setting is within 5 %% of the reference; see %s.", place / "pareto.md")
    else:
        log.info("Take %s (%d evaluations); see %s.", choice.setting.flags, choice.num_evals, place / "pareto.md")


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


@one_at_a_time("conformance")
def run_conformance(config: Settings, workdir: Path, command: str) -> None:
    """Errors and orders of the samplers on problems with known solutions: ``conformance.md``, ``conformance.json``."""
    del config  # the problems are fixed, so that results are comparable
    check_writable(workdir)
    tables = {"flow": flow_rows(), "noisy": noisy_rows(), "corrector": corrector_rows()}
    rows: dict[str, list[Any]] = {name: [] for name in tables}
    total = len(CASES) * (len(PROBLEMS) * len(DETERMINISTIC) + len(NOISY) + len(SNRS))
    compiling("the samplers, one after another")
    with ProgressBar(total=total, description="conformance", unit="row") as bar:
        for name, table in tables.items():
            for row in table:
                rows[name].append(row)
                bar.advance(1)
    how = machine(command)
    plain = {name: [row._asdict() for row in table] for name, table in rows.items()}
    atomic_write_json(workdir / "conformance.json", {**plain, **how})
    atomic_write_text(workdir / "conformance.md", render("conformance.md", how=how, **rows))
    log.info("Wrote %s.", workdir / "conformance.md")
