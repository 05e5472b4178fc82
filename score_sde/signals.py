"""SIGINT and SIGTERM: the program ends with one line, after saving its state where it has any.

Python runs signal handlers in its main thread, between two bytecode instructions, and compiling a network is a single
instruction that takes minutes. Python also drops an exception that a handler raises while a finalizer or a callback
runs. A thread therefore watches for signals as well, and ends the process if the main thread does not.
"""

import contextlib
import os
import select
import signal
import socket
import threading
import weakref
from collections.abc import Collection, Iterator
from types import FrameType

from score_sde.errors import Terminated
from score_sde.startup import GOES_ON, SIGNALS

PATIENCE_SECONDS = 1.0  # time for the main thread to notice a signal, and between two looks at it

_saves_first = threading.Event()  # the main thread has something to save, and polls for the request to end


class _Mark:
    """An object that an exception for a signal carries, to tell when the exception is gone."""


_on_its_way: weakref.WeakSet[_Mark] = weakref.WeakSet()  # the marks of live exceptions


@contextlib.contextmanager
def heeded(*, keep: Collection[int] = ()) -> Iterator[None]:
    """A block that signals end: by an exception in the main thread, or else, and at a second SIGINT, at once.

    The exception is ``KeyboardInterrupt``, or :class:`~score_sde.errors.Terminated`. A process that ends at once has
    the exit code 128 plus the number of the signal, as if it had not been prepared for it. Signals that the process
    was started to ignore (``nohup``) stay ignored.

    Other code handles the signals to ``keep``.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    _on_its_way.clear()
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
    """A block that polls for the request to end, and saves its state first."""
    _saves_first.set()
    try:
        yield
    finally:
        _saves_first.clear()


def raised(number: int) -> KeyboardInterrupt:
    """The exception for a signal; as long as it is alive, the main thread is on its way out."""
    error = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
    _on_its_way.add(mark := _Mark())
    vars(error)["mark"] = mark  # which dies with it; the exceptions of Python have no weak references themselves
    return error


def say(text: str) -> None:
    """Write a line to standard error; unlike ``print``, also in the middle of another one."""
    with contextlib.suppress(OSError):
        os.write(2, f"score_sde: {text}\n".encode())


def _raise(number: int, frame: FrameType | None) -> None:
    raise raised(number)


def _watch(signals: socket.socket) -> None:
    """End the process at a signal that the main thread does not heed, and at a second interruption."""
    interruptions, waiting = 0, 0  # the number of a signal that the block has not ended at yet
    with signals:
        while True:
            if select.select([signals], [], [], PATIENCE_SECONDS if waiting else None)[0]:
                if not (received := signals.recv(1)):
                    return
                if (number := received[0]) not in SIGNALS:
                    continue
                interruptions += number == signal.SIGINT
                if interruptions < 2:
                    waiting = waiting if _saves_first.is_set() else number
                    continue
            elif _on_its_way:
                continue
            else:
                number = waiting
            say(f"{SIGNALS[signal.Signals(number)]}; {GOES_ON}.")
            os._exit(128 + number)
