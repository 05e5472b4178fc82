"""Measurements that go on after an interruption."""

import logging
import zipfile
from pathlib import Path

import numpy as np

from score_sde.files import atomic_savez

log = logging.getLogger(__name__)


class Partial:
    """What has been measured so far, batch by batch, and the file that keeps it.

    Every batch is a row of four arrays, such as values, errors, evaluations and success, with an entry per example.
    """

    def __init__(self, path: Path | None, identity: str) -> None:
        """Go on with what a file holds, if it is of the same measurement.

        Args:
            path: The file; ``None`` to keep nothing.
            identity: What is measured. A file of another identity, or one that is damaged, is passed over.
        """
        self.rows: list[list[np.ndarray]] = []
        self.seconds = 0.0
        self._path, self._identity = path, identity
        if path is None or not path.is_file():
            return
        try:
            with np.load(path) as found:
                if str(found["identity"]) == identity:
                    columns = [np.split(found[f"column{n}"], found["ends"][:-1]) for n in range(4)]
                    self.rows = [list(row) for row in zip(*columns, strict=True)]
                    self.seconds = float(found["seconds"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            log.warning("%s cannot be read (%s); measuring from the beginning.", path, error)
        if self.rows:
            log.info("Going on after %d examples that were measured before.", sum(len(row[0]) for row in self.rows))

    def add(self, row: list[np.ndarray], seconds: float) -> None:
        """Add a batch, and the seconds that it took."""
        self.rows.append(row)
        self.seconds += seconds
        if self._path is not None:
            columns = {f"column{n}": column for n, column in enumerate(self.columns())}
            ends = np.cumsum([len(row[0]) for row in self.rows])
            atomic_savez(
                self._path, identity=np.asarray(self._identity), seconds=np.asarray(self.seconds), ends=ends, **columns
            )

    def columns(self) -> list[np.ndarray]:
        """The four arrays of all batches."""
        return [np.concatenate(column) for column in zip(*self.rows, strict=True)]

    def remove(self) -> None:
        """Remove the file, when all is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
