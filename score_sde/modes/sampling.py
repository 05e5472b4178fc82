"""Drawing samples from a trained model, and measuring the samplers."""

import logging
from pathlib import Path

import numpy as np

from score_sde.config import ConfigDict
from score_sde.evaluation.samples import draw_samples, draw_trajectory
from score_sde.modes.workdir import build_experiment, load_split, machine, make_directory, provenance, trained_state
from score_sde.report.conformance import CASES, conformance_markdown, conformance_rows
from score_sde.report.environment import atomic_savez, atomic_write_json, atomic_write_text
from score_sde.report.plots import image_grid, scatter, trajectory_strip
from score_sde.report.summary import write_summary
from score_sde.solvers import DETERMINISTIC
from score_sde.training.writers import ProgressBar

log = logging.getLogger(__name__)


def run_sample(config: ConfigDict, workdir: Path, command: str) -> None:
    """Draw samples and a strip from noise to data: ``samples.png``, ``samples.npz``, ``trajectory.png``."""
    experiment = build_experiment(config)
    state = trained_state(experiment, workdir)
    settings = config.sampling
    with ProgressBar(total=settings.num_samples, description="sampling") as bar:
        drawn = draw_samples(experiment, state.ema_params, progress=bar.advance)
    levels = experiment.quantization.quantize(drawn.x)
    atomic_savez(workdir / "samples.npz", samples=levels)
    count = 6 if experiment.quantization.num_levels is not None else 1000  # rows of images, or points of a scatter
    path, times = draw_trajectory(experiment, state.ema_params, count=count, frames=10)
    trajectory_strip(path, times, workdir / "trajectory.png", quantization=experiment.quantization)
    if experiment.quantization.num_levels is None:
        data = load_split(config, "test").gather(np.arange(min(len(load_split(config, "test")), 2000)))
        scatter(levels, data, workdir / "samples.png")
    else:
        image_grid(levels[:100], workdir / "samples.png", num_levels=experiment.quantization.num_levels)
    report = {
        "solver": settings.predictor
        if settings.corrector == "none"
        else f"{settings.predictor} + {settings.corrector}",
        "num_steps": settings.num_steps if experiment.solver is not None else None,
        "num_evals": drawn.num_evals,
        "num_evals_max": drawn.num_evals_max,
        "num_samples": settings.num_samples,
        "denoising": settings.denoising,
        "seconds": drawn.seconds,
        **provenance(state, command),
    }
    atomic_write_json(workdir / "sampling.json", report)
    log.info("Drew %d samples with %.0f evaluations each in %.1f s.", len(levels), drawn.num_evals, drawn.seconds)
    write_summary(workdir)


def run_conformance(config: ConfigDict, workdir: Path, command: str) -> None:
    """Errors and orders of the samplers where the answer is known: ``conformance.md``, ``conformance.json``."""
    del config  # the problems are fixed, so that figures can be compared
    make_directory(workdir)
    rows = []
    with ProgressBar(total=len(CASES) * len(DETERMINISTIC), description="conformance", unit="row") as bar:
        for row in conformance_rows():
            rows.append(row)
            bar.advance(1)
    how = machine(command)
    atomic_write_json(workdir / "conformance.json", {"rows": [row._asdict() for row in rows], **how})
    atomic_write_text(workdir / "conformance.md", conformance_markdown(rows, how))
    log.info("Wrote %s.", workdir / "conformance.md")
