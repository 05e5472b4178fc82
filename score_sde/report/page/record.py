"""The last part of a page: the configuration, how everything was made, and the files."""

import json
from pathlib import Path
from typing import Any

from score_sde.config import default_config, leaves
from score_sde.files import failures
from score_sde.machine import hardware_line
from score_sde.report.page.figures import DASH, num_bytes, number
from score_sde.report.page.markup import Markup, code, element, join, note, table
from score_sde.report.page.run import REPORTS, Run, flat_config
from score_sde.report.page.sections import Section, missing
from score_sde.report.summary import ARTEFACTS, PICTURES

_MAX_LISTED = 200  # files that a page names


def configuration(run: Run) -> Section:
    """The fields that differ from the defaults, and under them all fields by group."""
    fields = flat_config(run)
    if not fields:
        return Section("configuration", "Configuration", missing("There is no config.json yet:", "train"))
    defaults = plain(leaves(default_config()))
    changed = [name for name, value in fields.items() if name in defaults and plain(value) != defaults[name]]
    unknown = [name for name in fields if name not in defaults]
    rows = [[code(name), code(shown(fields[name])), code(shown(defaults.get(name)))] for name in sorted(changed)]
    groups: dict[str, list[str]] = {}
    for name in fields:
        group, dot, _ = name.rpartition(".")
        groups.setdefault(group if dot else "general", []).append(name)
    body = join(
        note(f"{len(changed)} of {len(fields)} fields differ from the defaults."),
        table(["field", "value", "default"], rows, caption="Fields that differ from the defaults", class_="fields")
        if rows
        else None,
        note("Fields that this version does not know: ", ", ".join(sorted(unknown)), ".") if unknown else None,
        element(
            "details",
            element("summary", f"All {len(fields)} fields"),
            *(_group(group, names, fields, set(changed)) for group, names in sorted(groups.items())),
        ),
    )
    return Section("configuration", "Configuration", body)


def provenance(run: Run) -> Section:
    """The command, date, step and machine of every result."""
    blocks = []
    for name, mode in REPORTS.items():
        report = run.report(name)
        if "command" not in report:
            continue
        date = str(report.get("date", "date not recorded")).replace("T", " ").removesuffix("+00:00")
        step = f", step {number(report['step'])}" if "step" in report else ""
        blocks.append(
            element(
                "div",
                element("h3", mode.replace("_", " ")),
                note(f"{date} UTC{step}. {hardware_line(report.get('hardware'))}"),
                element("pre", element("code", report["command"]), tabindex="0"),
                class_="command",
            )
        )
    body = join(*blocks) if blocks else missing("Nothing has been measured yet:", "demo")
    return Section("provenance", "How it was run", body)


def files(run: Run) -> Section:
    """What lies in the working directory, and what does not yet with the mode that makes it."""
    words = {name: text for name, text, _ in ARTEFACTS} | {name: text for name, text, _ in PICTURES}
    makers = {name: mode for name, _, mode in (*ARTEFACTS, *PICTURES)} | REPORTS
    names = {path.name for place in (run.path, run.results) if place is not None for path in place.iterdir()}
    present = sorted(run.find(name) for name in names if not name.startswith(".") and name != "report.html")
    rows = [[code(path.name), _size(path), words.get(path.name, "")] for path in present[:_MAX_LISTED]]
    there = {path.name for path in present}
    absent = [
        [code(name), code(f"--mode={mode}"), words.get(name, "")]
        for name, mode in sorted(makers.items())
        if name not in there
    ]
    body = join(
        table(["file", "size", "what it holds"], rows, caption="Files", class_="files"),
        note(f"{len(present) - _MAX_LISTED} more are not listed.") if len(present) > _MAX_LISTED else None,
        element(
            "details",
            element("summary", f"{len(absent)} more that other modes make"),
            table(["file", "made by", "what it holds"], absent, caption="Files not made yet", class_="files"),
        )
        if absent
        else None,
    )
    return Section("files", "Files", body)


def plain(value: Any) -> Any:
    """A value as JSON gives it back, so that a tuple equals the list it was written as.

    >>> plain({"a": (1, 2)})
    {'a': [1, 2]}
    """
    return json.loads(json.dumps(value))


def shown(value: Any) -> str:
    """A value of the configuration in words; nothing for none."""
    return DASH if value is None else json.dumps(value, ensure_ascii=False)


def _group(group: str, names: list[str], fields: dict[str, Any], changed: set[str]) -> Markup:
    rows = [
        [
            code(name.rpartition(".")[2]),
            join(code(shown(fields[name])), element("em", " changed", class_="best") if name in changed else None),
        ]
        for name in sorted(names)
    ]
    return join(element("h3", group), table(["field", "value"], rows, caption=f"Fields of {group}", class_="fields"))


def _size(path: Path) -> str:
    try:
        if path.is_dir():
            count = sum(1 for _ in path.iterdir())
            return f"{count:,} entries" if count != 1 else "1 entry"
        return num_bytes(path.stat().st_size)
    except failures(path):
        return DASH
