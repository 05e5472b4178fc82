"""The HTML report of a run, alone or beside others, as one self-contained page."""

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
    """Write ``report.html``, a self-contained page.

    Args:
        config: Not used: the page shows the ``config.json`` of the working directory.
        workdir: The directory of the run.
        command: Not used: the page shows the commands of its results.
        out: The directory of the page, whose results it includes; ``workdir`` unless given.
        compare: Working directories of other runs to compare with.

    Raises:
        UserError: If a directory is missing or holds nothing of a run, or the page cannot be written.
    """
    del config, command
    path = write_report(workdir, compare, out)
    summarize(workdir, out or workdir)
    log.info("Wrote %s; open it in a browser.", path)
