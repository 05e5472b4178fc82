"""The measured rows of one working directory: the record, a table, and the page."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from score_sde.machine import hardware_line

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


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The page: the table, then for every row its protocol, source, reason for the tolerance, and provenance."""
    header, *lines = table(rows)
    cells = [" | ".join(("", *line, "")).strip() for line in (header, ["---"] * len(header), *lines)]
    counts = f"{sum(row['passed'] is True for row in rows)} of {len(rows)} rows pass"
    if unlike := sum(row["passed"] is None for row in rows):
        counts += f"; {unlike} cannot be compared, because the protocol was not the row's own"
    notes = "\n".join(map(_note, rows))
    return "\n\n".join([f"# Reproduction\n\n{counts}.", "\n".join(cells), notes]) + "\n"


def _note(row: Mapping[str, Any]) -> str:
    changed = row.get("overridden")
    told = f" **Overridden: {'; '.join(map(str, changed))}.**" if isinstance(changed, list) and changed else ""
    text = f"- **{row['name']}**: {row['source']}. {row['protocol']}.{told} Tolerance for {row['reason']}."
    how = [f"`{row['command']}`"] if "command" in row else []
    how += [part for part in (str(row.get("date", "")), hardware_line(row.get("hardware"))) if part]
    return f"{text} {', '.join(how)}." if how else text
