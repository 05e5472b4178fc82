"""Comparisons of samplers: quality against cost on a trained model, and errors where the answer is known."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.data import fingerprint
from score_sde.evaluation.conformance import NOISY, PROBLEMS, SNRS, corrector_rows, flow_rows, noisy_rows
from score_sde.evaluation.pareto import as_compared, front, measure, recommended, settings_of
from score_sde.evaluation.partial import discard, partial_file
from score_sde.evaluation.problems import CASES
from score_sde.evaluation.results import digest, keep_earlier
from score_sde.evaluation.samples import identity_of_samples
from score_sde.fields import Settings
from score_sde.files import atomic_write_json, atomic_write_text, check_writable, jsonable, one_at_a_time
from score_sde.methods import make_predictor
from score_sde.metrics import moments
from score_sde.modes.guiding import conditions_of, guided_by_classifier
from score_sde.modes.workdir import (
    experiment_of,
    kept_in,
    machine,
    measured_split,
    provenance,
    summarize,
    trained_model,
)
from score_sde.report.charts import save_charts
from score_sde.report.measured import pareto_chart
from score_sde.report.rendering import render
from score_sde.solvers import DETERMINISTIC
from score_sde.training.writers import ProgressBar, compiling
from score_sde.validation import need_score

log = logging.getLogger(__name__)

_PARETO_DATA = 50_000  # training examples for the reference moments


@one_at_a_time("pareto")
def run_pareto(config: Settings, workdir: Path, command: str, *, out: Path | None = None) -> None:
    """Quality against cost of many samplers, and a recommendation: ``pareto.md``, ``pareto.json``, ``pareto.png``."""
    place = out or workdir
    experiment = experiment_of(config, workdir, "pareto")
    need_score(experiment.settings, "a comparison of solvers")
    references, settings = settings_of(experiment)
    state, average = trained_model(experiment, workdir)
    experiment, guided = guided_by_classifier(experiment)
    params = guided(state.ema_params)
    source = measured_split(config, workdir, "train")
    data = moments(as_compared(experiment, source.gather(np.arange(min(len(source), _PARETO_DATA)))))
    ordered = [*references, *settings]
    total = sum(s.num_steps * make_predictor(s.solver, config.sampling).num_evals + 1 for s in ordered)
    compiling("the samplers, one after another")
    identity = json.dumps([identity_of_samples(experiment, params), dict(config.pareto), fingerprint(source)])
    with kept_in(place, "pareto", identity, total=total, doing="pareto", unit="evaluation") as kept:
        measured = list(measure(experiment, params, data, ordered, kept=kept))
    first, points = measured[: len(references)], measured[len(references) :]
    how = {
        "num_samples": config.pareto.num_samples,
        **conditions_of(experiment),
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
