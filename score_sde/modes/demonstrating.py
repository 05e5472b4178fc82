"""A whole run in one command."""

import logging
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from score_sde.fields import Settings
from score_sde.modes.likelihood import run_likelihood
from score_sde.modes.reporting import run_report
from score_sde.modes.sampling import run_sample
from score_sde.modes.training import run_train
from score_sde.modes.workdir import build_experiment
from score_sde.validation import has_score

log = logging.getLogger(__name__)

_UNKNOWN = ". How long is not known before its program is compiled; then the bar says what is left"


def run_demo(config: Settings, workdir: Path, command: str) -> None:
    """Train, sample, measure and summarize; a model without a score has no likelihood to measure.

    On a terminal it says what comes, how long it takes or when that is known, and what to do next.
    """
    build_experiment(config, "demo")  # errors of any part are raised before the first
    phases: dict[str, Callable[[Settings, Path, str], None]] = {
        f"training, {config.training.num_steps:,} steps{_UNKNOWN}": run_train,
        f"drawing {config.sampling.num_samples:,} samples{_UNKNOWN}": run_sample,
        **({f"measuring the likelihood{_UNKNOWN}": run_likelihood} if has_score(config) else {}),
        "writing the page, which takes seconds": run_report,
    }
    for number, (phase, mode) in enumerate(phases.items(), start=1):
        _tell(f"Step {number} of {len(phases)}: {phase}.")
        mode(config, workdir, command)
    log.info("The same in Markdown: %s.", workdir / "summary.md")
    run = f"python -m score_sde --workdir={shlex.quote(str(workdir))}"
    _tell(f"Everything is in {workdir}: report.html, the samples, the numbers and the checkpoints.")
    _tell(f"More samples: {run} --mode=sample --config.sampling.seed=7")
    if has_score(config):
        _tell(f"Which sampler to take: {run} --mode=pareto")


def _tell(sentence: str) -> None:
    """Say it to a person at a terminal; a log has the lines of the modes."""
    if sys.stderr.isatty():
        log.info("%s", sentence)
