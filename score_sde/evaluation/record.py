"""The measurements of the checkpoints of a run, written as they come, and the choice of the best checkpoint."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score_sde.evaluation.results import keep_earlier
from score_sde.files import Unreadable, atomic_write_json, read_json

log = logging.getLogger(__name__)

HIGHER = ("precision", "recall", "density", "coverage", "inception_score")  # higher is better


def read_results(path: Path) -> dict[str, Any]:
    """The contents of a file of results; empty, with a warning, if unreadable, since it can be measured again."""
    try:
        return read_json(path) or {}
    except Unreadable as error:
        log.warning("%s cannot be read (%s); it counts for nothing.", path, error.reason)
        return {}


def _entries(found: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The entries of a file of results by step."""
    listed = found.get("checkpoints")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return {entry["step"]: entry for entry in entries if isinstance(entry.get("step"), int)}


def best_of(entries: Mapping[int, Mapping[str, Any]], by: str) -> tuple[int, str]:
    """The step of the best entry and the criterion: the one given, else the first metric, else the loss.

    Values that are not finite numbers rank last.

    >>> best_of({1: {"loss": 2.0}, 2: {"loss": 1.0}}, "")
    (2, 'loss')
    >>> best_of({1: {"loss": 2.0, "metrics": {"recall": {"value": 0.5}}},
    ...          2: {"loss": 1.0, "metrics": {"recall": {"value": 0.4}}}}, "recall")
    (1, 'recall')
    """
    first = next(iter(entries.values()))
    by = by or next(iter(first.get("metrics", {})), "loss")

    def cost(step: int) -> float:
        entry = entries[step]
        value = entry[by] if by in entry else entry["metrics"][by]["value"]
        if value is None or not math.isfinite(value):
            return math.inf
        return -value if by in HIGHER else value

    return min(sorted(entries), key=cost), by


class EvaluationRecord:
    """The entries of checkpoints measured by one protocol: ``evaluation.json``, ``metrics.json``."""

    def __init__(self, path: Path, identity: str, *, best_by: str, provenance: Mapping[str, Any]) -> None:
        """Continue with the entries of a file, if they were measured by the same protocol.

        Args:
            path: The path of ``evaluation.json``; the metrics of the best go beside it.
            identity: The protocol: everything that decides the numbers besides the checkpoint.
            best_by: The criterion; empty for the first available.
            provenance: The command and the machine, written to the files.
        """
        self._path, self._identity, self._best_by, self._provenance = path, identity, best_by, provenance
        self._recognised: set[int] = set()  # steps whose entries belong to the current model
        found = read_results(path)
        if found and found.get("identity") != identity:
            log.info("%s was measured in another way; measuring again.", path)
            found = {}
        self.entries = _entries(found)

    def has(self, step: int, parameters: str) -> bool:
        """Whether a checkpoint of this step with these parameters was measured.

        An entry of the step with other parameters means that the model was retrained since; all entries not yet
        recognized are then dropped.
        """
        if step not in self.entries:
            return False
        if self.entries[step].get("parameters") == parameters:
            self._recognised.add(step)
            return True
        log.info("The model has been trained anew since %s was written; measuring again.", self._path)
        self.entries = {known: entry for known, entry in self.entries.items() if known in self._recognised}
        return False

    def add(self, entry: dict[str, Any]) -> None:
        """Add an entry, replacing one of the same step, and write all entries."""
        self.entries[entry["step"]] = entry
        self._recognised.add(entry["step"])
        self.write()

    def write(self) -> tuple[int, str]:
        """Write all entries so far and the metrics of the best; return its step and the criterion."""
        done = self.entries
        best, by = best_of(done, self._best_by)
        entries = [done[step] for step in sorted(done)]
        report = {"checkpoints": entries, "best": best, "best_by": by, "identity": self._identity, **self._provenance}
        keep_earlier(self._path.parent, "eval", self._identity)
        atomic_write_json(self._path, report)
        if "metrics" in done[best]:
            chosen = {"step": best, "best_of": sorted(done), "best_by": by, "metrics": done[best]["metrics"]}
            atomic_write_json(self._path.with_name("metrics.json"), chosen | dict(self._provenance))
        return best, by
