"""Memory and speed of a run, predicted before its start."""

import logging
from pathlib import Path

from score_sde.fields import Settings
from score_sde.files import atomic_write_json, atomic_write_text, check_writable
from score_sde.modes.workdir import data_info, machine, summarize
from score_sde.plan.advice import advise
from score_sde.plan.estimate import make_plan
from score_sde.plan.page import assumptions, record, rows
from score_sde.report.rendering import render
from score_sde.training.writers import compiling

log = logging.getLogger(__name__)


def run_plan(config: Settings, workdir: Path, command: str, *, out: Path | None = None) -> None:
    """Memory, time, scaling and advice for a training run: ``plan.json``, ``plan.md``. Nothing is trained."""
    place, info = out or workdir, data_info(config)
    check_writable(place, make=False)
    compiling("the training step")
    plan = make_plan(config, info)
    advice, how = advise(plan), machine(command)
    atomic_write_json(place / "plan.json", record(plan, advice, how))
    shown = {"rows": rows(plan), "advice": advice, "assumptions": assumptions(plan), "how": how}
    atomic_write_text(place / "plan.md", render("plan.md", plan=plan, **shown))
    summarize(workdir, place)
    for name, value in shown["rows"]:
        log.info("%-26s %s", name, value)
    for sentence in advice:
        log.info("Advice: %s", sentence)
    log.info("See %s.", place / "plan.md")
