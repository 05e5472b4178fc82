"""The files of results in a working directory; those of other settings are kept when new ones come."""

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from score_sde.cluster import is_main
from score_sde.files import Unreadable, read_json, writing

#: The files of a mode: its report, which says by its identity what was measured and how, and the others.
RESULTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sample": ("sampling.json", "samples.npz", "samples.png", "trajectory.png"),
        "likelihood": (
            *("likelihood.json", "likelihood.npz", "likelihood.png", "bounds.png", "noise_levels.png"),
            "rate_distortion.png",
        ),
        "latents": ("latents.json", "latents.npz", "interpolation.png"),
        "pareto": ("pareto.json", "pareto.md", "pareto.png"),
        "eval": ("evaluation.json", "metrics.json", "eval.json"),
    }
)

log = logging.getLogger(__name__)


def digest(identity: str) -> str:
    """A short name for what was measured and how.

    >>> digest("a") == digest("a") != digest("b")
    True
    """
    return hashlib.sha256(identity.encode()).hexdigest()


def keep_earlier(directory: Path, mode: str, identity: str) -> None:
    """Make room for the results of a mode: those of the same identity are replaced, others move to ``earlier/MODE-N``.

    To be called when all is measured, before the first file is written. Of several processes the first one moves.

    Raises:
        UserError: If the directory cannot be written.
    """
    report, *others = RESULTS[mode]
    if not is_main():
        return
    try:
        found = read_json(directory / report)
    except Unreadable:
        found = {}
    if found is None or found.get("identity") == identity:
        return
    place = _place(directory / "earlier", mode, report)
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        for name in (*others, report):  # the report last: while it is there, not all has been moved
            if (directory / name).exists():
                os.replace(directory / name, place / name)
    log.info("The results of other settings, or of the model as it was, are kept in %s.", place)


def _place(attic: Path, mode: str, report: str) -> Path:
    """The next directory of a mode, or the last if a kill has come before all was moved to it."""
    names = [path.name for path in attic.glob(f"{mode}-*")] if attic.is_dir() else []
    last = max((int(found[1]) for name in names if (found := re.fullmatch(rf"{mode}-(\d{{1,9}})", name))), default=0)
    unfinished = last > 0 and not (attic / f"{mode}-{last}" / report).exists()
    return attic / f"{mode}-{last + (not unfinished)}"
