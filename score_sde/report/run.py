"""The contents of a working directory for its page. Unreadable files are named on the page and never stop it."""

import base64
import dataclasses
import functools
import json
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.checkpointing import newest_config
from score_sde.config import default_config, leaves
from score_sde.errors import UserError
from score_sde.files import Unreadable, read_arrays, read_bytes, read_json, read_json_lines
from score_sde.machine import hardware_line
from score_sde.report.figures import dig, number, series
from score_sde.report.results import MODES, misshapen, of_several_models, outdated
from score_sde.training.writers import Timings, read_timings

#: Each picture: file, description, and the mode that draws it.
PICTURES = (
    ("samples.png", "Samples", "sample"),
    ("trajectory.png", "From noise to data", "sample"),
    ("loss.png", "Training and held-out loss", "train"),
    ("likelihood.png", "Likelihood of the held-out examples", "likelihood"),
    ("bounds.png", "Likelihood and bounds side by side", "likelihood"),
    ("noise_levels.png", "Bits by noise level, and what importance-sampled times save", "likelihood"),
    ("interpolation.png", "Between held-out images, along the probability flow", "latents"),
    ("restoration.png", "Images drawn given observations of them", "restore"),
    ("confusion.png", "Held-out examples by their class and the class of the highest likelihood", "classify"),
    ("classifier.png", "Accuracy of the classifier of noisy data by noise level", "train_classifier"),
    ("pareto.png", "Quality of samplers against their cost", "pareto"),
)
#: Each file or directory: name, contents, and the mode that writes it.
ARTIFACTS = (
    ("config.json", "the configuration", "train"),
    ("data.json", "what the data are known by: shape, levels, number and fingerprint", "train"),
    ("checkpoints", "checkpoints: parameters, their average, optimizer, data position", "train"),
    ("metrics.jsonl", "losses, one JSON object per logged step", "train"),
    ("tensorboard", "the same for TensorBoard", "train"),
    ("sampling.json", "how samples were drawn", "sample"),
    ("samples.npz", "the samples", "sample"),
    ("likelihood.json", "the held-out likelihood", "likelihood"),
    ("likelihood.npz", "the likelihood of every held-out example", "likelihood"),
    ("eval.json", "the loss on the test split", "eval"),
    ("evaluation.json", "loss and metrics of every checkpoint that was measured, and the best", "eval"),
    ("metrics.json", "how far the samples of one of them are from the data", "eval"),
    ("statistics.npz", "the statistics of the data that samples are compared with", "stats"),
    ("progress", "what the model made of the same noise during training", "train"),
    ("latents.json", "how well data are encoded and decoded", "latents"),
    ("latents.npz", "codes of held-out data, and what they decode to", "latents"),
    ("restoration.json", "how good draws given observations are", "restore"),
    ("restoration.npz", "observations, and draws given them", "restore"),
    ("classification.json", "how often held-out data are likeliest in their own class", "classify"),
    ("classification.npz", "the likelihood of every held-out example in every class", "classify"),
    ("classifier.json", "the accuracy of the classifier of noisy data by noise level", "train_classifier"),
    ("dequantizer.json", "what the trained dequantizer is worth", "train_dequantizer"),
    ("pareto.json", "every sampler that was measured", "pareto"),
    ("pareto.md", "which sampler, grid and number of steps to take", "pareto"),
    ("plan.json", "what training was planned to need", "plan"),
    ("plan.md", "what training needs and how fast a chip would be", "plan"),
    ("report.html", "all of this as one page", "report"),
)
#: Pages about the other files. They list neither themselves nor each other's size, so that equal runs give equal pages.
PAGES = ("report.html", "summary.md")
_PNG = b"\x89PNG\r\n\x1a\n"
_PROGRESS = ("progress/step_*.png", "samples/step_*.png", "samples_*.png")
_MAX_FRAMES = 24  # pictures of samples during training on a page


class Image(NamedTuple):
    """A PNG embedded in the page."""

    uri: str
    width: int
    height: int


class Command(NamedTuple):
    """The origin of a result."""

    mode: str  # the mode
    how: str  # date, step and machine
    command: str  # the command line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The contents of a working directory."""

    path: Path  # the directory
    results: Path | None  # a directory that is searched for results first; ``None`` for none
    name: str
    # The configuration, from ``config.json`` or else a checkpoint; ``None`` if neither has it.
    config: dict[str, Any] | None
    records: list[dict[str, Any]]  # the lines of ``metrics.jsonl``
    reports: dict[str, dict[str, Any]]  # the other JSON objects, by file name
    timings: Timings  # rates and times of training, from the event files
    problems: list[str]  # sentences about unreadable files

    def find(self, name: str) -> Path:
        """The path of a file of the run, existing or not: with the other results, else in its directory."""
        return found_in(self.path, self.results, name)

    def report(self, name: str) -> dict[str, Any]:
        """A file of results; empty if missing. For ``metrics.jsonl``, the newest value of every metric."""
        if name == "metrics.jsonl":
            return {key: value for record in self.records for key, value in record.items()}
        return self.reports.get(name, {})

    @property
    def hardware(self) -> str:
        """A description of the machine of the first result that names one."""
        return next((line for each in self.reports.values() if (line := hardware_line(each.get("hardware")))), "")

    @property
    def subtitle(self) -> str:
        """The model, its data and the number of trained steps."""
        names = [self.setting(f"{group}.name") for group in ("data", "sde", "model")]
        step = self.newest("step")
        return " · ".join([*(str(name) for name in names if name), *([] if step is None else [f"step {number(step)}"])])

    def commands(self) -> list[Command]:
        """The origins of all results, each command once."""
        found = {}
        for name, report in self.reports.items():
            if "command" in report:
                date = str(report.get("date", "date not recorded")).replace("T", " ").replace("+00:00", " UTC")
                step = f", step {number(report['step'])}" if "step" in report else ""
                machine = hardware_line(report.get("hardware")) or "Hardware not recorded"
                command = Command(MODES[name], f"{date}{step}. {machine}.", str(report["command"]))
                found.setdefault((command.mode, command.command), command)
        return list(found.values())

    def series(self, name: str) -> list[tuple[float, float]]:
        """Steps and values of one metric of training; values may be NaN."""
        return series(self.records, name)

    def newest(self, name: str) -> Any:
        """The last value of one metric of training, or None."""
        return next((record[name] for record in reversed(self.records) if name in record), None)

    def setting(self, name: str) -> Any:
        """One field of the configuration, by its dotted name, or None."""
        return dig(self.config, *name.split("."))

    def picture(self, name: str) -> Image | None:
        """A PNG of the directory, ready for the page; None if missing or damaged (damage is noted as a problem)."""
        try:
            if (data := read_bytes(self.find(name))) is None:
                return None
        except Unreadable as error:
            self.note_problem(_problem(error))
            return None
        # A truncated PNG has no end chunk.
        if data[:8] != _PNG or data[12:16] != b"IHDR" or b"IEND" not in data[-12:]:
            self.note_problem(f"{name} is no whole PNG; run the mode that draws it again.")
            return None
        width, height = struct.unpack(">II", data[16:24])
        return Image("data:image/png;base64," + base64.b64encode(data).decode(), width, height)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of an ``.npz`` file; empty if none can be read."""
        try:
            return read_arrays(self.find(name)) or {}
        except Unreadable as error:
            self.note_problem(_problem(error))
            return {}

    def progress(self) -> list[tuple[int, str]]:
        """Steps and file names of pictures of samples during training, thinned evenly to the limit of a page."""
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
        """Record a problem, once."""
        if text not in self.problems:
            self.problems.append(text)


def read_run(workdir: Path, *, results: Path | None = None) -> Run:
    """Read a working directory, and results of its run in another; unreadable files are named in ``problems``."""
    problems: list[str] = []
    config = _read_object(workdir, problems, newest_config)
    found = {name: _read_object(found_in(workdir, results, name), problems) for name in MODES}
    reports = {name: report for name, report in found.items() if report is not None}
    records = _read_records(workdir / "metrics.jsonl", problems)
    problems += [*misshapen(reports), *of_several_models(reports)]
    problems += outdated(reports, max((record["step"] for record in records), default=0))
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


def check_run(workdir: Path) -> None:
    """Refuse a directory without a run."""
    if not workdir.is_dir():
        raise UserError(f"There is no directory {workdir} to report on; give the --workdir of a run.")
    known = ("config.json", "metrics.jsonl", *MODES)
    if not any((workdir / name).is_file() for name in known) and _read_object(workdir, [], newest_config) is None:
        raise UserError(
            f"There is no run in {workdir}: none of {', '.join(known)} is there; run another mode there first, such as "
            "--mode=train, or give the --workdir of a run."
        )


def found_in(workdir: Path, results: Path | None, name: str) -> Path:
    """The path of a file of a run, existing or not: with its other results, else in its directory."""
    return results / name if results is not None and (results / name).exists() else workdir / name


def parameter_count(run: Run) -> int | None:
    """The number of parameters, from the plan or the array list of the newest checkpoint; None if unknown."""
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


def grouped(fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Fields under dotted names by group; fields without a group are ``general``.

    >>> grouped({"seed": 1, "a.b": 2, "a.c": 3})
    {'general': {'seed': 1}, 'a': {'b': 2, 'c': 3}}
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, value in fields.items():
        group, _, field = name.rpartition(".")
        groups.setdefault(group or "general", {})[field] = value
    return groups


@functools.cache
def default_fields() -> dict[str, Any]:
    """The current defaults under dotted names, after a round trip through JSON."""
    return json.loads(json.dumps(leaves(default_config())))


def complete_config(run: Run) -> dict[str, Any]:
    """The configuration after a round trip through JSON, with current defaults for fields newer than the record."""
    return default_fields() | json.loads(json.dumps(flat_config(run)))


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
    """The records of a metrics file; malformed lines, such as the last one after a crash, are counted as a problem."""
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
