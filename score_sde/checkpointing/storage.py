"""Checkpoints on disk: written atomically, read without a trace. The only file that imports Orbax.

Orbax takes long to import. It is imported when the first checkpoint is read or written, so that no training waits for
it before its first step.

A checkpoint is a directory named after its step. It holds trees of arrays, JSON values, and an item ``digests`` with
the digests of all of them, which are verified when it is read.
"""

import asyncio
import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from score_sde.checkpointing.digests import descriptions, examine, json_digest
from score_sde.cluster import is_main
from score_sde.errors import UserError, explained
from score_sde.files import Bucket, failures, fetched, reason_of

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager

#: Orbax's mark of a complete checkpoint in a bucket, where a directory cannot be renamed as the last step.
COMPLETE = "commit_success.txt"
_DIGESTS = "digests"
_USUAL_LOOP = asyncio.new_event_loop
_LACKS = ("permission denied", "too many open files", "out of memory")  # faults of the reader, not of the checkpoint
_TRIES, _PAUSE = 20, 0.05  # seconds
_FULL = ("RESOURCE_EXHAUSTED", "No space left on device")  # as reported by tensorstore


class Damaged(Exception):
    """A checkpoint is unreadable or altered; the text says why."""


class Contents(NamedTuple):
    """The contents of a checkpoint."""

    trees: dict[str, Any]
    values: dict[str, Any]
    proven: bool  # whether there were digests to compare with


def steps_in(directory: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending; on disk, a checkpoint gets its name once complete."""
    try:
        found = [path for path in numbered(directory) if not isinstance(path, Bucket) or (path / COMPLETE).is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except failures(directory) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        raise UserError(f"Cannot read {directory} ({reason}); give yourself the right to read it.") from error
    return sorted(int(path.name) for path in found)


def numbered(directory: Path) -> list[Path]:
    """The entries of a directory that are named after a step."""
    return [path for path in directory.iterdir() if path.name.isascii() and path.name.isdigit()]


def read(
    path: Path,
    like: Mapping[str, Any],
    values: Collection[str] = (),
    *,
    check: Callable[[Mapping[str, Any]], None] = lambda values: None,
) -> Contents:
    """Read a checkpoint and verify that its arrays are finite and match their digests; all processes call it together.

    ``like`` has, for every tree, arrays or shapes with shardings; the number of devices at the time of writing does not
    matter. Values are items of JSON; items that an old checkpoint lacks are left out. ``check`` is called with them
    before the arrays are read.

    Raises:
        Damaged: If any process cannot read it, or it was altered.
        UserError: If ``check`` raises it, or the checkpoint holds other arrays than expected.
    """
    found: dict[str, Any] = {}
    trees: dict[str, Any] = {}
    written: dict[str, Any] | None = None
    with _agreed(path):
        written = _digests(path)
        there = [name for name in values if (path / name).is_dir()] if written is None else written["values"]
        found = {name: _value(path, name, written) for name in values if name in there}
        check(found)
        for name, tree in like.items():
            _check_described(path, name, tree, written)
            trees[name] = _read_arrays(path / name, tree)
    for name, tree in trees.items():
        examined = examine(tree)
        there = examined.digests if written is None else written["trees"][name]
        for array, digest in examined.digests.items():
            if there.get(array) != digest:
                raise Damaged(f"the digest of {name}{array} is not the one that was written")
        if examined.not_finite:
            raise Damaged(f"{name}{examined.not_finite[0]} has values that are not finite")
    return Contents(trees, found, written is not None)


def read_value(path: Path, name: str) -> Any:
    """One JSON item of a checkpoint, or ``None`` if it is missing or unreadable."""
    try:
        return _value(path, name, _digests(path))
    except Exception:  # any damage is reported when the arrays are read
        return None


class Store:
    """A directory of checkpoints, written in the background; all processes of a run use it together.

    Remains of a killed run are removed when the directory is opened.
    """

    def __init__(
        self, directory: Path, *, kept: Callable[[Sequence[int]], Collection[int]] = lambda steps: steps
    ) -> None:
        """Open the directory, creating it if needed.

        ``kept`` selects the steps to keep after another one has been written.
        """
        self.directory, self._kept = directory, kept
        self._opened: CheckpointManager | None = None
        self._loops = contextlib.ExitStack()
        if is_main():
            _remove_begun(directory)
        with writing_checkpoints(directory):
            directory.mkdir(parents=True, exist_ok=True)

    @property
    def _manager(self) -> "CheckpointManager":
        if self._opened is None:
            self._opened = _manager_of(self.directory, self._kept)
            self._loops.enter_context(_patient_loops())
        return self._opened

    @property
    def steps(self) -> list[int]:
        """Steps with a checkpoint, written or in progress, ascending."""
        return steps_in(self.directory) if self._opened is None else sorted(self._opened.all_steps())

    def save(self, step: int, trees: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint in the background, with its digests.

        Raises:
            NotFinite: If an array has values that are not finite; nothing is written then.
            UserError: If the directory cannot be written; earlier checkpoints stay as they are.
        """
        values, digests = dict(values or {}), {}
        for name, tree in trees.items():
            examined = examine(tree)
            if examined.not_finite:
                raise NotFinite(f"After step {step} {name}{examined.not_finite[0]} is not finite, and is not saved.")
            digests[name] = examined.digests
        proof = {"trees": digests, "values": {name: json_digest(value) for name, value in values.items()}}
        values[_DIGESTS] = {**proof, "own": json_digest(proof)}
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(
            **{name: ocp.args.StandardSave(tree) for name, tree in trees.items()},
            **{name: ocp.args.JsonSave(value) for name, value in values.items()},
        )
        with writing_checkpoints(self.directory):
            self._manager.save(step, args=items)

    def delete(self, step: int) -> None:
        """Remove a checkpoint."""
        with writing_checkpoints(self.directory):
            self._manager.delete(step)

    def reload(self) -> None:
        """List the directory again, after checkpoints were moved in or out."""
        if self._opened is not None:
            self._opened.reload()

    def close(self) -> None:
        """Wait for unfinished saves, and end the threads of the manager."""
        if (manager := self._opened) is None:
            return
        with self._loops, writing_checkpoints(self.directory):
            try:
                manager.wait_until_finished()
            finally:
                manager.close()


def _remove_begun(directory: Path) -> None:
    """Remove the remains of a failed save; threads of the same program may still write there for a moment."""
    for begun in directory.glob("*.orbax-checkpoint-tmp*"):
        for _ in range(_TRIES):
            shutil.rmtree(begun, ignore_errors=True)
            if not begun.exists():
                break
            time.sleep(_PAUSE)


class NotFinite(UserError):
    """Training reached infinite or NaN values, which are not saved."""


def _manager_of(directory: Path, kept: Callable[[Sequence[int]], Collection[int]]) -> "CheckpointManager":
    """Orbax's manager, without its own check for a scheduler's request to end the run.

    JAX ends all processes at the check whose number is one more than the largest number used by any of them so far. The
    training loop checks after every step and counts its checks; Orbax checks at every save and passes the step. Mixing
    the two would delay a SIGTERM by as many checks as the run has steps.
    """
    import orbax.checkpoint as ocp
    from etils import epath

    class Manager(ocp.CheckpointManager):
        def reached_preemption(self, step: int) -> bool:
            return False

    options = ocp.CheckpointManagerOptions(
        preservation_policy=_Kept(kept),
        cleanup_tmp_directories=True,
        lightweight_initialize=True,
        # Otherwise, on a full disk, threads that wait for a directory would delay the end of a program by 20 min.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    )
    return Manager(epath.Path(str(directory)), options=options)


class _Kept:
    """The rule for kept steps in the form of Orbax."""

    def __init__(self, kept: Callable[[Sequence[int]], Collection[int]]) -> None:
        self._kept = kept

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = set(self._kept(steps))
        return [step in kept for step in steps]


def _digests(path: Path) -> dict[str, Any] | None:
    """The verified digests of a checkpoint; ``None`` for a version that wrote none."""
    if not (path / _DIGESTS).is_dir():
        return None
    written = _read_json(path / _DIGESTS)
    own = written.pop("own", None)
    if own != json_digest(written):
        raise Damaged("its digests are damaged")
    return written


def _value(path: Path, name: str, written: Mapping[str, Any] | None) -> Any:
    value = _read_json(path / name)
    if written is not None and written["values"].get(name) != json_digest(value):
        raise Damaged(f"the digest of {name} is not the one that was written")
    return value


def _read_json(path: Path) -> Any:
    import orbax.checkpoint as ocp

    with fetched(path) as local:
        return ocp.JsonCheckpointHandler().restore(local)  # pyright: ignore[reportArgumentType]  # any path will do


def _read_arrays(path: Path, like: Any) -> Any:
    import orbax.checkpoint as ocp

    item = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
    with fetched(path) as local, _patient_loops():
        return ocp.StandardCheckpointHandler().restore(local, args=item)  # pyright: ignore[reportArgumentType]


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that waits for all of its tasks before it closes.

    When one array of a checkpoint cannot be read or written, Orbax abandons the others and closes their loop. When they
    finish nevertheless, threads of tensorstore print a traceback for each, as if the program had failed.
    """

    wanted = 0  # number of blocks that want such loops

    def close(self) -> None:
        if not self.is_closed() and (begun := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*begun, return_exceptions=True))
        super().close()


@contextlib.contextmanager
def _patient_loops() -> Iterator[None]:
    """A block in which asyncio, and thus Orbax, creates patient loops, until all overlapping blocks end."""
    _PatientLoop.wanted += 1
    asyncio.new_event_loop = _PatientLoop
    try:
        yield
    finally:
        _PatientLoop.wanted -= 1
        if not _PatientLoop.wanted:
            asyncio.new_event_loop = _USUAL_LOOP


def _check_described(path: Path, name: str, like: Any, written: Mapping[str, Any] | None) -> None:
    """Refuse a checkpoint with other arrays than expected; this is not damage."""
    if written is None:
        return
    here = {array: text.rpartition(" ")[0] for array, text in written["trees"].get(name, {}).items()}
    wanted = descriptions(like)
    for array in (*here, *wanted):
        if here.get(array) != wanted.get(array):
            raise UserError(
                f"The checkpoint {path} has {here.get(array, 'no array')} as {name}{array}, and the configuration "
                f"makes {wanted.get(array, 'none')} of it. If the configuration has changed, use that of the run (its "
                "config.json), with JAX_ENABLE_X64 as it was; otherwise start again with another --workdir."
            )


@contextlib.contextmanager
def _agreed(path: Path) -> Iterator[None]:
    """Turn any read error, in this process or another, into :class:`Damaged`.

    Raises:
        UserError: If the checkpoint is not at fault.
    """
    problem: Exception | None = None
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # Orbax and tensorstore raise anything, even a bare Exception
        problem = error
    from jax.experimental import multihost_utils

    good = multihost_utils.process_allgather(np.asarray(problem is None))
    if not np.all(good):
        if reason := next((text for text in _LACKS if text in str(problem).lower()), None):
            raise UserError(f"{path} cannot be read ({reason}); it may be as good as ever.") from problem
        raise Damaged("another process cannot read it" if problem is None else reason_of(problem)) from problem


def first_says(number: int) -> int:
    """Broadcast a number from the first process to all processes."""
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.asarray(number)))


def writing_checkpoints(path: Path) -> contextlib.AbstractContextManager[None]:
    """Turn a failure to write into a :class:`UserError`."""

    def explain(error: Exception) -> UserError:
        full = any(text in str(error) for text in _FULL)
        reason = reason_of(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else error)
        return UserError(
            f"Cannot write checkpoints to {path} ({reason}). Free some space or give another --workdir; complete "
            "checkpoints are untouched."
        )

    return explained(explain, (*failures(path), ValueError))
