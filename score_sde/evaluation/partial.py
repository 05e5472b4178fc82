"""Measurements that go on after an interruption."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from score_sde.files import Unreadable, atomic_savez, read_arrays, reason_of

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
        try:
            found = None if path is None else read_arrays(path)
            if found is not None and str(found["identity"]) == identity:
                self.rows, self.seconds = _rows(found), float(found["seconds"])
        except (Unreadable, ValueError, KeyError, TypeError) as error:
            reason = error.reason if isinstance(error, Unreadable) else reason_of(error)
            log.warning("%s cannot be read (%s); measuring from the beginning.", path, reason)
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


def _rows(found: Mapping[str, np.ndarray]) -> list[list[np.ndarray]]:
    """The batches in a file, each with a row of four arrays."""
    ends, columns = found["ends"], [np.atleast_1d(found[f"column{n}"]) for n in range(4)]
    if ends.ndim != 1 or not ends.size or ends.dtype.kind != "i" or not (np.diff(ends, prepend=0) > 0).all():
        raise ValueError("its batches do not follow one another")
    if any(len(column) != ends[-1] for column in columns):
        raise ValueError("its columns are not of one length")
    return [list(row) for row in zip(*(np.split(column, ends[:-1]) for column in columns), strict=True)]
