"""Processes that read batches: started from any program, and never waited for after they have died.

Three situations would make the training process wait forever, and this module avoids them. A new process runs the main
module again, which starts another training if it lacks a main guard, and fails if it came from standard input; here the
main module is not run. A process that dies before it has read its input leaves its starter writing; here the input is
the name of a file of numbers. A process that hangs blocks the thread that waits for it; closing ends it.
"""

import contextlib
import functools
import itertools
import multiprocessing
import multiprocessing.spawn
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from score_sde.errors import UserError
from score_sde.files import reason_of, remove_abandoned

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

BatchT = TypeVar("BatchT")

_NAME = "grain-process-prefetch"  # name of grain's processes
_MAIN = "init_main_"  # prefix of the fields that tell a process of the main module
_ATTEMPTS = 100
_FILE = ".score_sde_batches_"  # prefix of the names of files for processes
_SENT = 2**14  # bytes sent to a process directly; a pipe holds four times as many


class Workers(Iterator[BatchT]):
    """An iterator over ``read(number)``, ``read(number + 1)``, …, which processes read ahead of time."""

    def __init__(self, read: Callable[[int], BatchT], number: int, *, count: int) -> None:
        """Start nothing yet.

        Of ``count`` processes each reads every ``count``-th batch, from ``number`` on.

        Raises:
            UserError: If the file through which a large ``read`` goes to the processes cannot be written.
        """
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads its options from there, and refuses before a program has parsed
        sent, file = _sendable(read)
        self._remove_file = weakref.finalize(self, file.unlink, True) if file is not None else lambda: None
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        numbers = grain.MapDataset.range(number, sys.maxsize)
        batches = numbers.map(functools.partial(_undisturbed, sent)).to_iter_dataset(options)
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=count, per_worker_buffer_size=2))
        _keep_main_here()
        self._others = set(_processes())
        self._idle = threading.Event()
        self._idle.set()
        self._iterator: Any = iter(batches)
        self._unmapped = count  # processes that may not have mapped the file yet

    def __next__(self) -> BatchT:
        """The next batch.

        Raises:
            UserError: If a process died.
            Exception: Any exception of ``read``.
        """
        self._idle.clear()
        try:
            batch = next(self._iterator)
            self._came()
            return batch
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):  # grain's wording
                raise
            raise UserError(
                f"A process that reads data ended while it read batches ({error}), expected it to stay. If memory ran "
                "out, lower config.data.workers; 0 reads in the training process."
            ) from error
        finally:
            self._idle.set()

    def _came(self) -> None:
        """Remove the file once a batch has come from each process, which take turns.

        They keep their mappings, and a later kill leaves nothing behind.
        """
        self._unmapped -= 1
        if self._unmapped == 0:
            with contextlib.suppress(OSError):  # Windows keeps files that are mapped
                self._remove_file()

    def close(self) -> None:
        """End the processes; at once, if another thread is waiting for a batch."""
        for _ in range(_ATTEMPTS):  # some may be about to start
            if self._idle.wait(timeout=0.1):
                break
            for number, process in _processes().items():
                if number not in self._others:
                    process.kill()
        self._iterator.close()
        self._remove_file()


def _undisturbed(read: Callable[[int], BatchT], number: int) -> BatchT:
    """Read a batch in a process that leaves signals to the trainer, which saves first and then ends this process.

    A terminal sends Ctrl-C to all processes of a program, and so do some schedulers with SIGTERM.
    """
    if multiprocessing.parent_process() is not None and threading.current_thread() is threading.main_thread():
        for ignored in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ignored, signal.SIG_IGN)
    return read(number)


def _read_mapped(content: bytes, path: Path, ends: tuple[int, ...], number: int) -> Any:
    """Call a function whose arrays lie in a file, which processes map instead of receiving them.

    The file holds numbers alone. The objects around them come through the pipe of the process, like the rest of its
    input.
    """
    return _mapped(content, path, ends)(number)


@functools.cache
def _mapped(content: bytes, path: Path, ends: tuple[int, ...]) -> Callable[[int], Any]:
    data = np.memmap(path, np.uint8, "r")
    arrays = [data[start:end] for start, end in itertools.pairwise((0, *ends))]
    return pickle.loads(content, buffers=arrays)


def _sendable(read: Callable[[int], BatchT]) -> tuple[Callable[[int], BatchT], Path | None]:
    """The function itself if its arrays are small, else one that reads them from a file, and the file."""
    import cloudpickle  # as grain does, which needs it: it also sends what the main module defines

    arrays: list[pickle.PickleBuffer] = []
    content = cloudpickle.dumps(read, protocol=5, buffer_callback=arrays.append)
    ends = list(itertools.accumulate(array.raw().nbytes for array in arrays))
    if not ends or ends[-1] <= _SENT:
        return read, None
    try:
        remove_abandoned(Path(tempfile.gettempdir()).glob(f"{_FILE}*.tmp"))
        owner = f".{os.getpid()}@{socket.gethostname()}.tmp"
        with tempfile.NamedTemporaryFile(prefix=_FILE, suffix=owner, delete=False) as file:
            path = Path(file.name)
            for array in arrays:
                file.write(array.raw())
    except OSError as error:
        raise UserError(
            f"Cannot write the {ends[-1]:,} bytes of data for the processes that read them to "
            f"{tempfile.gettempdir()} ({reason_of(error)}); set TMPDIR to a folder with room, or "
            "config.data.workers=0, which reads in the training process."
        ) from error
    return functools.partial(_read_mapped, content, path, tuple(ends)), path


def _keep_main_here() -> None:
    """Make grain's processes start without running the main module again, because they need nothing from it."""
    prepare = multiprocessing.spawn.get_preparation_data
    if prepare.__module__ == __name__:  # it is done
        return

    def prepared(name: str) -> dict[str, Any]:
        data = prepare(name)
        return {key: value for key, value in data.items() if not (name.startswith(_NAME) and key.startswith(_MAIN))}

    multiprocessing.spawn.get_preparation_data = prepared


def _processes() -> "dict[int | None, BaseProcess]":
    return {process.pid: process for process in multiprocessing.active_children() if process.name.startswith(_NAME)}
