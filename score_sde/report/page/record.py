"""The last part of a page: the configuration, how everything was made, and the files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from score_sde.files import failures
from score_sde.report.figures import DASH, num_bytes
from score_sde.report.page.blocks import Group, Section, Table, Words, missing
from score_sde.report.quantities import Quantity
from score_sde.report.run import ARTEFACTS, PAGES, PICTURES, Run, default_fields, flat_config, grouped

_MAX_LISTED = 200  # files that a page names


def configuration(run: Run, found: Sequence[Quantity]) -> Section:
    """The fields that differ from the defaults, and under them all fields by group."""
    fields = flat_config(run)
    if not fields:
        words = missing("There is no config.json yet:", "train")
        return Section("configuration", "Configuration", [words])
    defaults = default_fields()
    known = json.loads(json.dumps({name: value for name, value in fields.items() if name in defaults}))
    changed = sorted(name for name, value in known.items() if value != defaults[name])
    unknown = ", ".join(sorted(fields.keys() - defaults.keys()))
    rows = [[name, shown(fields[name]), shown(defaults[name])] for name in changed]
    everything = [
        Table(
            f"Fields of {group}",
            [group, "value", ""],
            [[name, shown(part[name]), _mark(group, name, changed)] for name in sorted(part)],
            "fields",
            (0, 1),
        )
        for group, part in sorted(grouped(fields).items())
    ]
    blocks = [
        Words(f"{len(changed)} of {len(fields)} fields differ from the defaults."),
        Table("Fields that differ from the defaults", ["field", "value", "default"], rows, "fields", (0, 1, 2)),
        Words(f"Fields that this version does not know: {unknown}.") if unknown else None,
        Group("details", everything, f"All {len(fields)} fields"),
    ]
    return Section("configuration", "Configuration", blocks)


def provenance(run: Run, found: Sequence[Quantity]) -> Section:
    """The command, date, step and machine of every result."""
    commands = run.commands()
    block = Group("commands", commands) if commands else missing("Nothing has been measured yet:", "demo")
    return Section("provenance", "How it was run", [block])


def files(run: Run, found: Sequence[Quantity]) -> Section:
    """What lies in the working directory, and what does not yet with the mode that makes it."""
    words = {name: (mode, text) for name, text, mode in (*PICTURES, *ARTEFACTS) if name not in PAGES}
    names = {path.name for place in (run.path, run.results) if place is not None for path in place.iterdir()}
    present = sorted(run.find(name) for name in names if not name.startswith(".") and name not in PAGES)
    rows = [[path.name, _size(path), words.get(path.name, ("", ""))[1]] for path in present[:_MAX_LISTED]]
    absent = [[name, f"--mode={mode}", text] for name, (mode, text) in sorted(words.items()) if name not in names]
    more = Table("Files not made yet", ["file", "made by", "what it holds"], absent, "files", (0, 1))
    left = len(present) - _MAX_LISTED
    blocks = [
        Table("Files", ["file", "size", "what it holds"], rows, "files", (0,)),
        Words(f"{left} more are not listed.") if left > 0 else None,
        Group("details", [more] if absent else [], f"{len(absent)} more that other modes make"),
    ]
    return Section("files", "Files", blocks)


def shown(value: Any) -> str:
    """A value of the configuration in words; nothing for none."""
    return DASH if value is None else json.dumps(value, ensure_ascii=False)


def _mark(group: str, name: str, changed: Sequence[str]) -> str:
    """Whether a field of a group is among those that differ from the defaults."""
    return "changed" if f"{group}.{name}".removeprefix("general.") in changed else ""


def _size(path: Path) -> str:
    try:
        if path.is_dir():
            count = sum(1 for _ in path.iterdir())
            return f"{count:,} entries" if count != 1 else "1 entry"
        return num_bytes(path.stat().st_size)
    except failures(path):
        return DASH
