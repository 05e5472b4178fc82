"""The measured rows of one working directory: the record, and the table."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_TEXTS = ("name", "protocol", "source", "reason")
_NUMBERS = ("expected", "measured", "tolerance")
_HOW = ("command", "date", "hardware")
_VERDICTS = {True: "pass", False: "FAIL", None: "not comparable"}

log = logging.getLogger(__name__)


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
