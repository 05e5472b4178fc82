"""One page per run, ``summary.md``: settings, hardware, results and files."""

import json
import os
from pathlib import Path
from urllib.parse import quote

from score_sde.files import atomic_write_text
from score_sde.report.quantities import facts, quantities
from score_sde.report.rendering import render
from score_sde.report.run import ARTIFACTS, PICTURES, Run, flat_config, grouped, read_run

#: Results that a page names if missing: a description, the file, and the mode that makes it.
_EXPECTED = (
    ("Training loss", "metrics.jsonl", "train"),
    ("Held-out likelihood", "likelihood.json", "likelihood"),
    ("Samples", "sampling.json", "sample"),
)


def write_summary(workdir: Path, results: Path | None = None) -> Path:
    """Write ``summary.md`` from the results of the run so far; missing results are named with the mode that makes them.

    Every file of the run is optional, and unreadable ones are named. The page is in the directory of the results, by
    default ``workdir``.
    """
    place = results or workdir
    run = read_run(workdir, results=place)
    found, fields = quantities(run), grouped(flat_config(run))
    measured = {each.file for each in found}
    text = render(
        "summary.md",
        run=run,
        quantities=found,
        missing=[(label, mode) for label, name, mode in _EXPECTED if name not in measured],
        facts=facts(run),
        pictures=[(_link(run, place, name), *rest) for name, *rest in PICTURES],
        groups=[(group, [(name, json.dumps(value)) for name, value in part.items()]) for group, part in fields.items()],
        commands=run.commands(),
        files=[(_link(run, place, name), name, *rest) for name, *rest in ARTIFACTS],
        earlier=_link(run, place, "earlier"),
    )
    path = place / "summary.md"
    atomic_write_text(path, text)
    return path


def _link(run: Run, place: Path, name: str) -> str | None:
    """The target of a link from a page to a file of the run; ``None`` if the file is missing."""
    path = run.find(name)
    if not path.exists():
        return None
    if type(path) is not type(place):  # one is in a bucket
        return quote(str(path), safe="/:")
    return quote(Path(os.path.relpath(path, place)).as_posix())
