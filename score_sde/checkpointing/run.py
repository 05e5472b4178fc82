"""The checkpoints of a run: reading leaves no trace, and only the training program writes."""

import contextlib
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

Check = Callable[[Path, Mapping[str, Any]], None]  #: raises if the configuration in a checkpoint is of another run
_NONE = -1  # stands for no step

log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """The contents of a checkpoint."""

    state: TrainState
    iterator: dict[str, Any]
    window: dict[str, list[float]]  # metrics of the steps since the last logged line
    config: dict[str, Any]
    x64: bool | None  # whether written with JAX_ENABLE_X64; None from an earlier version


class Checkpoints:
    """Read-only access to the checkpoints in ``workdir/checkpoints``: nothing is written, created or removed.

    A run may thus be sampled and measured while it trains, and in a read-only directory.
    """

    def __init__(self, workdir: Path) -> None:
        """Look below ``workdir``, which may hold none."""
        self.directory = (workdir / "checkpoints").absolute()

    @property
    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        return steps_in(self.directory)

    def restore_newest(
        self, like: TrainState, *, among: Collection[int] | None = None, check: Check = lambda path, config: None
    ) -> Restored | None:
        """The newest intact checkpoint, or ``None`` if there are no checkpoints.

        Damaged checkpoints are skipped, with one warning.

        ``like`` holds arrays, or shapes with shardings; the number of devices at the time of writing does not matter.
        ``check`` is called with the path and the configuration of a checkpoint before its arrays are read.

        Raises:
            UserError: If there are checkpoints but none can be read, or ``check`` refuses one.
        """
        restored, damaged = self._newest(like, among, check)
        self._report(restored, damaged)
        return restored

    def _report(self, restored: Restored | None, damaged: Mapping[int, str]) -> None:
        """Warn about skipped checkpoints, if any; refuse if no intact one is left."""
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
        """The newest good checkpoint, and the damage of newer ones by step."""
        tried: set[int] = set()
        damaged: dict[int, str] = {}
        while True:
            # List again each time: a run in training may remove old checkpoints and write new ones.
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


class CheckpointWriter(Checkpoints, contextlib.AbstractContextManager["CheckpointWriter"]):
    """Read and write access to the checkpoints for the training program; use it as a context manager.

    A checkpoint appears under its step number only once complete, so a run killed while saving leaves the previous one
    intact. Remains of a killed save are removed when the directory is next opened.
    """

    def __init__(self, workdir: Path, *, keep: int = 3, keep_every: int = 0, keep_best: int = 0) -> None:
        """Open the checkpoints below ``workdir``, creating the directory if needed.

        Kept are the ``keep`` newest, those at multiples of ``keep_every`` (0 for none), and the ``keep_best`` with the
        lowest held-out loss.
        """
        super().__init__(workdir)
        self._keep, self._keep_every, self._keep_best = keep, keep_every, keep_best
        self._store = store_in(self.directory, kept=self._kept)
        self._losses = {step: _loss_of(self.directory / str(step)) for step in self.steps} if keep_best else {}

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for unfinished saves."""
        self._store.close()

    @property
    def steps(self) -> list[int]:
        """Steps with a checkpoint, written or in progress, ascending."""
        return self._store.steps

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

        ``window`` has the metrics of the steps since the last logged line; the held-out loss ranks checkpoints.

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
        """A clause that names the checkpoint to return to."""
        steps = self.steps
        return f"The checkpoint of step {steps[-1]} is kept" if steps else "No checkpoint had been written yet"

    def _kept(self, steps: Sequence[int]) -> set[int]:
        newest = sorted(steps)[-self._keep :]
        regular = [step for step in steps if self._keep_every and step % self._keep_every == 0]
        losses = {step: loss for step in steps if math.isfinite(loss := self._losses.get(step, math.nan))}
        best = sorted(losses, key=lambda step: losses[step])[: self._keep_best]
        return {*newest, *regular, *best}

    def _report(self, restored: Restored | None, damaged: Mapping[int, str]) -> None:
        """Move skipped checkpoints aside as well, since the run will reach their steps again."""
        super()._report(restored, damaged)
        if not damaged:
            return
        attic = self.directory.parent / "damaged_checkpoints"
        if is_main():
            attic.mkdir(exist_ok=True)
            for step in damaged:
                move(self.directory / str(step), attic / str(step))
        barrier("damaged checkpoints are moved")
        self._store.reload()


def _loss_of(checkpoint: Path) -> float:
    """The held-out loss of a checkpoint; nan if it has none."""
    loss = read_value(checkpoint, "loss")
    return float(loss) if isinstance(loss, int | float) else math.nan


def double_precision() -> bool:
    """Whether JAX computes in double precision by default, as with ``JAX_ENABLE_X64``."""
    return jnp.result_type(float) == jnp.float64


def newest_config(workdir: Path) -> dict[str, Any] | None:
    """The configuration of a run, or ``None`` if the directory holds no run.

    If ``config.json`` is missing, it comes from the newest readable checkpoint.

    Raises:
        UserError: If ``config.json`` is damaged.
    """
    steps = Checkpoints(workdir).steps
    remedy = "remove it, and the checkpoints tell what it was" if steps else "mend it or use another --workdir"
    if (found := read_json(workdir / "config.json", remedy=remedy)) is not None:
        return found
    return saved_config(workdir)


def saved_config(workdir: Path) -> dict[str, Any] | None:
    """The configuration of the newest readable checkpoint, or ``None`` if no checkpoint has one."""
    checkpoints = Checkpoints(workdir)
    saved = (read_value(checkpoints.directory / str(step), "config") for step in reversed(checkpoints.steps))
    return next((config for config in saved if isinstance(config, dict) and config), None)


def edited_record(workdir: Path, *, groups: Collection[str], free: Collection[str] = ()) -> str:
    """Advice for a ``config.json`` that contradicts the checkpoints of the run; empty if they agree.

    Only some groups of fields are compared; free fields may differ.
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
