"""Batches on their way to the devices: a thread reads and places them ahead, without making the state less exact."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from score_sde.data.pipeline import TrainIterator
from score_sde.errors import UserError
from score_sde.fields import DEFAULTS
from score_sde.labels import data_of, stacked

WAITING_SECONDS = 900.0  # the longest wait for a batch
CLOSING_SECONDS = 5.0  # the longest wait for a read under way, before its processes are ended

PlacedT = TypeVar("PlacedT", bound=Any)  # an array, or arrays in a structure


class Feed(Iterator[PlacedT]):
    """An iterator over placed arrays that stays ahead of its consumer.

    One background thread reads batches, stacks them and puts them on the devices while the consumer computes.
    :meth:`get_state` is the position of the consumer, not of the thread, so that a checkpoint loses no batch and
    repeats none. The iterator belongs to the feed from construction on.

    Example:
        >>> from score_sde.data import load_source, make_train_iterator
        >>> batches = make_train_iterator(load_source("digits", "train"), batch_size=32, seed=0)
        >>> with Feed(batches, lambda batch: batch, per_dispatch=4, prefetch=2) as feed:
        ...     array = next(feed)
        ...     place = feed.get_state()
        >>> array.shape, place["grain"]
        ((4, 32, 8, 8, 1), {'next_index': 4})
    """

    def __init__(
        self,
        iterator: TrainIterator,
        place: Callable[[Any], PlacedT],
        *,
        per_dispatch: int = 1,
        prefetch: int = DEFAULTS.data.prefetch,
    ) -> None:
        """Wrap an iterator; nothing is read before the first array is requested.

        ``place`` runs in a thread; it puts a host array ``(rows, *event)`` on the devices, or ``(per_dispatch, rows,
        *event)`` if several batches are stacked, and with labels both arrays in a :class:`~score_sde.labels.Labeled`.
        ``prefetch`` arrays are kept ready; 0 reads on demand, without a thread.
        """
        self._iterator = iterator
        self._place = place
        self._per_dispatch = per_dispatch
        self._prefetch = prefetch
        self._state = iterator.get_state()
        self._ahead: deque[Future[tuple[PlacedT, dict[str, Any]]]] = deque()
        self._thread: ThreadPoolExecutor | None = None
        self._failure: Exception | None = None
        self._dropping = False
        self._restart_clock()

    def __next__(self) -> PlacedT:
        """The next array.

        Raises:
            UserError: if no batch arrives for a quarter of an hour.
            Exception: any exception from reading or placing, now and at every later call, since the position in the
                stream is lost; :meth:`set_state` restores it.
        """
        start = time.perf_counter()
        if self._prefetch == 0:
            placed, self._state = self._read()
        else:
            self._top_up()
            if wait([self._ahead[0]], timeout=WAITING_SECONDS).not_done:
                raise UserError(
                    f"No batch came within {WAITING_SECONDS:g} s, expected one by then. Check that the data can be "
                    "read; config.data.workers=0 reads them in the training process."
                )
            placed, self._state = self._ahead[0].result()
            self._ahead.popleft()
            self._top_up()
        self._waited += time.perf_counter() - start
        self._examples += math.prod(data_of(placed).shape[: 2 if self._per_dispatch > 1 else 1])
        return placed

    def get_state(self) -> dict[str, Any]:
        """The state of the iterator after the last array handed out; see :meth:`TrainIterator.get_state`."""
        return self._state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`get_state` was called, dropping batches read ahead.

        Raises:
            UserError: as :meth:`TrainIterator.set_state`.
        """
        self._drop()
        self._iterator.set_state(state)
        self._state, self._failure = self._iterator.get_state(), None

    def throughput(self) -> dict[str, float]:
        """Speed since the last call, or since the feed was made, by the wall clock: not reproducible.

        Returns:
            ``images_per_second``: examples handed out per second, by all processes if ``place`` makes global arrays.
            ``data_wait_fraction``: the share of the time that the consumer spent waiting for data, in ``[0, 1]``: near
            1, data limit the speed of training.
        """
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        rates = {"images_per_second": self._examples / elapsed, "data_wait_fraction": self._waited / elapsed}
        self._restart_clock()
        return rates

    def close(self) -> None:
        """End the thread, after the read under way, and the iterator's worker processes.

        The feed may be used again: it then continues after the last array handed out.
        """
        self.set_state(self._state)
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def __enter__(self) -> "Feed[PlacedT]":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _top_up(self) -> None:
        """Keep ``prefetch`` reads in flight or done."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed")
        while len(self._ahead) < self._prefetch:
            self._ahead.append(self._thread.submit(self._read))

    def _read(self) -> tuple[PlacedT, dict[str, Any]]:
        """The next array and the state of the iterator after it."""
        if self._failure is not None:
            raise self._failure
        try:
            batches = [self._next_batch() for _ in range(self._per_dispatch)]
            placed = self._place(stacked(batches) if self._per_dispatch > 1 else batches[0])
        except Exception as error:
            self._failure = error
            raise
        return placed, self._iterator.get_state()

    def _next_batch(self) -> Any:
        if self._dropping:
            raise RuntimeError("what was read ahead is dropped")
        return next(self._iterator).examples

    def _drop(self) -> None:
        """Drop batches read ahead. A read under way is waited for, and ended if it takes long."""
        for future in self._ahead:
            future.cancel()
        self._dropping = True
        if wait([future for future in self._ahead if not future.cancelled()], timeout=CLOSING_SECONDS).not_done:
            self._iterator.close()
        for future in self._ahead:
            if not future.cancelled():
                future.exception()
        self._ahead.clear()
        self._dropping = False

    def _restart_clock(self) -> None:
        self._since = time.perf_counter()
        self._waited, self._examples = 0.0, 0
