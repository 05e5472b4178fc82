"""Worker processes change who reads a batch, and nothing else."""

import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from score_sde.data import ArraySource, Feed, SourceInfo, TrainIterator, load_source, make_train_iterator
from score_sde.data import feed as feed_module
from score_sde.data import workers as workers_module
from score_sde.data.records import write_array_records
from score_sde.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Record 60 of the training split is no image; it is not one of those that are looked at beforehand."""
    images = np.random.RandomState(0).randint(0, 256, size=(100, 4, 5, 1)).astype(np.uint8)
    write_array_records(tmp_path / "train.array_record", images)
    write_array_records(tmp_path / "test.array_record", [*images[:50], b"no image", *images[51:]])
    return f"arrayrecord:{tmp_path}"


def _stream(name: str, workers: int, split: str = "train") -> TrainIterator:
    return make_train_iterator(load_source(name, split), batch_size=6, seed=5, random_flip=True, workers=workers)


def _workers() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid and "grain" in process.name]


def _assert_continues(stream: TrainIterator, name: str, start: int, count: int) -> None:
    """The next batches are those that one process reads from ``start`` on."""
    expected = list(islice(_stream(name, 0), start, start + count))
    for batch in expected:
        found = next(stream)
        np.testing.assert_array_equal(found.data, batch.data)
        np.testing.assert_array_equal(found.index, batch.index)
    assert stream.get_state()["grain"] == {"next_index": start + count}


def test_workers_read_the_same_stream_and_end_with_it(folder: str) -> None:
    stream = _stream(folder, 2)
    _assert_continues(stream, folder, 0, 3)
    assert len(_workers()) == 2
    for number in (signal.SIGINT, signal.SIGTERM):  # which terminals and schedulers send to all processes of a run
        for worker in _workers():
            os.kill(worker, number)
    _assert_continues(stream, folder, 3, 4)
    assert len(_workers()) == 2
    with Feed(stream, np.asarray, prefetch=2) as feed:
        next(feed)
        assert feed.get_state()["grain"] == {"next_index": 8}
    assert not _workers()


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_state_moves_between_any_numbers_of_workers(folder: str, workers: int) -> None:
    first = _stream(folder, 3 - workers if workers < 3 else 0)
    list(islice(first, 5))
    stream = _stream(folder, workers)
    next(stream)
    stream.set_state(first.get_state())
    first.close()
    _assert_continues(stream, folder, 5, 40)
    stream.close()


@pytest.mark.long
def test_a_worker_that_dies_is_an_error_and_the_stream_can_go_on(folder: str) -> None:
    stream = _stream(folder, 2)
    next(stream)
    os.kill(_workers()[0], signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"ended while it read.*lower config\.data\.workers"):
        for _ in range(20):
            next(stream)
    assert time.monotonic() - start < 30
    assert not _workers()
    _assert_continues(stream, folder, stream.get_state()["grain"]["next_index"], 3)
    stream.close()


@pytest.mark.long
def test_an_error_in_a_worker_is_that_of_the_source(folder: str) -> None:
    stream = _stream(folder, 2, "test")
    with pytest.raises(UserError, match=r"Record 50 of .* cannot be read"):
        for _ in range(20):
            next(stream)
    stream.close()


def test_a_memory_mapped_source_goes_to_a_worker_by_name(tmp_path: Path) -> None:
    images = np.random.RandomState(0).randint(0, 256, size=(500, 8, 8, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    info = SourceInfo("mapped", (8, 8, 3), 256, None)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    sent = pickle.dumps(ArraySource(info, mapped, np.arange(500)))
    assert len(sent) < images.nbytes / 10
    received = pickle.loads(sent)
    np.testing.assert_array_equal(received.gather(np.arange(500)), images)
    np.testing.assert_array_equal(received.labels(np.arange(500)), np.arange(500))
    # The place of a part in its file is not known; its contents go.
    part = pickle.loads(pickle.dumps(ArraySource(info, mapped[100:200])))
    np.testing.assert_array_equal(part.gather(np.arange(100)), images[100:200])


def test_fewer_than_no_workers_are_refused(folder: str) -> None:
    with pytest.raises(UserError, match="-1 data workers"):
        _stream(folder, -1)


class _Stuck:
    """A source that gives its first example and then nothing more."""

    info = SourceInfo("stuck", (100, 100), None, None)

    def __init__(self) -> None:
        self.ballast = np.zeros((100, 100, 100), np.float32)  # more than a pipe holds

    def __len__(self) -> int:
        return 1000

    def gather(self, indices: np.ndarray) -> np.ndarray:
        if indices.max() > 0:
            time.sleep(1000.0)
        return self.ballast[indices]

    def labels(self, indices: np.ndarray) -> None:
        return None


class _Deadly(_Stuck):
    """A source that ends the process that receives it, as one does that runs out of memory."""

    def __setstate__(self, state: dict[str, object]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_large_data_go_to_a_worker_as_a_file_of_numbers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    images = np.random.RandomState(0).randint(0, 256, size=(2000, 4, 4, 3)).astype(np.uint8)
    labels = np.asfortranarray(np.arange(40_000.0).reshape(20_000, 2))
    source = ArraySource(SourceInfo("large", (4, 4, 3), 256, None), images[::-1], labels)
    received, file = workers_module._sendable(lambda number: (source.gather(np.arange(number)), labels, np.zeros(0)))
    assert file is not None
    # A view that runs backwards has no bytes of its own to point to, and goes with what is rebuilt.
    assert file.read_bytes() == labels.T.tobytes()
    for found, expected in zip(received(2000), (images[::-1], labels, np.zeros(0)), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_processes_are_sent_never_fills_the_pipe_to_one_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UserError, match=r"ended while it read.*lower config\.data\.workers"):
        next(make_train_iterator(_Deadly(), batch_size=1, seed=0, workers=1))
    assert not _workers() and not list(tmp_path.iterdir())


def test_a_file_is_gone_once_every_process_has_it_and_batches_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a kill of this process leaves nothing, and what an earlier one has left is removed before."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    here, gone = socket.gethostname(), dead.stdout.strip()
    owners = [f"{gone}@{here}", f"{os.getppid()}@{here}", f"{os.getpid()}@{here}", f"{gone}@elsewhere"]
    left, *kept = (tmp_path / f".score_sde_batches_abc.{owner}.tmp" for owner in owners)
    for path in (left, *kept):
        path.touch()
    images = np.random.RandomState(0).randint(0, 256, size=(2000, 4, 4, 3)).astype(np.uint8)
    source = ArraySource(SourceInfo("large", (4, 4, 3), 256, None), images)
    stream = make_train_iterator(source, batch_size=4, seed=0, workers=2)
    first = next(stream)
    assert not left.exists() and all(path.exists() for path in kept)
    (file,) = set(tmp_path.iterdir()) - set(kept)
    batches = [first, *islice(stream, 7)]
    assert not file.exists()
    for batch in batches:
        np.testing.assert_array_equal(batch.data, images[batch.index])
    stream.close()


@pytest.mark.long
def test_processes_that_hang_are_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grain._src.python.dataset.transformations.process_prefetch._PROCESS_KILL_TIMEOUT_S", 0.5)
    monkeypatch.setattr(feed_module, "WAITING_SECONDS", 8.0)
    monkeypatch.setattr(feed_module, "CLOSING_SECONDS", 0.5)
    stream = make_train_iterator(_Stuck(), batch_size=4, seed=0, workers=2)
    with pytest.raises(UserError, match=r"No batch came within 8 s"), Feed(stream, np.asarray, prefetch=2) as feed:
        next(feed)
    assert not _workers()


_SCRIPT = """
from score_sde.data import load_source, make_train_iterator
print("once")
batches = make_train_iterator(load_source("toy:moons", "train"), batch_size=3, seed=0, workers=1)
print(next(batches).data.shape)
batches.close()
"""


@pytest.mark.parametrize("given", ["file", pytest.param("standard input", marks=pytest.mark.long)])
def test_a_program_without_a_main_guard_runs_once(tmp_path: Path, given: str) -> None:
    (tmp_path / "script.py").write_text(_SCRIPT)
    with (tmp_path / "script.py").open() as file:
        arguments, source = (["script.py"], None) if given == "file" else (["-"], file)
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, stdin=source, capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n") == ["once", "(3, 2)", ""], done.stderr
