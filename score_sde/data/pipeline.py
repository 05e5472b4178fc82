"""Batches: an infinite, seeded, resumable stream for training, and one padded pass over the data for evaluation.

A stream iterates over *batch numbers*, and the content of a batch is a pure function of the seed and its number. Hence
the whole state is one integer, a restored stream continues bit for bit, and batch ``b`` holds the same examples in
the same order however many processes share it: process ``p`` takes its rows ``p * local ... (p + 1) * local``, in the
order in which per-process arrays join into a global one. Shuffling an index at a time through grain would cost about 40
microseconds per example; a whole permutation per epoch costs a hundredth as much.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from score_sde.data.base import Source, labels_of
from score_sde.data.transforms import random_flip as flip_images
from score_sde.data.workers import Workers
from score_sde.errors import UserError
from score_sde.labels import Labeled

_FLIP_STREAM = 1  # separates the coin tosses of the flips from other draws with the same seed


@dataclasses.dataclass(frozen=True, eq=False)
class TrainBatch:
    """The rows of one training batch that belong to this process."""

    data: np.ndarray  # ``(batch_size // process_count, *event)``, as the source stores it
    index: np.ndarray  # the positions of the examples in the source, int64
    label: np.ndarray | None = None  # the classes of the examples, int32, if they were asked for

    @property
    def examples(self) -> Any:
        """The data, with their labels if they were asked for."""
        return self.data if self.label is None else Labeled(self.data, self.label)


@dataclasses.dataclass(frozen=True, eq=False)
class EvalBatch:
    """The rows of one evaluation batch that belong to this process."""

    data: np.ndarray  # ``(batch_size // process_count, *event)``
    mask: np.ndarray  # False for rows that only fill up the last batch
    index: np.ndarray  # the position of each row in the source, int64; a filling row repeats the last one
    label: np.ndarray | None = None  # the class of each row, int32, if labels were asked for

    @property
    def examples(self) -> Any:
        """The data, with their labels if they were asked for."""
        return self.data if self.label is None else Labeled(self.data, self.label)


class TrainIterator(Iterator[TrainBatch]):
    """An infinite iterator over :class:`TrainBatch` whose position in the stream can be saved and restored.

    The position is the number of batches taken. The state does not depend on who reads the batches, or how far ahead.
    """

    def __init__(self, open_at: Callable[[int], Iterator[TrainBatch]], stream: dict[str, Any]) -> None:
        """Wrap a stream.

        ``open_at`` gives the batches from a number on; a ``close`` method of its result ends processes. ``stream`` has
        the facts that identify the stream.
        """
        self._open_at = open_at
        self._stream = stream
        self._number = 0
        self._iterator: Iterator[TrainBatch] | None = None

    def __next__(self) -> TrainBatch:
        """The next batch; there always is one.

        Raises:
            UserError: if a worker process died.
        """
        if self._iterator is None:
            self._iterator = self._open_at(self._number)
        try:
            batch = next(self._iterator)
        except Exception:
            self.close()
            raise
        self._number += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """The position in the stream, as a JSON-serializable dictionary; the same on every process."""
        return {"grain": {"next_index": self._number}, "stream": dict(self._stream)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`get_state` was called; the numbers of processes and of workers may differ.

        So may the name of the data, if the data are the same. A state without a fingerprint comes from an earlier
        version, and only the number of examples is compared.

        Raises:
            UserError: if the state is not one of ours, or comes from a stream with other data, seed, batch size or
                augmentation, which could not be continued exactly.
        """
        saved, place = state.get("stream"), state.get("grain")
        if not isinstance(saved, dict) or not isinstance(place, dict):
            raise UserError(
                f"The data iterator's state has the keys {sorted(state)}, expected 'grain' and 'stream'. Restore it "
                "from an intact checkpoint."
            )
        for key, value in self._stream.items():
            old = saved.get(key, value if key == "contents" else None)
            if key != "source" and old != value:
                raise UserError(
                    f"The saved data stream has {key} = {old!r}, this run has {value!r}, expected the same, for the "
                    f"stream to continue exactly. Restore the old {key}, or start a new run."
                )
        self.close()
        self._number = int(place["next_index"])

    def close(self) -> None:
        """End the worker processes, if any; the next batch starts new ones and is unchanged."""
        if self._iterator is not None:
            getattr(self._iterator, "close", lambda: None)()
            self._iterator = None


def make_train_iterator(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    random_flip: bool = False,
    workers: int = 0,
    contents: str | None = None,
    labels: bool = False,
) -> TrainIterator:
    """An endless stream of batches; every epoch is a fresh permutation of the whole source.

    Batches run across the ends of epochs, so no example is ever dropped. Neither the order of the examples nor
    their flips depend on ``process_count`` or even on ``batch_size``: both belong to the position in the stream.

    Args:
        source: the examples; it may hold fewer than one batch.
        batch_size: the global batch size, over all processes.
        seed: determines order and flips; 0 to 2**32 - 1.
        process_index: index of the share of each batch to yield.
        process_count: number of processes that share each batch.
        random_flip: mirror each image with probability one half.
        workers: number of processes that read batches, each every ``workers``-th; 0 reads in this process. Workers help
            where examples must be decoded, and cost seconds to start. The source must then be picklable; one in memory
            is copied to each. The stream is the same for any number of workers.
        contents: the :func:`~score_sde.data.identity.fingerprint` of the source, which a restored state must share.
        labels: yield the classes of the examples too.

    Raises:
        UserError: for a batch size below 1 or not divisible by ``process_count``, a process index or seed out of
            range, fewer than 0 workers, flips of data that are not images, or labels of data that have none.

    Example:
        >>> from score_sde.data.sources import load_source
        >>> batches = make_train_iterator(load_source("digits", "train"), batch_size=64, seed=0)
        >>> next(batches).data.shape
        (64, 8, 8, 1)
    """
    local = _local_size(batch_size, process_index, process_count)
    if not 0 <= seed < 2**32:
        raise UserError(f"The data seed is {seed}, expected 0 to {2**32 - 1}. Choose another.")
    if workers < 0:
        raise UserError(f"{workers} data workers were asked for, expected 0 or more. Choose 0 to read in this process.")
    if random_flip and len(source.info.shape) != 3:
        raise UserError(
            f"Random flips were asked of {source.info.name}, whose examples have shape {source.info.shape}, expected "
            "images (height, width, channels). Switch random flips off."
        )
    if labels:
        labels_of(source, np.arange(1))
    read = _BatchReader(
        source=source,
        seed=seed,
        batch_size=batch_size,
        start=process_index * local,
        local=local,
        flips=random_flip,
        labels=labels,
    )
    stream = {
        "source": source.info.name,
        "num_examples": len(source),
        **({} if contents is None else {"contents": contents}),
        "batch_size": batch_size,
        "seed": seed,
        "random_flip": random_flip,
    }

    def open_at(number: int) -> Iterator[TrainBatch]:
        return Workers(read, number, count=workers) if workers else map(read, itertools.count(number))

    return TrainIterator(open_at, stream)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _BatchReader:
    """From a batch's number to this process's rows of it; picklable, for worker processes."""

    source: Source
    seed: int
    batch_size: int
    start: int  # the first row
    local: int  # the number of rows
    flips: bool
    labels: bool = False

    def __call__(self, number: int) -> TrainBatch:
        position = number * self.batch_size + self.start
        index = self._indices(position)
        data = self.source.gather(index)
        if self.flips:
            # PCG64 jumps ahead by any number of draws at once, and each image takes exactly one.
            rng = np.random.Generator(np.random.PCG64([self.seed, _FLIP_STREAM]).advance(position))
            data = flip_images(data, rng)
        return TrainBatch(data, index, labels_of(self.source, index) if self.labels else None)

    def _indices(self, position: int) -> np.ndarray:
        """The examples of this process from a position on: k is entry ``k % n`` of the permutation ``k // n``."""
        pieces, count = [], self.local
        while count > 0:
            epoch, place = divmod(position, len(self.source))
            pieces.append(_permutation(len(self.source), self.seed, epoch)[place : place + count])
            position, count = position + len(pieces[-1]), count - len(pieces[-1])
        return np.concatenate(pieces)


@functools.lru_cache(maxsize=2)  # a stream rarely looks back
def _permutation(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the examples in an epoch."""
    # RandomState's streams are frozen by NumPy, so a run resumes exactly under another version as well.
    return np.random.RandomState([seed, epoch]).permutation(num_examples)


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    limit: int | None = None,
    labels: bool = False,
) -> Iterator[EvalBatch]:
    """One pass over the source in its own order, in batches of one shape.

    The last batch is filled up by repeating the last example, with ``mask`` False there, so that each example
    counts exactly once. Every process yields the same number of batches.

    The batch size is the global one, over all processes, each of which yields the share of its index. Without a limit
    all examples are read.

    Raises:
        UserError: for a batch size below 1 or not divisible by ``process_count``, a process index out of range, a
            limit below 1, or labels of data that have none.

    Example:
        >>> from score_sde.data.sources import load_source
        >>> batches = list(eval_batches(load_source("digits", "test"), batch_size=100))
        >>> [int(batch.mask.sum()) for batch in batches], batches[-1].data.shape
        ([100, 100, 97], (100, 8, 8, 1))
    """
    local = _local_size(batch_size, process_index, process_count)
    if limit is not None and limit < 1:
        raise UserError(f"The limit is {limit} examples, expected at least 1. Raise it, or omit it to use all.")
    total = len(source) if limit is None else min(limit, len(source))

    # The checks above must run when the function is called, not when the first batch is requested.
    def batches() -> Iterator[EvalBatch]:
        for start in range(0, total, batch_size):
            position = start + process_index * local + np.arange(local)
            index = np.minimum(position, total - 1)
            label = labels_of(source, index) if labels else None
            yield EvalBatch(source.gather(index), position < total, index, label)

    return batches()


def _local_size(batch_size: int, process_index: int, process_count: int) -> int:
    """The rows of each batch that belong to one process."""
    if batch_size < 1:
        raise UserError(f"The batch size is {batch_size}, expected at least 1. Raise it.")
    if process_count < 1 or batch_size % process_count:
        raise UserError(
            f"The batch size {batch_size} does not divide among {process_count} processes, expected a multiple. "
            f"Choose {max(1, batch_size // max(process_count, 1)) * max(process_count, 1)}."
        )
    if not 0 <= process_index < process_count:
        raise UserError(f"The process index is {process_index}, expected 0 to {process_count - 1}.")
    return batch_size // process_count
