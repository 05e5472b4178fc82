"""Pages about a run: a plan before it starts, and a report of it, alone or beside others."""

import logging
from pathlib import Path

from score_sde.fields import Settings
from score_sde.files import atomic_write_json, atomic_write_text, check_writable
from score_sde.modes.workdir import data_info, machine, summarize
from score_sde.plan.estimate import make_plan
from score_sde.plan.page import advise, assumptions, record, rows
from score_sde.report.page import write_report
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


def run_report(
    config: Settings | None,
    workdir: Path,
    command: str,
    *,
    compare: tuple[Path, ...] = (),
    out: Path | None = None,
) -> None:
    """Write ``report.html``, a self-contained page.

    The configuration and the commands that it shows are those recorded in the directory.

    Raises:
        UserError: If a directory is missing or holds nothing of a run, or the page cannot be written.
    """
    del config, command
    path = write_report(workdir, compare, out)
    summarize(workdir, out or workdir)
    log.info("Wrote %s; open it in a browser.", path)
