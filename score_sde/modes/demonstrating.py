"""A whole run in one command."""

import logging
from pathlib import Path

from score_sde.fields import Settings
from score_sde.modes.likelihood import run_likelihood
from score_sde.modes.reporting import run_report
from score_sde.modes.sampling import run_sample
from score_sde.modes.training import run_train
from score_sde.modes.workdir import build_experiment
from score_sde.validation import has_score

log = logging.getLogger(__name__)


def run_demo(config: Settings, workdir: Path, command: str) -> None:
    """Train, sample, measure and summarize; a model without a score has no likelihood to measure."""
    build_experiment(config, "demo")  # errors of any part are raised before the first
    measured = (run_likelihood,) if has_score(config) else ()
    for mode in (run_train, run_sample, *measured, run_report):
        mode(config, workdir, command)
    log.info("The same in Markdown: %s.", workdir / "summary.md")
