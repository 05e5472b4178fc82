"""A feed hands out the iterator's batches, knows the consumer's place, and says who waits for whom."""

import threading
import time
from collections.abc import Callable

import jax
import numpy as np
import pytest

from score_sde.data import ArraySource, Feed, SourceInfo, TrainIterator, make_train_iterator
from score_sde.errors import UserError

N = 23


class _Slow(ArraySource):
    """A source that takes its time, and fails if it is asked to."""

    def __init__(self, seconds: float = 0.0) -> None:
        images = np.random.RandomState(0).randint(0, 256, size=(N, 4, 5, 1)).astype(np.uint8)
        super().__init__(SourceInfo("noise", (4, 5, 1), 256, None), images)
        self.seconds = seconds
        self.reads = 0
        self.fails_at = -1

    def gather(self, indices: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds)
        self.reads += 1
        if self.reads == self.fails_at:
            raise UserError("the source failed, expected it not to. Mend it.")
        return super().gather(indices)


def _iterator(source: ArraySource | None = None) -> TrainIterator:
    return make_train_iterator(source or _Slow(), batch_size=6, seed=5, random_flip=True)


def _stacks(per_dispatch: int, count: int) -> list[np.ndarray]:
    batches = _iterator()
    stacks = [np.stack([next(batches).data for _ in range(per_dispatch)]) for _ in range(count)]
    return [stack[0] for stack in stacks] if per_dispatch == 1 else stacks


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("feed")]


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("per_dispatch", [1, 2])
def test_the_arrays_are_those_of_the_iterator_and_the_state_is_that_of_the_consumer(
    prefetch: int, per_dispatch: int
) -> None:
    expected = _stacks(per_dispatch, 8)
    with Feed(_iterator(), np.asarray, per_dispatch=per_dispatch, prefetch=prefetch) as feed:
        for number, stack in enumerate(expected[:5]):
            assert feed.get_state()["grain"] == {"next_index": number * per_dispatch}
            np.testing.assert_array_equal(next(feed), stack)
        state = feed.get_state()
    # What was read ahead of the state comes again: after a restart, in the same feed, and in one that was closed.
    restored = _iterator()
    restored.set_state(state)
    with Feed(restored, np.asarray, per_dispatch=per_dispatch, prefetch=prefetch) as second:
        for stack in expected[5:]:
            np.testing.assert_array_equal(next(second), stack)
        second.set_state(state)
        np.testing.assert_array_equal(next(second), expected[5])
    with feed:
        np.testing.assert_array_equal(next(feed), expected[5])
    assert not _threads()


def test_an_epoch_holds_every_example_once_however_far_the_thread_is_ahead() -> None:
    images = np.arange(24, dtype=np.uint8).reshape(24, 1, 1, 1)
    batches = make_train_iterator(ArraySource(SourceInfo("count", (1, 1, 1), 256, None), images), batch_size=4, seed=0)
    seen = []
    with Feed(batches, np.asarray, prefetch=5) as feed:
        for _ in range(3):
            seen.append(next(feed).ravel())
        feed.set_state(feed.get_state())
        for _ in range(3):
            seen.append(next(feed).ravel())
    assert sorted(np.concatenate(seen).tolist()) == list(range(24))


@pytest.mark.parametrize("prefetch", [1, 2, 4])
def test_the_thread_reads_no_more_ahead_than_it_may(prefetch: int) -> None:
    source = _Slow()
    with Feed(_iterator(source), np.asarray, prefetch=prefetch) as feed:
        assert source.reads == 0
        next(feed)
        deadline = time.monotonic() + 5
        while source.reads < 1 + prefetch and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert source.reads == 1 + prefetch


def test_placing_happens_in_the_thread_and_gives_device_arrays() -> None:
    places: list[str] = []

    def place(batch: np.ndarray) -> jax.Array:
        places.append(threading.current_thread().name)
        return jax.device_put(batch)

    with Feed(_iterator(), place, prefetch=1) as feed:
        np.testing.assert_array_equal(np.asarray(next(feed)), _stacks(1, 1)[0])
    assert places and all(name.startswith("feed") for name in places)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_reaches_the_consumer_in_its_turn_and_stays(prefetch: int) -> None:
    source = _Slow()
    source.fails_at = 5
    expected = _stacks(2, 3)
    with Feed(_iterator(source), np.asarray, per_dispatch=2, prefetch=prefetch) as feed:
        for stack in expected[:2]:
            np.testing.assert_array_equal(next(feed), stack)
        for _ in range(2):
            with pytest.raises(UserError, match="the source failed"):
                next(feed)
        assert feed.get_state()["grain"] == {"next_index": 4}
        # The first half of the array that failed is not lost.
        feed.set_state(feed.get_state())
        np.testing.assert_array_equal(next(feed), expected[2])
    assert not _threads()


def test_closing_waits_for_one_read_at_most() -> None:
    with Feed(_iterator(_Slow(0.1)), np.asarray, prefetch=30) as feed:
        next(feed)
        start = time.perf_counter()
    assert time.perf_counter() - start < 1.0
    assert not _threads()


def _measure(read: float, compute: float, prefetch: int, place: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
    with Feed(_iterator(_Slow(read)), place, prefetch=prefetch) as feed:
        next(feed)
        feed.throughput()
        for _ in range(8):
            next(feed)
            time.sleep(compute)
        return feed.throughput()


def test_a_slow_source_makes_the_consumer_wait_and_a_slow_consumer_does_not() -> None:
    waiting = _measure(read=0.05, compute=0.0, prefetch=2, place=np.asarray)
    assert waiting["data_wait_fraction"] > 0.8
    assert 0.5 * 6 / 0.05 < waiting["images_per_second"] < 1.2 * 6 / 0.05
    computing = _measure(read=0.001, compute=0.05, prefetch=2, place=np.asarray)
    assert computing["data_wait_fraction"] < 0.2
    assert 0.5 * 6 / 0.05 < computing["images_per_second"] < 1.2 * 6 / 0.05
    # Without a thread the two times add up instead of overlapping.
    synchronous = _measure(read=0.03, compute=0.03, prefetch=0, place=np.asarray)
    assert 0.35 < synchronous["data_wait_fraction"] < 0.65


def test_throughput_starts_anew_at_every_call_and_counts_what_was_placed() -> None:
    # On several processes a placed array holds the rows of all of them.
    with Feed(_iterator(_Slow(0.01)), lambda batch: np.tile(batch, (1, 4, 1, 1, 1)), per_dispatch=2) as feed:
        start = time.perf_counter()
        feed.throughput()
        next(feed)
        rates = feed.throughput()
        elapsed = time.perf_counter() - start
        assert rates["images_per_second"] >= 2 * 24 / elapsed * 0.99
        assert feed.throughput() == {"images_per_second": 0.0, "data_wait_fraction": 0.0}
