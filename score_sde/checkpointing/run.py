"""The checkpoints of a run: read without a trace, and written by the one program that trains."""

import functools
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from score_sde.checkpointing.storage import Damaged, first_says, read, read_value, steps_in
from score_sde.checkpointing.uploads import store_in
from score_sde.cluster import barrier, is_main
from score_sde.config import changed_fields
from score_sde.errors import UserError
from score_sde.files import move, read_json
from score_sde.state import TrainState

Check = Callable[[Path, Mapping[str, Any]], None]
_NONE = -1  # the step where there is none

log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    iterator: dict[str, Any]
    window: dict[str, list[float]]  # metrics of the steps since the last line that was logged
    config: dict[str, Any]
    x64: bool | None  # whether it was written with JAX_ENABLE_X64; an earlier version did not say


class Checkpoints:
    """The checkpoints in ``workdir/checkpoints``, to read: nothing is written, made or removed.

    So a run may be sampled and measured while it trains, and in a directory that is not writable.
    """

    def __init__(self, workdir: Path) -> None:
        """Look below ``workdir``, which need not hold any."""
        self.directory = (workdir / "checkpoints").absolute()

    @property
    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, ascending."""
        return steps_in(self.directory)

    def restore_newest(
        self, like: TrainState, *, among: Collection[int] | None = None, check: Check = lambda path, config: None
    ) -> Restored | None:
        """The newest checkpoint that can be read and is what was written, or ``None`` if there is none at all.

        Damaged checkpoints are passed over, which one warning says.

        Args:
            like: Arrays, or shapes with shardings, of the expected structure. How many devices the checkpoint was
                written from does not matter.
            among: The steps to choose from; all unless given.
            check: Is shown the place of a checkpoint and the configuration that it was saved under, before its arrays
                are read, and refuses one of another run.

        Raises:
            UserError: If there are checkpoints but none can be read, or ``check`` refuses one.
        """
        restored, damaged = self._newest(like, among, check)
        self._report(restored, damaged)
        return restored

    def _report(self, restored: Restored | None, damaged: Mapping[int, str]) -> None:
        """Say which checkpoints were passed over, if any.

        Raises:
            UserError: If there is no other.
        """
        if restored is None and damaged:
            raise UserError(
                f"None of the checkpoints {list(damaged)} in {self.directory} can be read "
                f"({next(iter(damaged.values()))}). If the configuration has changed, use that of the run (its "
                "config.json); otherwise start again with another --workdir."
            )
        if restored is not None and damaged:
            log.warning(
                "Checkpoint %s cannot be read (%s); going on from the checkpoint of step %d.",
                *(", ".join(map(str, damaged)), "; ".join(damaged.values()), int(restored.state.step)),
            )

    def _newest(
        self, like: TrainState, among: Collection[int] | None, check: Check
    ) -> tuple[Restored | None, dict[int, str]]:
        """The newest good checkpoint, and what is wrong with those that are newer."""
        tried: set[int] = set()
        damaged: dict[int, str] = {}
        while True:
            # Listed anew each time: the run that is being read may remove old ones and write others.
            left = [step for step in self.steps if step not in tried and (among is None or step in among)]
            step = first_says(max(left, default=_NONE))
            if step == _NONE:
                return None, damaged
            tried.add(step)
            try:
                return self._restore(step, like, check), damaged
            except Damaged as error:
                if step in self.steps:
                    damaged[step] = str(error)

    def _restore(self, step: int, like: TrainState, check: Check) -> Restored:
        path = self.directory / str(step)

        def check_values(values: Mapping[str, Any]) -> None:
            if values.get("config"):  # an early version saved none
                check(path, values["config"])

        contents = read(path, {"state": like}, ("iterator", "window", "config", "x64"), check=check_values)
        state, values = contents.trees["state"], contents.values
        if not contents.proven:
            _say_unproven(self.directory)
        if int(state.step) != step:
            raise Damaged(f"it is the state of step {int(state.step)}")
        items = (values.get(name, {}) for name in ("iterator", "window", "config"))
        return Restored(state, *items, x64=values.get("x64"))


class CheckpointWriter(Checkpoints):
    """The checkpoints of the run that is trained by this program; use it as a context manager.

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
        super().__init__(workdir)
        self._keep, self._keep_every, self._keep_best = keep, keep_every, keep_best
        self._store = store_in(self.directory, kept=self._kept)
        self._losses = {step: _loss_of(self.directory / str(step)) for step in self.steps} if keep_best else {}

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for saves under way."""
        self._store.close()

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, or will have it when it is written, ascending."""
        return self._store.steps

    def restore_newest(
        self, like: TrainState, *, among: Collection[int] | None = None, check: Check = lambda path, config: None
    ) -> Restored | None:
        """As of :class:`Checkpoints`; damaged ones are moved aside, for the run will come by their steps again."""
        restored, damaged = self._newest(like, among, check)
        self._report(restored, damaged)
        if damaged:
            self._move_aside(list(damaged))
        return restored

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
            NotFinite: If the state is not finite; earlier checkpoints stay as they are.
            UserError: If the directory cannot be written; likewise.
        """
        step = int(state.step)
        values = {"iterator": iterator, "window": dict(window or {}), "config": config}
        values["x64"] = double_precision()
        if loss is not None:
            values["loss"] = self._losses[step] = loss
        self._store.save(step, {"state": state}, values)

    def kept(self) -> str:
        """A clause that says which checkpoint there is to go back to."""
        steps = self.steps
        return f"The checkpoint of step {steps[-1]} is kept" if steps else "No checkpoint had been written yet"

    def _kept(self, steps: Sequence[int]) -> set[int]:
        """Which of some steps stay."""
        newest = sorted(steps)[-self._keep :]
        regular = [step for step in steps if self._keep_every and step % self._keep_every == 0]
        losses = {step: loss for step in steps if math.isfinite(loss := self._losses.get(step, math.nan))}
        best = sorted(losses, key=lambda step: losses[step])[: self._keep_best]
        return {*newest, *regular, *best}

    def _move_aside(self, steps: list[int]) -> None:
        attic = self.directory.parent / "damaged_checkpoints"
        if is_main():
            attic.mkdir(exist_ok=True)
            for step in steps:
                move(self.directory / str(step), attic / str(step))
        barrier("damaged checkpoints are moved")
        self._store.reload()


def _loss_of(checkpoint: Path) -> float:
    """The loss on held-out data that a checkpoint was saved with; nan for none."""
    loss = read_value(checkpoint, "loss")
    return float(loss) if isinstance(loss, int | float) else math.nan


def double_precision() -> bool:
    """Whether JAX computes in double precision where nothing else is said, as it does with ``JAX_ENABLE_X64``."""
    return jnp.result_type(float) == jnp.float64


def newest_config(workdir: Path) -> dict[str, Any] | None:
    """The configuration that a run was started with, or ``None`` if the directory holds no run.

    Where ``config.json`` is missing, the newest checkpoint that can be read tells its own.

    Raises:
        UserError: If ``config.json`` is damaged.
    """
    steps = Checkpoints(workdir).steps
    remedy = "remove it, and the checkpoints tell what it was" if steps else "mend it or use another --workdir"
    if (found := read_json(workdir / "config.json", remedy=remedy)) is not None:
        return found
    return saved_config(workdir)


def saved_config(workdir: Path) -> dict[str, Any] | None:
    """The configuration of the newest checkpoint that can be read, or ``None`` if no checkpoint tells one."""
    checkpoints = Checkpoints(workdir)
    saved = (read_value(checkpoints.directory / str(step), "config") for step in reversed(checkpoints.steps))
    return next((config for config in saved if isinstance(config, dict) and config), None)


def edited_record(workdir: Path, *, groups: Collection[str], free: Collection[str] = ()) -> str:
    """What to do about a ``config.json`` that says otherwise than the checkpoints of the run; empty if it does not.

    Args:
        workdir: The directory of the run.
        groups: The groups of fields to look at.
        free: Names of fields that may differ.
    """
    found, saved = read_json(workdir / "config.json"), saved_config(workdir)
    if found is None or saved is None or not changed_fields(saved, found, groups=groups, free=free):
        return ""
    return (
        f"{workdir / 'config.json'} says otherwise than the checkpoints there, as if it had been edited: remove it, "
        "and the configuration is taken from the checkpoints"
    )


@functools.cache
def _say_unproven(directory: Path) -> None:
    log.info("The checkpoints in %s are of an older version, without digests: damage may go unnoticed.", directory)
