"""The measurements of the checkpoints of a run, written as they come, and the choice of checkpoints: some, the best."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from score_sde.checkpointing import Checkpoints
from score_sde.errors import UserError
from score_sde.evaluation.results import entries_of, keep_earlier
from score_sde.fields import Settings
from score_sde.files import Unreadable, atomic_write_json, read_json, read_json_lines

log = logging.getLogger(__name__)

HIGHER = ("precision", "recall", "density", "coverage", "inception_score")  # higher is better


def read_results(path: Path) -> dict[str, Any]:
    """The contents of a file of results; empty, with a warning, if unreadable, since it can be measured again."""
    try:
        return read_json(path) or {}
    except Unreadable as error:
        log.warning("%s cannot be read (%s); it counts for nothing.", path, error.reason)
        return {}


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


def chosen_steps(config: Settings, workdir: Path, newest: int, *, results: Sequence[Path] = ()) -> list[int]:
    """The steps selected by ``config.evaluation.checkpoints``, ascending.

    An earlier evaluation is searched for in ``results``, by default in ``workdir``; the first one found counts.

    Raises:
        UserError: If no checkpoint is selected, or no record tells the best.
    """
    wanted: str = config.evaluation.checkpoints.strip()
    if wanted == "newest":
        return [newest]
    if config.ema_width:
        raise UserError(
            f"config.evaluation.checkpoints is {wanted}, and the average of config.ema_width={config.ema_width:g} is "
            "that of the last snapshot; expected newest, or config.ema_width=0."
        )
    there = Checkpoints(workdir).steps
    if wanted == "best":
        return [_best_before(workdir, there, results or (workdir,))]
    steps = parse_steps(wanted, there)
    if not steps:
        raise UserError(
            f"config.evaluation.checkpoints is {wanted}, and no checkpoint in {workdir} is among them; expected some "
            f"of the steps {', '.join(map(str, there))}."
        )
    return steps


def parse_steps(wanted: str, there: Sequence[int]) -> list[int]:
    """The existing steps in a range or a list.

    A range includes both ends, either of which may be left out. Every step of a list must exist.

    Raises:
        UserError: For text that is neither a range nor a list, and for missing steps of a list.

    >>> parse_steps("1000:2000", [500, 1000, 1500, 2000, 2500]), parse_steps("2000:", [500, 2000, 2500])
    ([1000, 1500, 2000], [2000, 2500])
    >>> parse_steps("2500,500", [500, 1000, 2500]), parse_steps("all", [500, 1000])
    ([500, 2500], [500, 1000])
    """
    if wanted == "all":
        return sorted(there)
    first, colon, last = (part.strip() for part in wanted.partition(":"))
    names = [part.strip() for part in wanted.split(",")]
    if colon and all(not end or end.isdecimal() for end in (first, last)):
        low, high = int(first or 0), int(last) if last else math.inf
        return [step for step in sorted(there) if low <= step <= high]
    if colon or not all(name.isdecimal() for name in names):
        raise UserError(
            f"config.evaluation.checkpoints is {wanted!r}; expected newest, best, all, a range such as 1000:5000, or "
            "steps such as 1000,2000."
        )
    if missing := sorted({int(name) for name in names} - set(there)):
        raise UserError(
            f"config.evaluation.checkpoints is {wanted}, and there are no checkpoints of the steps {missing}; expected "
            f"some of {', '.join(map(str, there))}."
        )
    return sorted({int(name) for name in names})


def _best_before(workdir: Path, there: Sequence[int], results: Sequence[Path]) -> int:
    """The best step by an earlier evaluation, else by the loss logged in training."""
    evaluations = (read_results(place / "evaluation.json") for place in results)
    found = next((evaluation["best"] for evaluation in evaluations if "best" in evaluation), None)
    if isinstance(found, int) and found in there:
        return found
    records = read_json_lines(workdir / "metrics.jsonl") or []
    losses = {record["step"]: loss for record in records if isinstance(loss := record.get("eval_loss"), int | float)}
    if not (known := [step for step in there if math.isfinite(losses.get(step, math.nan))]):
        raise UserError(
            f"config.evaluation.checkpoints is best, and nothing in {workdir} tells the best of the checkpoints "
            f"{', '.join(map(str, there))}; evaluate them with config.evaluation.checkpoints=all first."
        )
    return min(known, key=lambda step: losses[step])


class EvaluationRecord:
    """The entries of checkpoints measured by one protocol: ``evaluation.json``, ``metrics.json``."""

    def __init__(self, path: Path, identity: str, *, best_by: str, provenance: Mapping[str, Any]) -> None:
        """Continue with the entries of a file, if they were measured by the same protocol.

        The identity is everything that decides the numbers besides the checkpoint. Without a criterion ``best_by``, the
        first available one counts. ``provenance``, the command and the machine, is written to the files.
        """
        self._path, self._identity, self._best_by, self._provenance = path, identity, best_by, provenance
        self._recognized: set[int] = set()  # steps whose entries belong to the current model
        found = read_results(path)
        if found and found.get("identity") != identity:
            log.info("%s was measured in another way; measuring again.", path)
            found = {}
        self.entries = {entry["step"]: entry for entry in entries_of(found) if isinstance(entry.get("step"), int)}

    def has(self, step: int, parameters: str) -> bool:
        """Whether a checkpoint of this step with these parameters was measured.

        An entry of the step with other parameters means that the model was retrained since; all entries not yet
        recognized are then dropped.
        """
        if step not in self.entries:
            return False
        if self.entries[step].get("parameters") == parameters:
            self._recognized.add(step)
            return True
        log.info("The model has been trained anew since %s was written; measuring again.", self._path)
        self.entries = {known: entry for known, entry in self.entries.items() if known in self._recognized}
        return False

    def add(self, entry: dict[str, Any]) -> None:
        """Add an entry, replacing one of the same step, and write all entries."""
        self.entries[entry["step"]] = entry
        self._recognized.add(entry["step"])
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
            shown = {
                name: value for name, value in done[best].items() if name.startswith(("metrics", "class_accuracy"))
            }
            chosen = {"step": best, "best_of": sorted(done), "best_by": by, **shown}
            atomic_write_json(self._path.with_name("metrics.json"), chosen | dict(self._provenance))
        return best, by
