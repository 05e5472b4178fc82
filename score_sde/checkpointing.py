"""Checkpoints: state, data iterator and configuration, written atomically; a damaged one falls back to its elder.

The only file that imports Orbax.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from score_sde.errors import UserError
from score_sde.training.state import TrainState

log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    iterator: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run, in ``workdir/checkpoints``; use it as a context manager.

    A checkpoint becomes visible under its step number only once it is complete, so a run that is killed while saving
    leaves the previous one intact.
    """

    def __init__(self, workdir: Path, *, keep: int = 3) -> None:
        """Open, and create if need be, the checkpoints below ``workdir``."""
        self.directory = (workdir / "checkpoints").absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise _unwritable(self.directory, error) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for saves under way."""
        try:
            self._manager.close()
        except (OSError, ValueError) as error:
            raise _unwritable(self.directory, error) from error

    @property
    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, iterator: dict[str, Any], config: dict[str, Any]) -> None:
        """Write a checkpoint in the background.

        Raises:
            UserError: If the directory cannot be written; earlier checkpoints stay as they are.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            iterator=ocp.args.JsonSave(iterator),
            config=ocp.args.JsonSave(config),
        )
        try:
            self._manager.save(int(state.step), args=items)
        except (OSError, ValueError) as error:
            raise _unwritable(self.directory, error) from error

    def restore_newest(self, like: TrainState, *, repair: bool = False) -> Restored | None:
        """The newest checkpoint that can be read, or ``None`` if there is none at all.

        Damaged checkpoints are named in a warning and passed over.

        Args:
            like: Arrays, or shapes with shardings, of the expected structure.
            repair: Move damaged checkpoints aside, for a run that will come by their steps again.

        Raises:
            UserError: If there are checkpoints but none can be read.
        """
        damaged: list[int] = []
        for step in reversed(self.steps):
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
        attic.mkdir(exist_ok=True)
        for step in steps:
            shutil.rmtree(attic / str(step), ignore_errors=True)
            shutil.move(self.directory / str(step), attic / str(step))
        self._manager.reload()

    def _restore(self, step: int, like: TrainState) -> Restored:
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like)),
            iterator=ocp.args.JsonRestore(),
        )
        restored = self._manager.restore(step, args=items)
        return Restored(restored["state"], restored["iterator"])


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


def _unwritable(path: Path, error: BaseException) -> UserError:
    return UserError(
        f"Cannot write checkpoints to {path} ({_first_line(error)}). Free some space or give another --workdir; "
        "complete checkpoints are untouched."
    )
