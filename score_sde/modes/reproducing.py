"""Reproduction of published results, from a checkpoint to a verdict."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from score_sde.checkpointing import newest_config
from score_sde.config import from_file, with_overrides
from score_sde.data import fingerprint as contents_of
from score_sde.errors import UserError
from score_sde.evaluation.base import decisive_fields, fingerprint
from score_sde.evaluation.record import read_results
from score_sde.fields import Settings
from score_sde.files import atomic_write_json, atomic_write_text, check_writable, one_at_a_time, read_json
from score_sde.modes.dequantizer import run_train_dequantizer
from score_sde.modes.evaluating import run_eval
from score_sde.modes.exchanging import run_import
from score_sde.modes.likelihood import run_likelihood
from score_sde.modes.record import check_same, newest_step
from score_sde.modes.training import run_train
from score_sde.modes.workdir import experiment_of, load_split, machine, trained_state
from score_sde.paths import config_file
from score_sde.report.rendering import render
from score_sde.reproduction.checks import (
    INCEPTION,
    Result,
    find_checkpoint,
    merged,
    missing_inputs,
    overridden,
    protocol,
    table,
)
from score_sde.reproduction.rows import Row, select

log = logging.getLogger(__name__)

#: Maps a configuration file and overrides ``NAME=VALUE`` to a configuration; the user's own overrides come last.
Configure = Callable[[Path, list[str]], Settings]

# The fields of the value and of its standard error in likelihood.json.
_LIKELIHOODS = {"nll": ("bits_per_dim", "std_error"), "bound": ("bound_bits_per_dim", "bound_std_error")}
_METRICS = {"is": "inception_score"}


@one_at_a_time("reproduce")
def run_reproduce(
    config: Settings, workdir: Path, command: str, *, row: str, configure: Configure, checkpoint: Path | None = None
) -> int:
    """Measure rows and compare with the expected values: ``reproduction.json``, ``reproduction.md``.

    ``row`` is a name or a pattern; each row has its own configuration, which ``configure`` loads. ``checkpoint`` is the
    published file, or the directory above the folders of several, by default ``workdir/checkpoints``.

    Rows measured in ``workdir`` before stay in both files, unless measured again by the same protocol. If a decisive
    field is overridden, the row gets no verdict.

    Returns:
        0 if all rows are within tolerance, else 1; a row without a verdict counts as not within tolerance.

    Raises:
        UserError: If there is no such row, if inputs are missing (all are named, before any work), or if the run of a
            row was trained with other settings or imported from another file.
    """
    del config
    rows = select(row)
    place = workdir / "checkpoints" if checkpoint is None else checkpoint
    configs = {one.name: _configured(one, workdir, configure) for one in rows}
    lacking = [f"{one.name} lacks {what}" for one in rows for what in missing_inputs(one, configs[one.name], place)]
    if lacking:
        raise UserError("Inputs are missing, and nothing was run:\n  " + "\n  ".join(lacking))
    check_writable(workdir)
    results: list[dict[str, Any]] = []
    for one in rows:
        result, how = _measured(one, configs[one.name], workdir, place, command), machine(command)
        results.append({**result.record(), **how})
        kept = merged(read_results(workdir / "reproduction.json"), results[-1:])
        atomic_write_json(workdir / "reproduction.json", {"rows": kept, **how})
        atomic_write_text(workdir / "reproduction.md", render("reproduction.md", rows=kept, table=table(kept)))
    for line in table(results):
        log.info("%-44s %9s %18s %11s %9s  %s", *line)
    return 0 if all(result["passed"] for result in results) else 1


def _configured(row: Row, workdir: Path, configure: Configure) -> Settings:
    settings = list(row.settings)
    if "evaluation.extractor=inception-2015" in settings:
        settings.append(f"evaluation.weights={workdir / INCEPTION}")
    return configure(config_file(f"configs/{row.config}.py"), settings)


def _measured(row: Row, config: Settings, workdir: Path, place: Path, command: str) -> Result:
    """Train or import the model of a row, unless done before, and measure it."""
    run, start = workdir / row.run, time.perf_counter()
    own = with_overrides(from_file(config_file(f"configs/{row.config}.py")), row.settings)
    how, changed = protocol(row, own, config), overridden(row, own, config)
    log.info("%s: %s", row.name, how)
    if changed:
        log.warning("%s is measured by another protocol (%s), and is not judged.", row.name, "; ".join(changed))
    details: dict[str, Any] = {"run": str(run)}
    if row.checkpoint is None:
        if (recorded := newest_config(run)) is not None:
            check_same(config, recorded, run, "train")  # otherwise the number would be of that run
        if newest_step(run) < config.training.num_steps:
            run_train(config, run, command)
        if (step := newest_step(run)) > config.training.num_steps:
            raise UserError(
                f"The run in {run} has been trained to step {step}, and {row.name} is of step "
                f"{config.training.num_steps}; give another --workdir, or --config.training.num_steps={step}."
            )
    else:
        source = find_checkpoint(row.checkpoint, place)
        assert source is not None  # checked before
        details["checkpoint"] = str(source)
        run_import(config, run, command, source)  # also checks that an existing run is of this file
    measure = _samples_of if row.what.startswith("fid") or row.what in _METRICS else _flow_of
    value, error = measure(row, config, run, command)
    if value is None:  # null in JSON: not a finite number
        raise UserError(f"{row.name}: what was measured in {run} is no finite number; see the files there.")
    log.info("%s: %.4f, expected %.2f ± %.2f", row.name, value, row.expected, row.tolerance)
    details["seconds"] = time.perf_counter() - start
    return Result(row=row, protocol=how, overridden=changed, measured=value, std_error=error, details=details)


def _samples_of(row: Row, config: Settings, run: Path, command: str) -> tuple[float, float | None]:
    run_eval(config, run, command)  # reuses measurements of rows with the same samples
    entries = read_results(run / "evaluation.json")["checkpoints"]
    found = next(entry for entry in entries if entry["step"] == newest_step(run))
    metric = _METRICS.get(row.what, "frechet")
    if (result := found.get("metrics", {}).get(metric)) is None:
        raise UserError(
            f"{row.name} is about the metric {metric}, which was not measured; set config.evaluation.metrics and "
            "config.evaluation.num_samples back."
        )
    return result["value"], result["std_error"]


def _flow_of(row: Row, config: Settings, run: Path, command: str) -> tuple[float, float | None]:
    """Bits per dimension; rows of one protocol share a measurement, kept beside the run."""
    what, _, variational = row.what.partition("_")
    kept = run / f"{'variational' if variational else 'uniform'}.json"
    experiment = experiment_of(config, run, "likelihood")
    model = fingerprint(trained_state(experiment, run).ema_params)
    fields = decisive_fields(experiment.settings, ("seed", "model", "data", "likelihood", "dequantizer"))
    identity = json.dumps([fields, model, contents_of(load_split(config, "test"))])
    report = read_results(kept)
    if report.get("identity") != identity:
        if variational:
            run_train_dequantizer(config, run, command)
        run_likelihood(config, run, command)
        report = {**(read_json(run / "likelihood.json") or {}), "identity": identity}
        atomic_write_json(kept, report)
    value, error = _LIKELIHOODS[what]
    if value not in report:
        raise UserError(f"{row.name} is about {value}, which was not measured; set config.likelihood.bound_times back.")
    return report[value], report[error]
