"""The stream is a pure function of seed and place: complete, resumable, and blind to the number of processes."""

import json
import time
from itertools import islice
from typing import Any

import numpy as np
import pytest

from score_sde.data import (
    ArraySource,
    SourceInfo,
    TrainBatch,
    TrainIterator,
    eval_batches,
    load_source,
    make_train_iterator,
)
from score_sde.errors import UserError


def _source(n: int) -> ArraySource:
    """Images that differ from each other and from their mirror images."""
    images = np.random.RandomState(0).randint(0, 256, size=(n, 4, 5, 1)).astype(np.uint8)
    return ArraySource(SourceInfo("noise", (4, 5, 1), 256, None), images)


def _take(iterator: TrainIterator, count: int) -> list[TrainBatch]:
    return list(islice(iterator, count))


def _assert_same(left: list[TrainBatch], right: list[TrainBatch]) -> None:
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a.index, b.index)
        np.testing.assert_array_equal(a.data, b.data)


@pytest.mark.parametrize(("n", "batch_size"), [(12, 4), (10, 4), (3, 8), (1, 2), (97, 10)])
def test_every_epoch_holds_every_example_exactly_once(n: int, batch_size: int) -> None:
    epochs = 5
    batches = _take(make_train_iterator(_source(n), batch_size=batch_size, seed=1), -(-epochs * n // batch_size))
    order = np.concatenate([batch.index for batch in batches])[: epochs * n].reshape(epochs, n)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.broadcast_to(np.arange(n), (epochs, n)))


def test_epochs_and_seeds_differ_and_the_same_seed_agrees() -> None:
    def epochs(seed: int) -> np.ndarray:
        batches = _take(make_train_iterator(_source(50), batch_size=50, seed=seed), 2)
        return np.stack([batch.index for batch in batches])

    assert (epochs(0)[0] != epochs(0)[1]).any()
    assert (epochs(0) != epochs(1)).any()
    # Consecutive seeds must not give the same stream an epoch apart.
    assert (epochs(0)[1] != epochs(1)[0]).any()
    np.testing.assert_array_equal(epochs(7), epochs(7))


def test_the_shuffle_is_uniform_over_places() -> None:
    n, epochs = 10, 2000
    batches = _take(make_train_iterator(_source(n), batch_size=n, seed=0), epochs)
    order = np.stack([batch.index for batch in batches])
    counts = np.stack([np.bincount(order[:, place], minlength=n) for place in range(n)])
    std = np.sqrt(epochs * (1 / n) * (1 - 1 / n))
    assert np.abs(counts - epochs / n).max() < 5 * std


def test_data_are_the_examples_at_the_index_and_flips_mirror_them() -> None:
    source = _source(30)
    for batch in _take(make_train_iterator(source, batch_size=8, seed=0), 6):
        np.testing.assert_array_equal(batch.data, source.gather(batch.index))
    mirrored = 0
    for batch in _take(make_train_iterator(source, batch_size=8, seed=0, random_flip=True), 60):
        plain = source.gather(batch.index)
        is_plain = (batch.data == plain).all(axis=(1, 2, 3))
        is_mirrored = (batch.data == plain[:, :, ::-1]).all(axis=(1, 2, 3))
        assert (is_plain ^ is_mirrored).all()
        mirrored += int(is_mirrored.sum())
    assert abs(mirrored - 240) < 4 * np.sqrt(480 / 4)


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_a_restored_stream_continues_bit_for_bit(taken: int) -> None:
    def fresh() -> TrainIterator:
        return make_train_iterator(_source(23), batch_size=6, seed=5, random_flip=True)

    iterator = fresh()
    _take(iterator, taken)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = _take(iterator, 20)
    restored = fresh()
    _take(restored, 3)
    restored.set_state(state)
    assert restored.get_state() == state
    _assert_same(_take(restored, 20), expected)
    # Going back in the same iterator is exact as well.
    iterator.set_state(state)
    _assert_same(_take(iterator, 20), expected)


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_batches_of_one(process_count: int) -> None:
    source = _source(29)

    def stream(index: int, count: int) -> list[TrainBatch]:
        iterator = make_train_iterator(
            source, batch_size=8, seed=3, process_index=index, process_count=count, random_flip=True
        )
        return _take(iterator, 15)

    shares = [stream(index, process_count) for index in range(process_count)]
    joined = [
        TrainBatch(np.concatenate([b.data for b in batches]), np.concatenate([b.index for b in batches]))
        for batches in zip(*shares, strict=True)
    ]
    _assert_same(joined, stream(0, 1))


def test_a_state_moves_between_process_counts() -> None:
    source = _source(29)
    one = make_train_iterator(source, batch_size=8, seed=3, random_flip=True)
    _take(one, 5)
    state = one.get_state()
    expected = next(one)
    halves = []
    for index in range(2):
        half = make_train_iterator(source, batch_size=8, seed=3, process_index=index, process_count=2, random_flip=True)
        half.set_state(state)
        halves.append(next(half))
    np.testing.assert_array_equal(np.concatenate([half.data for half in halves]), expected.data)


def test_the_order_does_not_depend_on_the_batch_size() -> None:
    def flat(batch_size: int) -> np.ndarray:
        iterator = make_train_iterator(_source(29), batch_size=batch_size, seed=3, random_flip=True)
        return np.concatenate([batch.data for batch in _take(iterator, 60 // batch_size)])

    np.testing.assert_array_equal(flat(4), flat(12))


def test_a_state_of_another_stream_is_refused() -> None:
    state = make_train_iterator(_source(29), batch_size=8, seed=3).get_state()
    others = {
        "seed": make_train_iterator(_source(29), batch_size=8, seed=4),
        "batch_size": make_train_iterator(_source(29), batch_size=4, seed=3),
        "num_examples": make_train_iterator(_source(28), batch_size=8, seed=3),
        "random_flip": make_train_iterator(_source(29), batch_size=8, seed=3, random_flip=True),
    }
    for key, other in others.items():
        before = other.get_state()
        with pytest.raises(UserError, match=rf"{key} = .*, expected the same"):
            other.set_state(state)
        assert other.get_state() == before
    with pytest.raises(UserError, match=r"keys \['next_index'\], expected 'grain' and 'stream'"):
        others["seed"].set_state({"next_index": 3})


@pytest.mark.parametrize("n", [1, 7, 8, 9, 16])
@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_evaluation_covers_each_example_exactly_once(n: int, process_count: int) -> None:
    source = _source(n)
    shares = [
        list(eval_batches(source, batch_size=8, process_index=index, process_count=process_count))
        for index in range(process_count)
    ]
    assert len({len(share) for share in shares}) == 1
    seen = []
    for batches in zip(*shares, strict=True):
        for batch in batches:
            assert batch.data.shape == (8 // process_count, 4, 5, 1)
            np.testing.assert_array_equal(batch.data, source.gather(batch.index))
            seen.append(batch.index[batch.mask])
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(n))


def test_evaluation_pads_with_the_last_example_and_stops_at_the_limit() -> None:
    batches = list(eval_batches(_source(20), batch_size=4, limit=6))
    assert [batch.index.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 5, 5]]
    assert [batch.mask.tolist() for batch in batches] == [[True] * 4, [True, True, False, False]]
    assert sum(int(batch.mask.sum()) for batch in eval_batches(_source(20), batch_size=4, limit=99)) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size is 0, expected at least 1"),
        ({"batch_size": 10, "process_count": 4}, "batch size 10 does not divide among 4 processes.* Choose 8"),
        ({"batch_size": 8, "process_count": 0}, "0 processes"),
        ({"batch_size": 8, "process_count": 2, "process_index": 2}, "process index is 2, expected 0 to 1"),
    ],
)
def test_impossible_batches_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_train_iterator(_source(9), seed=0, **options)
    with pytest.raises(UserError, match=message):
        eval_batches(_source(9), **options)


def test_other_wrong_options_are_refused() -> None:
    with pytest.raises(UserError, match="seed is -1, expected 0 to 4294967295"):
        make_train_iterator(_source(9), batch_size=2, seed=-1)
    with pytest.raises(UserError, match=r"toy:moons.*shape \(2,\), expected images"):
        make_train_iterator(load_source("toy:moons", "test"), batch_size=2, seed=0, random_flip=True)
    with pytest.raises(UserError, match="limit is 0 examples, expected at least 1"):
        eval_batches(_source(9), batch_size=2, limit=0)


def test_the_stream_outruns_any_model_on_digits() -> None:
    """A generous floor, far below what an idle machine does, so that only a wrong design fails it."""
    iterator = make_train_iterator(load_source("digits", "train"), batch_size=128, seed=0, random_flip=True)
    _take(iterator, 20)
    start = time.process_time()
    _take(iterator, 200)
    assert 200 * 128 / (time.process_time() - start) > 100_000
