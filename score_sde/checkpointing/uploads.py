"""Checkpoints in buckets.

One process writes them to a local directory and uploads them, to whatever bucket; several processes write each its own
part to ``gs://``, which Orbax does itself. Both mark a complete checkpoint in the same way, and reading fetches arrays.
"""

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from score_sde.checkpointing.storage import COMPLETE, Store, numbered, steps_in, writing_checkpoints
from score_sde.errors import UserError
from score_sde.files import Bucket

Kept = Callable[[Sequence[int]], Collection[int]]


def store_in(directory: Path, *, kept: Kept = lambda steps: steps) -> "Store | Uploads":
    """What writes checkpoints to a directory, or to a bucket; see :class:`.Store`.

    Raises:
        UserError: If the directory cannot be written, or several processes have a bucket that only one can write to.
    """
    if not isinstance(directory, Bucket):
        return Store(directory, kept=kept)
    if jax.process_count() == 1:
        return Uploads(directory, kept=kept)
    if not str(directory).startswith("gs://"):
        raise UserError(
            f"Several processes cannot write checkpoints to {directory}; give them one in gs://, or a disk."
        )
    return Store(directory, kept=kept)


class Uploads:
    """A directory of checkpoints in a bucket, for a program of one process; each save is waited for.

    The mark that a checkpoint is complete comes last and goes first. What a killed run left without it is removed when
    the directory is opened.
    """

    def __init__(self, directory: Bucket, *, kept: Kept) -> None:
        """Open the directory; for the rest see :class:`.Store`."""
        self.directory, self._kept = directory, kept
        with writing_checkpoints(directory):
            complete = steps_in(directory)
            for begun in numbered(directory) if directory.is_dir() else ():
                if int(begun.name) not in complete:
                    (directory / begun.name).rmtree()

    @property
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return steps_in(self.directory)

    def save(self, step: int, trees: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint with its digests, and remove those that need not be kept; see :meth:`.Store.save`."""
        with tempfile.TemporaryDirectory() as folder:
            local = Store(Path(folder))
            try:
                local.save(step, trees, values)
            finally:
                local.close()
            written = Path(folder, str(step))
            with writing_checkpoints(self.directory):
                (written / COMPLETE).touch()
                (self.directory / str(step)).upload(written, last=COMPLETE)
        for old in set(steps := self.steps) - set(self._kept(steps)):
            self.delete(old)

    def delete(self, step: int) -> None:
        """Remove a checkpoint."""
        with writing_checkpoints(self.directory):
            (self.directory / str(step) / COMPLETE).unlink(missing_ok=True)
            (self.directory / str(step)).rmtree(missing_ok=True)

    def reload(self) -> None:
        """Nothing: the bucket is always listed anew."""

    def close(self) -> None:
        """Nothing: what was saved is there."""
