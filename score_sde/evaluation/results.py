"""The files of results in a working directory. Results of other settings are kept when new ones come."""

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from score_sde.cluster import is_main
from score_sde.files import Unreadable, read_json, read_json_lines, writing

#: The files of a mode: its report, whose identity names the measurement and its protocol, and the others.
RESULTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sample": ("sampling.json", "samples.npz", "samples.png", "trajectory.png"),
        "likelihood": (
            *("likelihood.json", "likelihood.npz", "likelihood.png", "bounds.png", "noise_levels.png"),
            "rate_distortion.png",
        ),
        "latents": ("latents.json", "latents.npz", "interpolation.png"),
        "pareto": ("pareto.json", "pareto.md", "pareto.png"),
        "restore": ("restoration.json", "restoration.npz", "restoration.png"),
        "classify": ("classification.json", "classification.npz", "confusion.png"),
        "eval": ("evaluation.json", "metrics.json", "eval.json"),
    }
)

log = logging.getLogger(__name__)


def digest(identity: str) -> str:
    """A short digest of the identity of a measurement.

    >>> digest("a") == digest("a") != digest("b")
    True
    """
    return hashlib.sha256(identity.encode()).hexdigest()


def keep_earlier(directory: Path, mode: str, identity: str) -> None:
    """Move results of another identity to ``earlier/MODE-N``; results of the same identity will be replaced.

    Moved results replace earlier ones of their own identity. Call it after the measurement, before the first file is
    written. Of several processes, the first moves the files.
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
    attic = directory / "earlier"
    same = (path for path in _places(attic, mode) if _replaces(found, path / report))
    place = next(same, None) or _next_place(attic, mode, report)
    _move(directory, place, (*others, report))  # the report last: it marks an unfinished move
    log.info("The results of other settings, or of the model as it was, are kept in %s.", place)


def keep_metrics(directory: Path) -> None:
    """Move the metrics of a run without a checkpoint to resume from to ``earlier/train-N``, and say so."""
    name = "metrics.jsonl"
    if not is_main() or not (records := read_json_lines(directory / name)):
        return
    place = _next_place(directory / "earlier", "train", name)
    _move(directory, place, (name,))
    log.warning(
        "The run in %s has metrics to step %d but no checkpoint; training starts again from step 0, and the metrics "
        "are kept in %s.",
        *(directory, records[-1]["step"], place),
    )


def _move(directory: Path, place: Path, names: tuple[str, ...]) -> None:
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            if (directory / name).exists():
                (directory / name).replace(place / name)


def _places(attic: Path, mode: str) -> list[Path]:
    paths = list(attic.glob(f"{mode}-*")) if attic.is_dir() else []
    numbered = ((int(found[1]), path) for path in paths if (found := re.fullmatch(rf"{mode}-(\d{{1,9}})", path.name)))
    return [path for _, path in sorted(numbered)]


def _next_place(attic: Path, mode: str, report: str) -> Path:
    """The next directory of a mode, or the last one if a kill interrupted the move to it."""
    if not (places := _places(attic, mode)):
        return attic / f"{mode}-1"
    unfinished = not (places[-1] / report).exists()
    return attic / f"{mode}-{int(places[-1].name.rpartition('-')[2]) + (not unfinished)}"


def _replaces(found: Mapping[str, Any], earlier: Path) -> bool:
    """Whether a report covers everything in an earlier one, by the same protocol."""
    try:
        before = read_json(earlier) or {}
    except Unreadable:
        return False
    if not found.get("identity") or found["identity"] != before.get("identity"):
        return False
    # An evaluation covers several checkpoints, which its identity does not name.
    return _checkpoints(before) <= _checkpoints(found)


def _checkpoints(report: Mapping[str, Any]) -> set[str]:
    return {f"{entry.get('step')} {entry.get('parameters')}" for entry in entries_of(report)}


def entries_of(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries of checkpoints in a file of results; those of another form are left out."""
    entries = report.get("checkpoints")
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
