"""Checkpoints on disk: written whole or not at all, read without a trace. The only file that imports Orbax.

A checkpoint is a directory named after its step. It holds trees of arrays and values that JSON can hold, and an item
``digests`` with the digests of all of them, by which it proves itself when it is read.
"""

import asyncio
import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from score_sde.checkpointing.digests import descriptions, examine, json_digest
from score_sde.cluster import is_main
from score_sde.errors import UserError
from score_sde.files import Bucket, failures, fetched, reason_of

#: What a checkpoint in a bucket holds once it is complete, as Orbax has it: there no name can come last.
COMPLETE = "commit_success.txt"
_DIGESTS = "digests"
_USUAL_LOOP = asyncio.new_event_loop
_LACKS = ("permission denied", "too many open files", "out of memory")  # of the reader, not of what is read
_TRIES, _PAUSE = 20, 0.05  # seconds
_FULL = ("RESOURCE_EXHAUSTED", "No space left on device")  # as tensorstore says it


class Damaged(Exception):
    """A checkpoint cannot be read, or is not what was written; the text says why."""


class Contents(NamedTuple):
    """What a checkpoint holds."""

    trees: dict[str, Any]
    values: dict[str, Any]
    proven: bool  # whether there were digests to compare with


def steps_in(directory: Path) -> list[int]:
    """Steps that have a complete checkpoint, ascending; on a disk a checkpoint gets its name once it is complete."""
    try:
        found = [path for path in numbered(directory) if not isinstance(path, Bucket) or (path / COMPLETE).is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except failures(directory) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        raise UserError(f"Cannot read {directory} ({reason}); give yourself the right to read it.") from error
    return sorted(int(path.name) for path in found)


def numbered(directory: Path) -> list[Path]:
    """What lies in a directory under the name of a step."""
    return [path for path in directory.iterdir() if path.name.isascii() and path.name.isdigit()]


def read(
    path: Path,
    like: Mapping[str, Any],
    values: Collection[str] = (),
    *,
    check: Callable[[Mapping[str, Any]], None] = lambda values: None,
) -> Contents:
    """Read a checkpoint, as arrays that are finite and whose digests are right; all processes call it together.

    Args:
        path: Of the checkpoint.
        like: For every tree, arrays or shapes with shardings of the expected structure. How many devices the checkpoint
            was written from does not matter.
        values: Names of other items, each anything that JSON can hold. One that an old checkpoint lacks is left out.
        check: Is shown the other items before the arrays are read, and may refuse them.

    Raises:
        Damaged: If it cannot be read by all processes, or is not what was written.
        UserError: If ``check`` says so, or the checkpoint holds other arrays than expected.
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
        if written is not None and (wrong := _differing(written["trees"][name], examined.digests)):
            raise Damaged(f"the digest of {name}{wrong} is not the one that was written")
        if examined.not_finite:
            raise Damaged(f"{name}{examined.not_finite[0]} has values that are not finite")
    return Contents(trees, found, written is not None)


def read_value(path: Path, name: str) -> Any:
    """One item of a checkpoint that JSON can hold, or ``None`` if it has none that can be read."""
    try:
        return _value(path, name, _digests(path))
    except Exception:  # whatever the damage is, it is told when the arrays are read
        return None


class Store:
    """A directory that checkpoints are written to in the background; all processes of a run use it together.

    What a run that was killed left behind is removed when the directory is opened.
    """

    def __init__(
        self, directory: Path, *, kept: Callable[[Sequence[int]], Collection[int]] = lambda steps: steps
    ) -> None:
        """Open, and create if need be, the directory.

        Args:
            directory: The same for all processes.
            kept: Which of some steps stay when another one has been written.
        """
        self.directory = directory
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Kept(kept),
            cleanup_tmp_directories=True,
            lightweight_initialize=True,
            # Threads that wait for a directory that a full disk refuses would hold up the end of a program for 20 min.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        if is_main():
            _remove_begun(directory)
        with writing_checkpoints(directory):
            self._manager = _Manager(epath.Path(str(directory)), options=options)
        self._loops = contextlib.ExitStack()
        self._loops.enter_context(_patient_loops())

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, or will have it when it is written, ascending."""
        return sorted(self._manager.all_steps())

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
        """Take notice of what was moved in or out."""
        self._manager.reload()

    def close(self) -> None:
        """Wait for saves under way, and end the threads of the manager."""
        with self._loops, writing_checkpoints(self.directory):
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()


def _remove_begun(directory: Path) -> None:
    """Remove what a save that failed has begun; threads of the same program may still be writing there for a moment."""
    for begun in directory.glob("*.orbax-checkpoint-tmp*"):
        for _ in range(_TRIES):
            shutil.rmtree(begun, ignore_errors=True)
            if not begun.exists():
                break
            time.sleep(_PAUSE)


class NotFinite(UserError):
    """A training has come to values that are infinite or not a number, and what has them is not saved."""


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, without its own question whether a scheduler wants the run to end.

    JAX ends all processes when the number of a question is one more than the greatest that any of them has asked.
    The loop asks after every step and counts; Orbax asks at every save, and says the step. A SIGTERM that came in
    between was heeded as many questions later as the run had steps.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class _Kept:
    """Orbax's form of a rule for which steps are kept."""

    def __init__(self, kept: Callable[[Sequence[int]], Collection[int]]) -> None:
        self._kept = kept

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = set(self._kept(steps))
        return [step in kept for step in steps]


def _digests(path: Path) -> dict[str, Any] | None:
    """The digests of a checkpoint, themselves proven; ``None`` for one of a version that wrote none."""
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
    with fetched(path) as local:
        return ocp.JsonCheckpointHandler().restore(local)  # pyright: ignore[reportArgumentType]  # any path will do


def _read_arrays(path: Path, like: Any) -> Any:
    item = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
    with fetched(path) as local, _patient_loops():
        return ocp.StandardCheckpointHandler().restore(local, args=item)  # pyright: ignore[reportArgumentType]


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that waits, before it closes, for whatever was begun in it.

    When one array of a checkpoint cannot be read or written, Orbax leaves the others alone and closes their loop. They
    end all the same, and tensorstore's threads print a traceback for each, as if the program had failed.
    """

    wanted = 0  # how many blocks want such loops

    def close(self) -> None:
        if not self.is_closed() and (begun := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*begun, return_exceptions=True))
        super().close()


@contextlib.contextmanager
def _patient_loops() -> Iterator[None]:
    """Orbax asks asyncio for its loops; in this block, and until all others end, it gets patient ones."""
    _PatientLoop.wanted += 1
    asyncio.new_event_loop = _PatientLoop
    try:
        yield
    finally:
        _PatientLoop.wanted -= 1
        if not _PatientLoop.wanted:
            asyncio.new_event_loop = _USUAL_LOOP


def _check_described(path: Path, name: str, like: Any, written: Mapping[str, Any] | None) -> None:
    """Refuse a checkpoint of other arrays than expected; that is no damage."""
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


def _differing(written: Mapping[str, str], found: Mapping[str, str]) -> str | None:
    """The name of an array whose digest is not the one that was written."""
    return next((name for name, digest in found.items() if written.get(name) != digest), None)


@contextlib.contextmanager
def _agreed(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while reading, in this process or in another one, into :class:`Damaged`.

    Raises:
        UserError: If it is not the checkpoint that is at fault.
    """
    problem: Exception | None = None
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # Orbax and tensorstore raise anything, a bare Exception too
        problem = error
    if not _all(problem is None):
        if reason := next((text for text in _LACKS if text in str(problem).lower()), None):
            raise UserError(f"{path} cannot be read ({reason}); it may be as good as ever.") from problem
        raise Damaged("another process cannot read it" if problem is None else reason_of(problem)) from problem


def _all(good: bool) -> bool:
    """Whether something is so in every process."""
    if jax.process_count() == 1:
        return good
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(good))))


def first_says(number: int) -> int:
    """A number that the first process knows, in every process."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.asarray(number)))


@contextlib.contextmanager
def writing_checkpoints(path: Path) -> Iterator[None]:
    """Turn a refusal to write into a :class:`UserError`."""
    try:
        yield
    except UserError:
        raise
    except (*failures(path), ValueError) as error:
        full = any(text in str(error) for text in _FULL)
        reason = reason_of(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else error)
        raise UserError(
            f"Cannot write checkpoints to {path} ({reason}). Free some space or give another --workdir; complete "
            "checkpoints are untouched."
        ) from error
