"""Snapshots of parameter averages, all of which are kept."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from score_sde.checkpointing.storage import Damaged, Store, read, steps_in
from score_sde.checkpointing.uploads import Uploads, store_in
from score_sde.errors import UserError
from score_sde.typing import Params


class DamagedSnapshot(UserError):
    """An average of a step is unreadable or altered; the others remain valid.

    Attributes:
        name: Its step and relative width.
    """

    def __init__(self, step: int, width: float, reason: str) -> None:
        """Name the snapshot and the reason."""
        super().__init__(f"The snapshot {reason}.")
        self.name = (step, width)


class Snapshots:
    """Read-only access to the snapshots in ``workdir/averages``: nothing is written, created or removed."""

    def __init__(self, workdir: Path) -> None:
        """Look below ``workdir``, which may hold none."""
        self.directory = (workdir / "averages").absolute()

    @property
    def names(self) -> list[tuple[int, float]]:
        """Step and relative width of every average."""
        steps = steps_in(self.directory)
        return [(step, float(path.name)) for step in steps for path in sorted((self.directory / str(step)).glob("0.*"))]

    def load(self, step: int, width: float, like: Params) -> Params:
        """One average, with the structure and shardings of ``like``; all processes call it together."""
        path = self.directory / str(step)
        try:
            return read(path, {str(width): like}).trees[str(width)]
        except Damaged as error:
            raise DamagedSnapshot(step, width, f"{path / str(width)} cannot be read ({error})") from error


class SnapshotWriter(Snapshots, contextlib.AbstractContextManager["SnapshotWriter"]):
    """Read and write access to the snapshots for the training program; use it as a context manager.

    The directory is created with the first snapshot.
    """

    def __init__(self, workdir: Path) -> None:
        """Write below ``workdir``."""
        super().__init__(workdir)
        self._opened: Store | Uploads | None = None

    def __exit__(self, *exc: object) -> None:
        if self._opened is not None:
            self._opened.close()

    @property
    def _store(self) -> Store | Uploads:
        if self._opened is None:
            self._opened = store_in(self.directory)
        return self._opened

    def save(self, step: int, averages: Mapping[float, Params]) -> None:
        """Write the averages of a step, by relative width, in the background.

        Raises:
            NotFinite: If an average is not finite.
            UserError: If the directory cannot be written.
        """
        self._store.save(step, {str(width): tree for width, tree in averages.items()})

    def forget_after(self, step: int) -> None:
        """Remove snapshots of later steps, which a run resumed from ``step`` will write again."""
        if self.directory.is_dir():
            for later in [found for found in self._store.steps if found > step]:
                self._store.delete(later)
