"""One page to look at and to send: the run of a working directory, alone or beside others."""

import logging
from pathlib import Path

from score_sde.fields import Settings
from score_sde.modes.workdir import summarize
from score_sde.report.page import write_report

log = logging.getLogger(__name__)


def run_report(
    config: Settings | None,
    workdir: Path,
    command: str,
    *,
    compare: tuple[Path, ...] = (),
    out: Path | None = None,
) -> None:
    """Write ``report.html``, which holds everything it shows.

    Args:
        config: Not used: the page is about the ``config.json`` of the working directory.
        workdir: Where the run lives.
        command: Not used: the page names the commands that made what it shows.
        out: Where the page goes, and results from there with it; ``workdir`` unless given.
        compare: Working directories of other runs, to be shown beside it.

    Raises:
        UserError: If a directory is missing or has nothing of a run in it, or the page cannot be written.
    """
    del config, command
    path = write_report(workdir, compare, out)
    summarize(workdir, out or workdir)
    log.info("Wrote %s; open it in a browser.", path)
