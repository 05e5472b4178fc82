"""Checkpoints in buckets.

A single process writes them to a local directory and uploads them to any bucket. Several processes each write their own
part to ``gs://``, through Orbax. Both mark a complete checkpoint in the same way; reading fetches the arrays first.
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
    """The store of checkpoints in a directory or a bucket; see :class:`.Store`.

    Raises:
        UserError: If the directory cannot be written, or several processes use a bucket that takes only one writer.
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
    """A directory of checkpoints in a bucket, for a program of one process; saves are synchronous.

    The mark of a complete checkpoint is written last and removed first. Unmarked remains of a killed run are removed
    when the directory is opened.
    """

    def __init__(self, directory: Bucket, *, kept: Kept) -> None:
        """Open the directory; see :class:`.Store`."""
        self.directory, self._kept = directory, kept
        with writing_checkpoints(directory):
            complete = steps_in(directory)
            for begun in numbered(directory) if directory.is_dir() else ():
                if int(begun.name) not in complete:
                    (directory / begun.name).rmtree()

    @property
    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        return steps_in(self.directory)

    def save(self, step: int, trees: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint with its digests, and remove those not to be kept; see :meth:`.Store.save`."""
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
        """Nothing to do: the bucket is listed at every call."""

    def close(self) -> None:
        """Nothing to do: saves are complete."""
