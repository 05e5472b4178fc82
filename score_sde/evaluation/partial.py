"""Resumable measurements."""

import json
import logging
import os
import re
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.cluster import is_main
from score_sde.data import Source
from score_sde.errors import plural
from score_sde.evaluation.base import Examples, Progress, examples
from score_sde.evaluation.results import digest
from score_sde.experiment import Experiment
from score_sde.files import Growing, Unreadable, atomic_write_json, read_json, reason_of, writing

_NAMED = re.compile(r"(?P<name>.+)\.[0-9a-f]{12}\.partial")  # as partial_file names them

log = logging.getLogger(__name__)


class Partial:
    """The results of a measurement so far, batch by batch, and their files.

    Every batch is a row of arrays, such as values, errors, evaluations and success, with an entry per example. Each
    batch is appended to one file of records, so results are never rewritten and need not fit into memory. A small file
    beside it holds the identity of the measurement and the number of complete records. In a bucket both are written
    only as often as takes a small share of the time.

    Attributes:
        batches: Number of batches.
        count: Number of examples in them.
        seconds: Time of their measurement.
    """

    def __init__(self, path: Path | None = None, identity: str = "", progress: Progress = lambda n: None) -> None:
        """Resume from the files, if they belong to the same measurement.

        Files of another identity, and damaged ones, are ignored. Without a path, results are in memory only; the file
        of records stays until :func:`discard`. ``progress`` is called with every number of examples that are finished
        or kept.
        """
        self.progress = progress
        self.batches = self.count = 0
        self.seconds = 0.0
        self._path, self._identity, self._digest = path, identity, 0
        self._file: Growing | None = None
        self._dtype: np.dtype[Any] | None = None
        self._in_memory: list[np.ndarray] = []  # in processes that do not write
        if path is None:
            return
        _tidy(path)
        try:
            if (found := read_json(_about(path))) is not None:
                self._go_on(found, path)
        # Whatever the damage, the measurement can be repeated.
        except Exception as error:
            reason = error.reason if isinstance(error, Unreadable) else reason_of(error)
            log.warning("%s cannot be read (%s); measuring from the beginning.", path, reason)

    def _go_on(self, found: dict[str, Any], path: Path) -> None:
        if found["identity"] != self._identity:
            log.info("%s is of another measurement, which is not gone on with.", path)
            return
        if found.pop("check", None) != _check(found):
            raise ValueError("it is not what was written")
        dtype = np.dtype([(name, kind, tuple(shape)) for name, kind, shape in found["columns"]])
        batches, count, seconds = int(found["batches"]), int(found["count"]), float(found["seconds"])
        if dtype.hasobject or not dtype.itemsize or not 0 < batches <= count or not seconds >= 0.0:
            raise ValueError("it is of another form")
        digest, left = 0, count * dtype.itemsize
        local = self._records(path).local
        with local.open("rb") as file:
            while left and (chunk := file.read(min(left, 1 << 24))):
                digest, left = zlib.crc32(chunk, digest), left - len(chunk)
        if left or digest != found["digest"]:
            raise ValueError("its records are not those that were written")
        self.batches, self.count, self.seconds, self._dtype, self._digest = batches, count, seconds, dtype, digest
        if not is_main():
            self._in_memory = [np.fromfile(local, dtype, count)]
        log.info("Going on after %d %s, kept in %s.", batches, plural(batches, "batch", "batches"), path)

    def add(self, row: list[np.ndarray], seconds: float) -> None:
        """Add a batch and its time in seconds."""
        if self._dtype is None:
            columns = [(f"column{n}", column.dtype.newbyteorder("<"), column.shape[1:]) for n, column in enumerate(row)]
            self._dtype = np.dtype(columns)
        records = np.empty(len(row[0]), self._dtype)
        for name, column in zip(records.dtype.names or (), row, strict=True):
            records[name] = column
        if self._path is None or not is_main():
            self._in_memory.append(records)
        else:
            self._append(records, self._path)
        self.batches, self.count, self.seconds = self.batches + 1, self.count + len(records), self.seconds + seconds
        if self._path is not None and self._records(self._path).publish(now=False):
            atomic_write_json(_about(self._path), self._known())

    def _append(self, records: np.ndarray, path: Path) -> None:
        data = records.tobytes()
        with writing(path):
            if not self.count:  # the files of another measurement are no longer valid
                _about(path).unlink(missing_ok=True)
            # Bytes after the complete batches are a batch cut short by a kill.
            with self._records(path).local.open("r+b" if self.count else "wb") as file:
                file.seek(self.count * records.dtype.itemsize)
                file.truncate()
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        self._digest = zlib.crc32(data, self._digest)

    def _records(self, path: Path) -> Growing:
        self._file = self._file or Growing(path)
        return self._file

    def _known(self) -> dict[str, Any]:
        assert self._dtype is not None
        fields = [(name, self._dtype[name]) for name in self._dtype.names or ()]
        known: dict[str, Any] = {
            "identity": self._identity,
            "columns": [[name, kind.base.str, list(kind.shape)] for name, kind in fields],
            "batches": self.batches,
            "count": self.count,
            "seconds": self.seconds,
            "digest": self._digest,
        }
        return known | {"check": _check(known)}

    def columns(self) -> list[np.ndarray]:
        """The arrays of all batches. Arrays in a file are read lazily, so use them before the file is removed.

        Raises:
            ValueError: If there are no batches.
        """
        if self._dtype is None:
            raise ValueError("Nothing has been measured.")
        if self._path is None or not is_main():
            records = np.concatenate(self._in_memory)
        else:
            records = np.memmap(self._records(self._path).local, self._dtype, mode="r", shape=(self.count,))
        return [np.asarray(records)[name] for name in self._dtype.names or ()]


def measured_in_parts(
    experiment: Experiment,
    source: Source,
    measure: Callable[[Examples], Sequence[Any]],
    kept: Partial,
    *,
    rows: int = 1,
    limit: int = 0,
) -> list[np.ndarray]:
    """Measure the batches of the first ``likelihood.num_examples`` that are not kept yet; return the columns of all.

    A ``limit`` other than 0 leaves fewer examples.

    ``measure`` maps a batch to columns with an entry per example. It may ask the network for several ``rows`` for each,
    so that a batch has fewer examples.
    """
    settings = experiment.settings.likelihood
    size = max(settings.batch_size // rows, 1)
    for batch in examples(experiment, source, batch_size=size, limit=limit or settings.num_examples):
        if batch.number >= kept.batches:
            start = time.perf_counter()
            columns = [np.asarray(column)[batch.mask] for column in measure(batch)]
            kept.add(columns, time.perf_counter() - start)
        kept.progress(int(batch.mask.sum()))
    return [np.array(column) for column in kept.columns()]


def partial_file(directory: Path, name: str, identity: str) -> Path:
    """The file of partial results; each measurement has its own, and files of other settings stay.

    >>> partial_file(Path("runs/a"), "samples", "seed 7").name
    'samples.d1ce346a5a03.partial'
    """
    return directory / f"{name}.{digest(identity)[:12]}.partial"


def discard(path: Path) -> None:
    """Remove the files of a measurement once its results are written."""
    if is_main():
        with writing(path):
            for file in (_about(path), path):
                file.unlink(missing_ok=True)


def _tidy(path: Path) -> None:
    """Report files of other settings beside a file of :func:`partial_file`, and remove those of earlier versions.

    The names of the latter have no digest.
    """
    if (named := _NAMED.fullmatch(path.name)) is None or not is_main():
        return
    for other in sorted(path.parent.glob("*.partial")):
        if other != path and (its := _NAMED.fullmatch(other.name)) and its["name"] == named["name"]:
            log.info("%s is of other settings, and stays for them.", other)

    for ending in ("", ".json", ".npz"):
        if (old := path.with_name(f"{named['name']}.partial{ending}")).is_file():
            log.info("%s is of an earlier version, and nothing goes on with it; it is removed.", old)
            with writing(old):
                old.unlink(missing_ok=True)


def _check(known: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(known, sort_keys=True).encode())


def _about(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
