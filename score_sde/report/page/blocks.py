"""What a page is built from: plain data, which ``templates/blocks.html`` writes as HTML and escapes."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from score_sde.report.figures import DASH
from score_sde.report.quantities import Quantity
from score_sde.report.run import Run


class Words(NamedTuple):
    """A paragraph (``note``, ``problem``, ``protocol``, or ``missing`` with how to make it) or a ``heading``."""

    text: str
    kind: str = "note"
    code: str = ""


class Table(NamedTuple):
    """A table whose first column names the rows."""

    caption: str  # what it shows
    head: Sequence[str]  # the names of the columns
    rows: Sequence[Sequence[Any]]  # of every row the cells: text, or lines, each a text and its class
    kind: str = "numbers"  # its classes
    code: Sequence[int] = ()  # the columns that hold names or values in type of one width


class Picture(NamedTuple):
    """A PNG of the run with a caption."""

    title: str
    uri: str
    width: int
    height: int
    alt: str
    caption: str = ""
    kind: str = ""


class Group(NamedTuple):
    """Blocks in a ``grid`` or in ``details``, pictures as ``frames``, or ``cards``, ``facts`` and ``commands``."""

    kind: str
    items: Sequence[Any]
    title: str = ""


class Section(NamedTuple):
    """A part of the page under a heading of its own; of its blocks those that are ``None`` are left out."""

    id: str
    title: str
    blocks: Sequence[Any]


def missing(what: str, mode: str) -> Words:
    """What has not been made, and the mode that makes it."""
    return Words(what, "missing", f"--mode={mode}")


def grid(*blocks: Any) -> Group:
    """Blocks beside one another, where there are any."""
    return Group("grid", [each for each in blocks if each is not None])


def shown(value: Any) -> str:
    """A value of the configuration in words; nothing for none."""
    return DASH if value is None else json.dumps(value, ensure_ascii=False)


def numbers(found: Iterable[Quantity], caption: str, *files: str) -> Table:
    """The quantities of some files with their intervals and how they were measured, row by row."""
    rows = [[each.label, _lines(each), each.how] for each in found if each.file in files]
    return Table(caption, ["", "value", ""], rows)


def _lines(each: Quantity) -> list[tuple[str, str]]:
    """A number and under it its interval, and what that is for."""
    spans = [(f"95 % interval {each.interval}", "unit"), (each.interval_of, "unit")] if each.interval else []
    return [(each.text, ""), *spans]


def picture(run: Run, name: str, title: str, mode: str, caption: str = "", kind: str = "") -> Picture | None:
    """A PNG of the run; None if there is none."""
    found = run.picture(name)
    return None if found is None else Picture(title, *found, f"{title}: {caption or mode}", caption, kind)
