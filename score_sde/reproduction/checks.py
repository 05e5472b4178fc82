"""The inputs of a row, the protocol of its measurement, the check of its result, and the record of all rows."""

import dataclasses
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from score_sde.config import changed_fields
from score_sde.data import load_source
from score_sde.errors import UserError
from score_sde.fields import Settings
from score_sde.interop.sniff import file_kind
from score_sde.metrics.extractors import FETCHED
from score_sde.reproduction.rows import QUANTITIES, Checkpoint, Row

#: The usual name of the file of Inception weights.
INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
_NUMBERED = re.compile(r"checkpoint_(\d+)(\.pth)?")
_TEXTS = ("name", "protocol", "source", "reason")
_NUMBERS = ("expected", "measured", "tolerance")
_HOW = ("command", "date", "hardware")
_VERDICTS = {True: "pass", False: "FAIL", None: "not comparable"}
_MODEL = ("ema_width", "sde", "parameterization", "model", "data")
_TRAINED = ("objective", "optim", "training")
_OF_LOOPS = (
    *("steps_per_dispatch", "accumulate", "log_every", "eval_every", "checkpoint_every", "sample_every"),
    *("keep_checkpoints", "keep_every", "keep_best"),
)
_DRAWS = ("seed", "sampling.seed", "sampling.first")
# Fields for the place, speed and random draw of a measurement, and for other measurements beside it. They may differ:
# no tolerance is smaller than the spread over draws.
_FREE = {
    *("data.data_dir", "data.shape", "data.workers", "data.prefetch", "optim.ema_widths", "optim.ema_snapshot_every"),
    *(f"{group}.{name}" for group in ("training", "dequantizer", "classifier") for name in _OF_LOOPS),
    *(*_DRAWS, "sampling.batch_size", "likelihood.batch_size", "likelihood.budget_examples"),
    *("likelihood.noise_levels", "likelihood.num_weights", "likelihood.chain_terms"),
    *(f"evaluation.{name}" for name in ("checkpoints", "best_by", "likelihood", "weights", "reference")),
    "evaluation.keep_features",
}

log = logging.getLogger(__name__)


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

    ``place`` is a checkpoint, or the directory above the folders of several.
    """
    lacking = []
    if row.checkpoint is not None:
        lacking += _checkpoint_problem(row, row.checkpoint, place)
    trains = row.checkpoint is None or row.what.endswith("variational") or row.what.startswith("fid")
    for split in ("train", "test") if trains else ("test",):
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


def _groups(row: Row) -> tuple[str, ...]:
    flow = row.what.startswith(("nll", "bound"))
    groups = (*_MODEL, *(("likelihood",) if flow else ("sampling", "evaluation")))
    if row.what.endswith("variational"):
        groups += ("optim", "dequantizer")
    return groups + _TRAINED if row.checkpoint is None else groups


def overridden(row: Row, own: Settings, used: Settings) -> list[str]:
    """The decisive fields that differ from the row's own, as ``name: own -> used``."""
    free = _FREE | ({"likelihood.bound_times"} if row.what.startswith("nll") else set())
    return changed_fields(own.to_dict(), used, groups=_groups(row), free=free)


def protocol(row: Row, own: Settings, used: Settings) -> str:
    """The protocol of a measurement in one line: the row's settings, with the used values where they differ.

    >>> from score_sde.config import from_file, with_overrides
    >>> from score_sde.paths import config_file
    >>> from score_sde.reproduction.rows import ROWS
    >>> row = ROWS["digits/vp/fid"]
    >>> own = with_overrides(from_file(config_file(row.config)), row.settings)
    >>> used = with_overrides(from_file(config_file(row.config)), [*row.settings, "sampling.num_steps=8", "seed=1"])
    >>> protocol(row, own, used).split("dpm_solver_2m, ")[1], overridden(row, own, used)
    ('sampling.num_steps=8, sampling.grid=log_snr, seed=1', ['sampling.num_steps: 24 -> 8'])
    """
    changed = dict(_assignments(changed_fields(own.to_dict(), used, groups=("seed", *_groups(row)))))
    settings = []
    for setting in row.settings:
        name, _, value = setting.partition("=")
        settings.append(f"{name}={changed.pop(name, value)}")
    told = {*_DRAWS, *dict(_assignments(overridden(row, own, used)))}
    settings += [f"{name}={value}" for name, value in changed.items() if name in told]
    return f"{QUANTITIES[row.what]}; {', '.join(settings)}"


def _assignments(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Names and new values from lines ``name: old -> new``."""
    for line in lines:
        name, _, values = line.partition(": ")
        yield name, values.rpartition(" -> ")[2]


def merged(found: Mapping[str, Any], new: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a ``reproduction.json`` and new ones, which replace rows measured by the same protocol.

    Rows of an earlier version have their provenance only in the file as a whole.
    """
    listed = found.get("rows")
    before = [dict(row) for row in listed if _is_row(row)] if isinstance(listed, list) else []
    if isinstance(listed, list) and len(before) < len(listed):
        log.warning("%d rows of reproduction.json are damaged; they are left out.", len(listed) - len(before))
    how = {name: found[name] for name in _HOW if name in found}
    rows = {_key(row): {**how, **row} for row in before}
    for row in new:
        rows[_key(row)] = dict(row)
    return list(rows.values())


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("passed"), bool | None):
        return False
    texts = all(isinstance(row.get(name), str) for name in _TEXTS)
    return texts and all(isinstance(row.get(name), int | float) for name in _NUMBERS)


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["name"], str(row.get("overridden") or "")


def table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Header and rows of expected and measured values."""
    lines = [["row", "expected", "measured", "difference", "tolerance", ""]]
    for row in rows:
        error = row.get("std_error")
        lines.append(
            [
                row["name"],
                f"{row['expected']:.2f}",
                f"{row['measured']:.3f}" + (f" ± {error:.3f}" if isinstance(error, int | float) else ""),
                f"{row['measured'] - row['expected']:+.3f}",
                f"± {row['tolerance']:.2f}",
                _VERDICTS[row["passed"]],
            ]
        )
    return lines
