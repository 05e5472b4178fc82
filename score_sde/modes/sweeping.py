"""A sweep: many runs of one configuration, one after another or one by one, and a page that compares them."""

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from score_sde import modes
from score_sde.distributed import programs_kept
from score_sde.errors import UserError, plural
from score_sde.evaluation.results import digest
from score_sde.fields import DEFAULTS, Settings
from score_sde.fields.settings import leaves
from score_sde.files import Unreadable, atomic_write_json, check_writable, read_json
from score_sde.modes.record import check_places, is_run
from score_sde.report.page import write_report
from score_sde.report.quantities import judged, quantities
from score_sde.report.run import read_run
from score_sde.sweeps import Run

#: The file of a run that says which modes it has been through, and with what settings.
DONE = "sweep.json"
_SHOWN = 3  # numbers of a run in the log

log = logging.getLogger(__name__)


def run_sweep(
    config: Settings,
    workdir: Path,
    command: str,
    *,
    file: Path,
    runs: Sequence[Run],
    each: Sequence[str],
    index: int | None = None,
) -> None:
    """Take every run of a sweep, or one, through some modes in ``workdir/NAME``, and compare them: ``report.html``.

    What a run has done already is not done again, and a run that was stopped goes on. A run that fails does not stop
    the others.

    Raises:
        UserError: If runs failed, with their names; if ``workdir`` is itself a run.
    """
    del config, command
    if is_run(workdir):
        raise UserError(f"--workdir is {workdir}, which holds a run; expected a directory for the runs of a sweep.")
    check_writable(workdir)
    failed = []
    with programs_kept():
        for number, run in enumerate(runs):
            if index in (None, number):
                log.info("Run %d of %d (from 0): %s", number, len(runs), run.name)
                try:
                    _take(run, workdir / run.name, each, file)
                except UserError as error:
                    if jax.process_count() > 1:  # the others may not have failed
                        raise
                    log.error("%s failed: %s", run.name, error)
                    failed.append(run.name)
    _compare([workdir / run.name for run in runs if is_run(workdir / run.name)], workdir)
    if failed:
        raise UserError(
            f"{len(failed)} {plural(len(failed), 'run')} failed, as is said above: {', '.join(failed)}. The same "
            "command tries again."
        )


def _take(run: Run, place: Path, each: Sequence[str], file: Path) -> None:
    """Take a run through the modes that it has not been through with these settings."""
    check_places(place, None)
    done, settings = _done(place), _identity(run.settings)
    if all(done.get(mode) == settings for mode in each):
        log.info("There is nothing left to do for it.")
    for mode in each:
        if done.get(mode) != settings:
            arguments = [f"--config={file}", f"--workdir={place}", f"--mode={mode}", *run.overrides]
            modes.MODES[mode](run.settings, place, shlex.join(["python", "-m", "score_sde", *arguments]))
            done[mode] = settings
            atomic_write_json(place / DONE, done)


def _done(place: Path) -> dict[str, Any]:
    try:
        return dict(read_json(place / DONE) or {})
    except Unreadable as error:
        log.warning("%s What it has been through is found out anew.", error)
        return {}


def _identity(settings: Settings) -> str:
    """A digest of the settings, the same in a version with further fields."""
    default: Mapping[str, Any] = leaves(DEFAULTS)
    changed = {name: value for name, value in leaves(settings).items() if value != default.get(name)}
    return digest(json.dumps(changed, sort_keys=True))


def _compare(places: Sequence[Path], workdir: Path) -> None:
    """Write the page about the runs so far, and log the numbers by which they are judged."""
    if not places:
        return
    for place in places:
        found = judged(quantities(read_run(place)))[:_SHOWN]
        log.info("%s: %s", place.name, "; ".join(each.line for each in found) or "nothing is measured yet")
    path = write_report(places[0], places[1:], workdir)
    log.info("Wrote %s, which compares %d %s; open it in a browser.", path, len(places), plural(len(places), "run"))
