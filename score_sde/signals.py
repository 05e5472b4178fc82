"""SIGINT and SIGTERM: the program ends, in a line, or saves first what it has and then ends.

Python runs handlers of signals in its main thread, between two of its own instructions. Compiling a network is a single
one, for minutes. A thread therefore watches for signals as well, and ends the process if the main thread does not.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Collection, Iterator
from types import FrameType

from score_sde.errors import Terminated
from score_sde.startup import GOES_ON, SIGNALS

PATIENCE_SECONDS = 1.0  # within which the main thread must hear of a signal

_unwinding = threading.Event()  # the main thread has heard, and is on its way out
_saves_first = threading.Event()  # it has something to save, and asks by itself whether it is to end


@contextlib.contextmanager
def heeded(*, keep: Collection[int] = ()) -> Iterator[None]:
    """A block that signals end: by an exception in the main thread, or else, and at a second SIGINT, at once.

    The exception is ``KeyboardInterrupt``, or :class:`~score_sde.errors.Terminated`. A process that ends at once has
    the exit code 128 plus the number of the signal, as if it had not been prepared for it. Signals that the process
    was started to ignore (``nohup``) stay ignored.

    Args:
        keep: Signals that somebody else looks after.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    _unwinding.clear()
    watch = threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True)
    watch.start()
    ours = [number for number in SIGNALS if number not in keep and signal.getsignal(number) != signal.SIG_IGN]
    fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    former = {number: signal.signal(number, _raise) for number in ours}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(fd)
        writer.close()  # which ends the thread
        watch.join()


@contextlib.contextmanager
def saved_first() -> Iterator[None]:
    """A block that asks by itself whether to end, and saves what it has before it does."""
    _saves_first.set()
    try:
        yield
    finally:
        _saves_first.clear()


def raised(number: int) -> KeyboardInterrupt:
    """The exception for a signal."""
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


def say(text: str) -> None:
    """Write a line to standard error; unlike ``print``, also in the middle of another one."""
    with contextlib.suppress(OSError):
        os.write(2, f"score_sde: {text}\n".encode())


def _raise(number: int, frame: FrameType | None) -> None:
    _unwinding.set()
    raise raised(number)


def _watch(signals: socket.socket) -> None:
    """End the process at a signal that the main thread does not heed, and at a second interruption."""
    interruptions = 0
    with signals:
        while received := signals.recv(1):
            number = received[0]
            if number not in SIGNALS:
                continue
            interruptions += number == signal.SIGINT
            if interruptions < 2 and (_saves_first.is_set() or _unwinding.wait(PATIENCE_SECONDS)):
                continue
            say(f"{SIGNALS[signal.Signals(number)]}; {GOES_ON}.")
            os._exit(128 + number)
