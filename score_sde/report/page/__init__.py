"""One self-contained page per run, ``report.html``: numbers with their errors, curves, pictures, and how it was made.

A page is built from whatever lies in a working directory; no network, no model and no device is needed to read it or to
make it. All text that comes from files is escaped by the templates (:mod:`score_sde.report.rendering`).
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from score_sde.files import atomic_write_text, check_writable
from score_sde.report.page.comparison import comparison
from score_sde.report.page.sections import PARTS, headline
from score_sde.report.quantities import quantities
from score_sde.report.rendering import asset, render
from score_sde.report.run import Run, check_run, read_run


def write_report(workdir: Path, compare: Sequence[Path] = (), out: Path | None = None) -> Path:
    """Write ``report.html`` from whatever the run has produced so far; what is missing is named with how to make it.

    The page holds everything it shows, and is written whole or not at all. Text from files is escaped, and a policy in
    the page lets a browser run no script.

    Results in ``out`` are shown instead of those in ``workdir``, and the page goes there; the runs of ``compare`` are
    shown beside it.

    Raises:
        UserError: If a directory is missing or has nothing of a run in it, or the page cannot be written.
    """
    for place in (workdir, *compare):
        check_run(place)
    runs = [read_run(workdir, results=out), *map(read_run, compare)]
    if out is not None:
        check_writable(out)
    path = (out or workdir) / "report.html"
    atomic_write_text(path, page(runs))
    return path


def page(runs: Sequence[Run]) -> str:
    """The page of the first run, compared with the others."""
    run, style = runs[0], asset("page.css")
    found = quantities(run)
    sections = [headline(run, found), comparison(runs), *(part(run, found) for part in PARTS)]
    # What could not be read is known when all sections are made.
    problems = [each if len(runs) == 1 else f"{one.name}: {each}" for one in runs for each in one.problems]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return render("page.html", run=run, sections=sections, problems=problems, style=style, digest=digest)
