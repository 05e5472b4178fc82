"""What a working directory holds, read so that nothing in it can stop the page: what is unreadable is named on it."""

import base64
import dataclasses
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.checkpointing import newest_config
from score_sde.config import default_config, leaves
from score_sde.errors import UserError
from score_sde.files import Unreadable, read_arrays, read_bytes, read_json, read_json_lines
from score_sde.report.forms import misshapen, of_several_models
from score_sde.report.page.figures import dig, finite, real
from score_sde.report.page.timings import Timings, read_timings
from score_sde.report.summary import found_in, outdated

#: The JSON a run may hold, and the mode that writes it.
REPORTS = {
    "sampling.json": "sample",
    "likelihood.json": "likelihood",
    "eval.json": "eval",
    "metrics.json": "eval",
    "evaluation.json": "eval",
    "pareto.json": "pareto",
    "latents.json": "latents",
    "dequantizer.json": "train_dequantizer",
    "plan.json": "plan",
    "import.json": "import",
}
_PNG = b"\x89PNG\r\n\x1a\n"
_PROGRESS = ("progress/step_*.png", "samples/step_*.png", "samples_*.png")
_MAX_FRAMES = 24  # pictures of samples through training that a page holds


class Picture(NamedTuple):
    """A PNG as the page holds it."""

    uri: str
    width: int
    height: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What was read from a working directory.

    Attributes:
        path: The directory.
        results: Where results are looked for before; ``None`` for nowhere else.
        name: Its name.
        config: The configuration, of the checkpoints where there is no ``config.json``; ``None`` if neither tells it.
        records: The lines of ``metrics.jsonl``.
        reports: The other JSON objects, by file name.
        timings: Rates and times of training, from the event files.
        problems: What could not be read, in words.
    """

    path: Path
    results: Path | None
    name: str
    config: dict[str, Any] | None
    records: list[dict[str, Any]]
    reports: dict[str, dict[str, Any]]
    timings: Timings
    problems: list[str]

    def find(self, name: str) -> Path:
        """Where a file of the run lies, or would lie: with the other results, else in its directory."""
        return found_in(self.path, self.results, name)

    def report(self, name: str) -> dict[str, Any]:
        """One of ``REPORTS``; empty if it is not there."""
        return self.reports.get(name, {})

    @property
    def metrics(self) -> dict[str, Any]:
        """Results of ``metrics.json`` by their names; empty if there are none."""
        found = self.report("metrics.json").get("metrics")
        return found if isinstance(found, dict) else {}

    def series(self, name: str) -> list[tuple[float, float]]:
        """Steps and values of one metric of training; values may be NaN."""
        found = []
        for record in self.records:
            step, value = finite(record.get("step")), real(record.get(name))
            if step is not None and value is not None:
                found.append((step, value))
        return found

    def newest(self, name: str) -> Any:
        """The last value of one metric of training, or None."""
        return next((record[name] for record in reversed(self.records) if name in record), None)

    def setting(self, name: str) -> Any:
        """One field of the configuration, by its dotted name, or None."""
        return dig(self.config, *name.split("."))

    def picture(self, name: str) -> Picture | None:
        """A PNG of the directory, ready for the page; None if it is missing or damaged, which is then a problem."""
        try:
            if (data := read_bytes(self.find(name))) is None:
                return None
        except Unreadable as error:
            self.note_problem(_problem(error))
            return None
        # A picture that was cut short has no end chunk.
        if data[:8] != _PNG or data[12:16] != b"IHDR" or b"IEND" not in data[-12:]:
            self.note_problem(f"{name} is no whole PNG; run the mode that draws it again.")
            return None
        width, height = struct.unpack(">II", data[16:24])
        return Picture("data:image/png;base64," + base64.b64encode(data).decode(), width, height)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of an ``.npz`` file; empty if there are none that can be read."""
        try:
            return read_arrays(self.find(name)) or {}
        except Unreadable as error:
            self.note_problem(_problem(error))
            return {}

    def progress(self) -> list[tuple[int, str]]:
        """Steps and file names of pictures of samples through training, evenly thinned to what a page holds."""
        for pattern in _PROGRESS:
            found = [
                (int(digits[0]), path.relative_to(self.path).as_posix())
                for path in self.path.glob(pattern)
                if (digits := re.findall(r"(\d{1,12})\.png$", path.name))
            ]
            if found:
                found.sort()
                chosen = np.linspace(0, len(found) - 1, min(len(found), _MAX_FRAMES)).round().astype(int)
                return [found[int(index)] for index in chosen]
        return []

    def note_problem(self, text: str) -> None:
        """Remember what could not be read, once."""
        if text not in self.problems:
            self.problems.append(text)


def read_run(workdir: Path, *, results: Path | None = None) -> Run:
    """Read a working directory, and results of its run that lie elsewhere.

    Raises:
        UserError: If it is missing, or there is nothing of a run in it.
    """
    if not workdir.is_dir():
        raise UserError(f"There is no directory {workdir} to report on; give the --workdir of a run.")
    known = ("config.json", "metrics.jsonl", *REPORTS)
    problems: list[str] = []
    config = _read_object(workdir, problems, newest_config)
    if config is None and not any((workdir / name).is_file() for name in known):
        raise UserError(
            f"There is no run in {workdir}: none of {', '.join(known)} is there; run another mode there first, such as "
            "--mode=train, or give the --workdir of a run."
        )
    found = {name: _read_object(found_in(workdir, results, name), problems) for name in REPORTS}
    reports = {name: report for name, report in found.items() if report is not None}
    records = _read_records(workdir / "metrics.jsonl", problems)
    problems += [*misshapen(reports, REPORTS), *of_several_models(reports)]
    problems += outdated(reports, REPORTS, max((record["step"] for record in records), default=0))
    return Run(
        path=workdir,
        results=results,
        name=workdir.resolve().name,
        config=config,
        records=records,
        reports=reports,
        timings=read_timings(workdir / "tensorboard"),
        problems=problems,
    )


def parameter_count(run: Run) -> int | None:
    """The number of parameters, from the plan or from the newest checkpoint's list of arrays; None if unknown."""
    planned = run.report("plan.json").get("parameters")
    newest = max(
        (run.path / "checkpoints").glob("[0-9]*"), key=lambda path: int(re.sub(r"\D", "", path.name)), default=None
    )
    listed = {} if newest is None else _read_object(newest / "state" / "_METADATA", []) or {}
    total = 0
    for leaf in (listed.get("tree_metadata") or {}).values() if isinstance(listed.get("tree_metadata"), dict) else ():
        keys, shape = dig(leaf, "key_metadata"), dig(leaf, "value_metadata", "write_shape")
        if isinstance(keys, list) and keys and dig(keys[0], "key") == "params" and isinstance(shape, list):
            total += int(np.prod([size for size in shape if isinstance(size, int)], dtype=np.int64))
    return total or (planned if isinstance(planned, int) else None)


def flat_config(run: Run) -> dict[str, Any]:
    """The fields of the configuration under dotted names."""
    return {} if run.config is None else leaves(run.config)


def complete_config(run: Run) -> dict[str, Any]:
    """The same as JSON gives them back, with today's defaults for fields that the record is older than."""
    return json.loads(json.dumps({**leaves(default_config()), **flat_config(run)}))


def _problem(error: Unreadable) -> str:
    return f"{error.path.name} cannot be read ({error.reason}); remove it and run the mode that writes it again."


def _read_object(
    path: Path, problems: list[str], read: Callable[[Path], dict[str, Any] | None] = read_json
) -> dict[str, Any] | None:
    try:
        return read(path)
    except Unreadable as error:
        problems.append(_problem(error))
    except UserError as error:
        problems.append(str(error))
    return None


def _read_records(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The lines of a metrics file; how many are none, as the last is after a crash, is a problem too."""
    try:
        records = read_json_lines(path)
    except Unreadable as error:
        problems.append(_problem(error))
        return []
    if records is None:
        return []
    if torn := sum(map(bool, path.read_bytes().split(b"\n"))) - len(records):
        problems.append(f"{torn} of the lines of {path.name} cannot be read; they are left out.")
    return records
