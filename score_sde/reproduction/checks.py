"""The inputs of a row, and the check of its result against the expected value."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from score_sde.data import load_source
from score_sde.errors import UserError
from score_sde.fields import Settings
from score_sde.interop.sniff import file_kind
from score_sde.metrics.extractors import FETCHED
from score_sde.reproduction.rows import Checkpoint, Row

#: The usual name of the file of Inception weights.
INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
_NUMBERED = re.compile(r"checkpoint_(\d+)(\.pth)?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a row."""

    row: Row
    protocol: str  # the protocol used
    overridden: list[str]  # decisive fields whose values are not the row's own
    measured: float
    std_error: float | None
    details: dict[str, Any]

    @property
    def passed(self) -> bool | None:
        """Whether the value is within tolerance; NaN never is. ``None`` if the protocol is not the row's own."""
        if self.overridden:
            return None
        return abs(self.measured - self.row.expected) <= self.row.tolerance

    def record(self) -> dict[str, Any]:
        """The result as JSON."""
        row = self.row
        fields = {name: getattr(row, name) for name in ("name", "what", "expected", "tolerance", "reason", "source")}
        measured = self.measured if math.isfinite(self.measured) else None
        return {
            **fields,
            "measured": measured,
            "std_error": self.std_error,
            "passed": self.passed,
            "protocol": self.protocol,
            "overridden": self.overridden,
            "config": f"configs/{row.config}.py",
            **self.details,
        }


def find_checkpoint(checkpoint: Checkpoint, place: Path) -> Path | None:
    """The file of a published checkpoint: ``place`` itself, or the right file in a folder below it."""
    if place.is_file():
        return place
    for folder in checkpoint.folders:
        directory = place / folder
        files = sorted(directory.iterdir()) if directory.is_dir() else []
        numbered = {int(m[1]): file for file in files if file.is_file() and (m := _NUMBERED.fullmatch(file.name))}
        if checkpoint.number in numbered:
            return numbered[checkpoint.number]
        if checkpoint.number is None and numbered:
            return numbered[min(numbered)]
    return None


def missing_inputs(row: Row, config: Settings, place: Path) -> list[str]:
    """The missing inputs of a row: for each a description, the usual file name and the expected place.

    Args:
        row: The row.
        config: Its configuration.
        place: The place of checkpoints: a file, or the directory above their folders.
    """
    lacking = []
    if row.checkpoint is not None:
        lacking += _checkpoint_problem(row, row.checkpoint, place)
    for split in _splits(row):
        try:
            load_source(config.data.name, split, data_dir=config.data.data_dir or None)
        except UserError as error:
            lacking.append(f"the {split} split of {config.data.name} (config.data.data_dir): {error}")
    if config.evaluation.extractor in FETCHED and not Path(config.evaluation.weights).is_file():
        lacking.append(
            f"the Inception weights: fetch {INCEPTION}, the network of 2015 as pytorch-fid publishes it, and put it at "
            f"{config.evaluation.weights}, or give it as --config.evaluation.weights=FILE"
        )
    reference = config.evaluation.reference
    if reference and not Path(reference).is_file():
        lacking.append(
            f"the reference statistics {reference}, such as cifar10_stats.npz of the originals; put the file there, or "
            "leave config.evaluation.reference empty to have them computed from the training split"
        )
    return lacking


def _checkpoint_problem(row: Row, checkpoint: Checkpoint, place: Path) -> list[str]:
    found = find_checkpoint(checkpoint, place)
    folder = " or ".join(f"{place}/{name}" for name in checkpoint.folders)
    if found is None:
        return [
            f"the checkpoint: fetch {checkpoint.files} of the model {checkpoint.folders[0]} ({row.source}) and put it "
            f"into {folder}, or give another place as --checkpoint=FILE_OR_DIR"
        ]
    try:
        file_kind(found)
    except UserError as error:
        return [f"a checkpoint that can be read: {error} It belongs into {folder}"]
    return []


def _splits(row: Row) -> tuple[str, ...]:
    trains = row.checkpoint is None or row.what.endswith("variational") or row.what.startswith("fid")
    return ("train", "test") if trains else ("test",)
