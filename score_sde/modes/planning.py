"""Memory and speed of a run, predicted before its start."""

import logging
from pathlib import Path

from score_sde.fields import Settings
from score_sde.files import atomic_write_json, atomic_write_text, check_writable
from score_sde.modes.workdir import data_info, machine, summarize
from score_sde.plan.estimate import advice_for, make_plan
from score_sde.plan.page import markdown, record, rows
from score_sde.training.writers import compiling

log = logging.getLogger(__name__)


def run_plan(config: Settings, workdir: Path, command: str, *, out: Path | None = None) -> None:
    """Memory, time, scaling and advice for a training run: ``plan.json``, ``plan.md``. Nothing is trained."""
    place, info = out or workdir, data_info(config)
    check_writable(place, make=False)
    compiling("the training step")
    plan = make_plan(config, info)
    advice, how = advice_for(plan, config), machine(command)
    atomic_write_json(place / "plan.json", record(plan, advice, how))
    atomic_write_text(place / "plan.md", markdown(plan, advice, how))
    summarize(workdir, place)
    for name, value in rows(plan):
        log.info("%-26s %s", name, value)
    for sentence in advice:
        log.info("Advice: %s", sentence)
    log.info("See %s.", place / "plan.md")
