"""The selection of checkpoints to evaluate: the newest, the best, a range, or a list of steps."""

import math
from collections.abc import Sequence
from pathlib import Path

from score_sde.checkpointing import Checkpoints
from score_sde.errors import UserError
from score_sde.evaluation.record import read_results
from score_sde.fields import Settings
from score_sde.files import read_json_lines


def chosen_steps(config: Settings, workdir: Path, newest: int, *, results: Sequence[Path] = ()) -> list[int]:
    """The steps selected by ``config.evaluation.checkpoints``, ascending.

    Args:
        config: The configuration of the run.
        workdir: The directory with its checkpoints.
        newest: The step of the newest checkpoint.
        results: Directories to search for an earlier evaluation, if not in ``workdir``; the first one found counts.

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
