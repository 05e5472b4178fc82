"""Experiment trackers: Weights & Biases, MLflow, and writers of the user's own, beside the files of a run.

A tracker is told what ``metrics.jsonl`` and TensorBoard are told, and the configuration. It stays on this machine
unless the environment of its library says otherwise. Only the first of several processes has one.
"""

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from score_sde.border import first_line
from score_sde.cluster import is_main
from score_sde.errors import UserError
from score_sde.fields.settings import leaves
from score_sde.files import Bucket, atomic_write_json, read_json
from score_sde.outside.parts import Part, Registry
from score_sde.training.writers import Numbers

#: The file of a run that says under which names its trackers know it.
NAMES = "trackers.json"
_LONGEST = 500  # characters of a value of the configuration in MLflow

log = logging.getLogger(__name__)


@runtime_checkable
class Writer(Protocol):
    """Where the metrics of a training run go.

    One of the user's own is a class or function ``(workdir, config)``, with the directory of the run and its fields as
    a nested dictionary; ``config.training.trackers`` names it as ``module:name``.
    """

    def write(self, step: int, metrics: Numbers, *, timings: Numbers | None = None) -> None:
        """Record the metrics of a step, and rates, such as steps per second."""

    def truncate(self, step: int) -> None:
        """Training goes on from this step: what was recorded after it comes again."""

    def flush(self) -> None:
        """A checkpoint is saved next, and what was written must not be lost."""

    def close(self) -> None:
        """Training ends, as it should or by an error."""


class _WandB:
    """A run of Weights & Biases in ``workdir/wandb``; ``WANDB_MODE=online`` sends it to ``WANDB_PROJECT``."""

    def __init__(self, workdir: Path, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb  # pyright: ignore[reportMissingImports]  # an extra of the package
        except ImportError as error:
            raise _missing("wandb", error) from error
        name = _known_as("wandb", workdir) or uuid.uuid4().hex[:8]
        _remember("wandb", workdir, name)
        self._run = wandb.init(
            dir=workdir,
            id=name,
            name=workdir.resolve().name,
            config=dict(config),
            mode=os.environ.get("WANDB_MODE", "offline"),
            project=os.environ.get("WANDB_PROJECT", "score_sde"),
            resume="allow" if os.environ.get("WANDB_MODE") == "online" else None,
            settings=wandb.Settings(silent=True, console="off"),
        )

    def write(self, step: int, metrics: Numbers, *, timings: Numbers | None = None) -> None:
        """Log all of them."""
        if step >= self._run.step:  # what is there already comes again with the same bits
            self._run.log({**_floats(metrics), **_floats(timings or {})}, step=step)

    def truncate(self, step: int) -> None:
        """Nothing: a run of theirs cannot be shortened."""

    def flush(self) -> None:
        """Nothing: their own process writes."""

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class _MLflow:
    """A run of MLflow, in ``workdir/mlflow.db`` unless ``MLFLOW_TRACKING_URI`` names another place."""

    def __init__(self, workdir: Path, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            import mlflow  # pyright: ignore[reportMissingImports]  # an extra of the package
        except ImportError as error:
            raise _missing("mlflow", error) from error
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table of its database
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workdir.resolve() / 'mlflow.db'}"
        self._entities = mlflow.entities
        self._client = mlflow.MlflowClient(tracking_uri=place)
        self._name, self._last = _known_as("mlflow", workdir), -1
        if self._name is None:
            self._name = self._client.create_run(self._experiment(), run_name=workdir.resolve().name).info.run_id
            _remember("mlflow", workdir, self._name)
            fields = [(name, str(value)[:_LONGEST]) for name, value in leaves(config).items()]
            self._client.log_batch(self._name, params=[self._entities.Param(*field) for field in fields])
        else:
            self._last = max((each.step for each in self._client.get_metric_history(self._name, "loss")), default=-1)
            self._client.update_run(self._name, status="RUNNING")

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "score_sde")
        known = self._client.get_experiment_by_name(name)
        return self._client.create_experiment(name) if known is None else known.experiment_id

    def write(self, step: int, metrics: Numbers, *, timings: Numbers | None = None) -> None:
        """Log all of them."""
        if step <= self._last:  # what is there already comes again with the same bits
            return
        now = int(1000 * time.time())
        values = {**_floats(metrics), **_floats(timings or {})}
        found = [self._entities.Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._name, metrics=found)

    def truncate(self, step: int) -> None:
        """Nothing: what was recorded is not recorded again."""

    def flush(self) -> None:
        """Nothing: every line is written at once."""

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._name)


def _check_writer(part: Part, made: Any) -> None:
    if not isinstance(made, Writer):
        lacking = [name for name in ("write", "truncate", "flush", "close") if not callable(getattr(made, name, None))]
        raise part.refused(f"makes a {type(made).__name__} without {', '.join(lacking)}", "a Writer")


#: Trackers by the names of ``config.training.trackers``, each made from the directory and the fields of a run.
TRACKERS: Mapping[str, Callable[..., Writer]] = Registry(
    "training.trackers", {"wandb": _WandB, "mlflow": _MLflow}, check=_check_writer
)


class Writers:
    """Several writers as one. The first is the run's own; training goes on without any other that fails."""

    def __init__(self, first: Writer, others: Mapping[str, Writer]) -> None:
        """Write to the first and to the others, by their names."""
        self._first, self._others = first, dict(others)

    def write(self, step: int, metrics: Numbers, *, timings: Numbers | None = None) -> None:
        """Record the metrics and rates of a step."""
        self._first.write(step, metrics, timings=timings)
        self._each(lambda writer: writer.write(step, metrics, timings=timings))

    def truncate(self, step: int) -> None:
        """Go on from a step."""
        self._first.truncate(step)
        self._each(lambda writer: writer.truncate(step))

    def flush(self) -> None:
        """Keep what was written."""
        self._first.flush()
        self._each(lambda writer: writer.flush())

    def close(self) -> None:
        """End all of them."""
        self._first.close()
        self._each(lambda writer: writer.close())

    def _each(self, act: Callable[[Writer], None]) -> None:
        for name, writer in list(self._others.items()):
            try:
                act(writer)
            except Exception as error:  # of a library, a network, or the user's code
                del self._others[name]
                log.warning(
                    "The tracker %s fails (%s); training goes on without it.", name, first_line(error) or type(error)
                )


def open_trackers(
    names: Iterable[str], options: Mapping[str, Any], workdir: Path, config: Mapping[str, Any]
) -> dict[str, Writer]:
    """The trackers of a run, by name; none in a process that is not the first.

    Raises:
        UserError: If the library of one is not installed, or one cannot be opened.
    """
    if not is_main():
        return {}
    found = {}
    for name in names:
        make, given = TRACKERS[name], {"workdir": workdir, "config": config}
        if isinstance(make, Part):
            found[name] = make.made(options, **given)
            continue
        if isinstance(workdir, Bucket):
            raise UserError(f"config.training.trackers names {name}, which keeps its files on a disk; leave it out.")
        try:
            found[name] = make(**given)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"The tracker {name} cannot be opened ({first_line(error) or type(error)}).") from error
    return found


def _missing(name: str, error: ImportError) -> UserError:
    return UserError(
        f"config.training.trackers names {name}, which is not installed ({first_line(error)}). Install it by "
        f"pip install 'score_sde[{name}]', or leave it out."
    )


def _floats(values: Numbers) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _known_as(tracker: str, workdir: Path) -> str | None:
    """The name of a run in a tracker, if it has been there before."""
    found = (read_json(workdir / NAMES, remedy="remove it for new runs of the trackers") or {}).get(tracker)
    return found if isinstance(found, str) else None


def _remember(tracker: str, workdir: Path, name: str) -> None:
    known = read_json(workdir / NAMES, remedy="remove it for new runs of the trackers") or {}
    atomic_write_json(workdir / NAMES, {**known, tracker: name})
