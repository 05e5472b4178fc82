"""The modes of the program: one function per mode, each writing its results to the working directory.

demo = train, then sample, likelihood and report
"""

import logging
from pathlib import Path

from score_sde.fields import Settings
from score_sde.modes.dequantizer import run_train_dequantizer
from score_sde.modes.evaluating import run_eval
from score_sde.modes.likelihood import run_likelihood
from score_sde.modes.reporting import run_plan, run_report
from score_sde.modes.reproducing import run_reproduce
from score_sde.modes.restoring import run_restore
from score_sde.modes.sampling import run_conformance, run_latents, run_pareto, run_sample
from score_sde.modes.statistics import run_stats
from score_sde.modes.training import run_export, run_import, run_train
from score_sde.modes.workdir import build_experiment

log = logging.getLogger(__name__)


def run_demo(config: Settings, workdir: Path, command: str) -> None:
    """Train, sample, measure and summarize."""
    build_experiment(config, "demo")  # errors of any part are raised before the first
    for mode in (run_train, run_sample, run_likelihood, run_report):
        mode(config, workdir, command)
    log.info("The same in Markdown: %s.", workdir / "summary.md")


MODES = {
    **{"train": run_train, "sample": run_sample, "likelihood": run_likelihood, "eval": run_eval, "demo": run_demo},
    **{"train_dequantizer": run_train_dequantizer, "latents": run_latents, "pareto": run_pareto},
    "restore": run_restore,
    **{"import": run_import, "export": run_export, "plan": run_plan, "conformance": run_conformance},
    **{"stats": run_stats, "reproduce": run_reproduce, "report": run_report},
}
