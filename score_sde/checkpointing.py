"""Checkpoints: state, data iterator and configuration, written atomically; a damaged one falls back to its elder.

The only file that imports Orbax.
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, EveryNSteps, LatestN

from score_sde.cluster import barrier, is_main
from score_sde.errors import UserError
from score_sde.training.state import TrainState
from score_sde.typing import Params

log = logging.getLogger(__name__)


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, without its own question whether a scheduler wants the run to end.

    JAX ends all processes when the number of a question is one more than the greatest that any of them has asked.
    The loop asks after every step and counts; Orbax asks at every save, and says the step. A SIGTERM that came in
    between was heeded as many questions later as the run had steps.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Restored(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    iterator: dict[str, Any]
    window: dict[str, list[float]]  # metrics of the steps since the last line that was logged


class Checkpoints:
    """The checkpoints of a run, in ``workdir/checkpoints``; use it as a context manager.

    A checkpoint becomes visible under its step number only once it is complete, so a run that is killed while saving
    leaves the previous one intact. What a kill leaves behind is removed when the directory is opened next.
    """

    def __init__(self, workdir: Path, *, keep: int = 3, keep_every: int = 0, keep_best: int = 0) -> None:
        """Open, and create if need be, the checkpoints below ``workdir``.

        Args:
            workdir: The directory of the run, the same for all processes.
            keep: How many of the newest stay.
            keep_every: Those at multiples of this step stay as well; 0 for none.
            keep_best: How many of those with the lowest loss on held-out data stay as well.
        """
        self.directory = (workdir / "checkpoints").absolute()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_policy(keep, keep_every, keep_best), cleanup_tmp_directories=True
        )
        with _writing(self.directory):
            self._manager = _Manager(self.directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for saves under way."""
        with _writing(self.directory):
            self._manager.close()

    @property
    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        state: TrainState,
        iterator: dict[str, Any],
        config: dict[str, Any],
        *,
        window: Mapping[str, list[float]] | None = None,
        loss: float | None = None,
    ) -> None:
        """Write a checkpoint in the background; all processes of a run call it together.

        Args:
            state: The state of training.
            iterator: The place in the data stream.
            config: The configuration.
            window: Metrics of the steps since the last line that was logged.
            loss: The loss on held-out data, by which the best are told.

        Raises:
            UserError: If the directory cannot be written; earlier checkpoints stay as they are.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            iterator=ocp.args.JsonSave(iterator),
            window=ocp.args.JsonSave(dict(window or {})),
            config=ocp.args.JsonSave(config),
        )
        with _writing(self.directory):
            self._manager.save(int(state.step), args=items, metrics=None if loss is None else {"loss": loss})

    def restore_newest(
        self, like: TrainState, *, among: Sequence[int] | None = None, repair: bool = False
    ) -> Restored | None:
        """The newest checkpoint that can be read, or ``None`` if there is none at all.

        Damaged checkpoints are named in a warning and passed over.

        Args:
            like: Arrays, or shapes with shardings, of the expected structure. How many devices the checkpoint was
                written from does not matter.
            among: The steps to choose from; all unless given.
            repair: Move damaged checkpoints aside, for a run that will come by their steps again.

        Raises:
            UserError: If there are checkpoints but none can be read.
        """
        damaged: list[int] = []
        for step in reversed(self.steps if among is None else sorted(among)):
            try:
                restored = self._restore(step, like)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("Checkpoint %d cannot be read (%s); trying the one before.", step, _first_line(error))
                damaged.append(step)
                continue
            if damaged:
                log.warning("Going on from the checkpoint of step %d.", step)
                if repair:
                    self._move_aside(damaged)
            return restored
        if damaged:
            raise UserError(
                f"None of the checkpoints {damaged} in {self.directory} can be read. If the configuration has changed, "
                "use that of the run (its config.json); otherwise start again with another --workdir."
            )
        return None

    def _move_aside(self, steps: list[int]) -> None:
        attic = self.directory.parent / "damaged_checkpoints"
        if is_main():
            attic.mkdir(exist_ok=True)
            for step in steps:
                shutil.rmtree(attic / str(step), ignore_errors=True)
                shutil.move(self.directory / str(step), attic / str(step))
        barrier("damaged checkpoints are moved")
        self._manager.reload()

    def _restore(self, step: int, like: TrainState) -> Restored:
        # Checkpoints of earlier versions have none.
        has_window = (self.directory / str(step) / "window").is_dir()
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like)),
            iterator=ocp.args.JsonRestore(),
            **({"window": ocp.args.JsonRestore()} if has_window else {}),
        )
        restored = self._manager.restore(step, args=items)
        return Restored(restored["state"], restored["iterator"], restored["window"] if has_window else {})


class Snapshots:
    """Snapshots of averages of the parameters, all of which are kept, in ``workdir/averages``.

    The directory is made with the first of them. Use it as a context manager.
    """

    def __init__(self, workdir: Path) -> None:
        """Open those below ``workdir``, if there are any."""
        self.directory = (workdir / "averages").absolute()
        self._opened: _Manager | None = None

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._opened is not None:
            with _writing(self.directory):
                self._opened.close()

    @property
    def _manager(self) -> _Manager:
        if self._opened is None:
            with _writing(self.directory):
                self._opened = _Manager(
                    self.directory, options=ocp.CheckpointManagerOptions(cleanup_tmp_directories=True)
                )
        return self._opened

    @property
    def names(self) -> list[tuple[int, float]]:
        """Step and relative width of every average there is."""
        if not self.directory.is_dir():
            return []
        steps = sorted(self._manager.all_steps())
        return [(step, float(path.name)) for step in steps for path in sorted((self.directory / str(step)).glob("0.*"))]

    def save(self, step: int, averages: Mapping[float, Params]) -> None:
        """Write the averages of a step, by relative width, in the background.

        Raises:
            UserError: If the directory cannot be written.
        """
        items = ocp.args.Composite(**{str(width): ocp.args.StandardSave(tree) for width, tree in averages.items()})
        with _writing(self.directory):
            self._manager.save(step, args=items)

    def load(self, step: int, width: float, like: Params) -> Params:
        """One of them, as arrays like those given.

        Raises:
            UserError: If it is damaged.
        """
        item = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{str(width): item}))[str(width)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            path = self.directory / str(step)
            raise UserError(
                f"The snapshot {path} cannot be read ({_first_line(error)}); remove it, and the others will do."
            ) from error

    def forget_after(self, step: int) -> None:
        """Remove those of later steps, which a run that goes on from ``step`` will write again."""
        if self.directory.is_dir():
            for later in [found for found in self._manager.all_steps() if found > step]:
                self._manager.delete(later)


def _policy(keep: int, keep_every: int, keep_best: int) -> Any:  # Orbax's protocol cannot be checked at run time
    policies: list[Any] = [LatestN(keep)]
    if keep_every:
        policies.append(EveryNSteps(keep_every))
    if keep_best:
        best = BestN(
            get_metric_fn=lambda m: m["loss"], reverse=True, n=keep_best, keep_checkpoints_without_metrics=False
        )
        policies.append(best)
    return AnyPreservationPolicy(policies)


def newest_config(workdir: Path) -> dict[str, Any] | None:
    """The configuration that a run was started with, or ``None`` if the directory holds no run."""
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read {path} ({_first_line(error)}); mend it or use another --workdir.") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a refusal to write into a :class:`UserError`."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(
            f"Cannot write checkpoints to {path} ({_first_line(error)}). Free some space or give another --workdir; "
            "complete checkpoints are untouched."
        ) from error
