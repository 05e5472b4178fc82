"""Exceptions at the border of the program: one rule turns each into a message and an exit code.

What is the user's to mend is said in a sentence: the package's own :class:`~score_sde.errors.UserError`, and what other
libraries raise for a machine that lacks memory, space, permission, devices or packages. Everything else is a fault of
the program: it is said to be one, and its traceback lies in a file. With ``SCORE_SDE_TRACEBACK=1`` such exceptions
are raised as they are, for a debugger and for tests.
"""

import contextlib
import errno
import importlib.metadata
import os
import platform
import re
import select
import shlex
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from score_sde import __version__
from score_sde.errors import Preempted, Terminated, UserError
from score_sde.startup import GOES_ON, SIGNALS

RAISE = "SCORE_SDE_TRACEBACK"
FAULT, USER, CLOSED = 1, 2, 141

# Reasons for which the system refuses, of whatever file, that are no fault of a program.
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free space there; the same command goes on from what is saved."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Give a place that this user may use."),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Allow more open files, by `ulimit -n`."),
    errno.EIO: "Check the disk.",
    errno.ENOMEM: "End other programs, or take a smaller batch.",
}
_DEVICES = ("initialize backend", "unknown backend", "no devices found", "already in use by")
_PEERS = ("gloo", "closed by peer", "coordination service", "heartbeat", "connection reset", "socket closed")
_NO_MEMORY = ("resource_exhausted", "out of memory")


class Ending(NamedTuple):
    """How a program ends that an exception has reached."""

    code: int
    message: str


def ended(
    error: BaseException,
    *,
    name: str = "score_sde",
    doing: str = "this program",
    directory: Path | None = None,
) -> int:
    """Say on standard error why a program ends, and return its exit code.

    Args:
        error: What has reached the border.
        name: The name of the program.
        doing: What it was doing.
        directory: Where the traceback of a fault belongs, if that directory exists and can be written.

    Raises:
        BaseException: ``error`` itself, if it is no user's error and the environment asks for that.
    """
    if isinstance(error, BrokenPipeError) and _output_is_closed():
        _forget_output()
        return CLOSED
    ending = _expected(error)
    if ending is None and os.environ.get(RAISE):
        raise error
    ending = ending or _outside(error) or _fault(error, doing, directory)
    print(f"{name}: {ending.message}", file=sys.stderr, flush=True)
    return ending.code


def _expected(error: BaseException) -> Ending | None:
    """The ways to end that the program itself has chosen."""
    if isinstance(error, Preempted):
        return Ending(error.code, str(error))
    if isinstance(error, UserError):
        return Ending(USER, str(error))
    if isinstance(error, KeyboardInterrupt):
        number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
        return Ending(128 + number, f"{SIGNALS[number]}; {GOES_ON}.")
    return None


def _outside(error: BaseException) -> Ending | None:
    """The ending for an exception, or its explicit cause, that comes from the machine and not from the program."""
    for link in _causes(error):
        for explain in (_memory, _devices, _variables, _peers, _system, _text, _packages):
            if (ending := explain(link)) is not None:
                return ending
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _memory(error: BaseException) -> Ending | None:
    if not isinstance(error, MemoryError) and not _says(error, _NO_MEMORY):
        return None
    return Ending(
        USER,
        f"Memory ran out ({first_line(error) or type(error).__name__}). A smaller batch takes less: "
        "training.batch_size, or training.accumulate=N for parts of one; sampling.batch_size; likelihood.batch_size. "
        "--mode=plan says how much training takes.",
    )


def _devices(error: BaseException) -> Ending | None:
    if not _says(error, _DEVICES) and not _is_no_device(error):
        return None
    wanted = os.environ.get("JAX_PLATFORMS")
    asked = f"JAX_PLATFORMS={wanted} asks for a device" if wanted else "JAX looks for a device"
    advice = "Unset JAX_PLATFORMS to take what there is, or set" if wanted else "Free the device, or set"
    reason = first_line(error).partition(" (")[0] or "JAX finds none"  # in brackets JAX advises, too
    return Ending(USER, f"{asked} that cannot be used here ({reason}). {advice} JAX_PLATFORMS=cpu.")


def _is_no_device(error: BaseException) -> bool:
    """Whether JAX has found no device at all, which it only asserts."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, AssertionError) and bool(frames) and Path(frames[-1].filename).name == "xla_bridge.py"


def _variables(error: BaseException) -> Ending | None:
    found = re.search(r"environment.*\b((?:JAX|XLA)_\w+)", str(error)) if isinstance(error, ValueError) else None
    if found is None:
        return None
    value = os.environ.get(found[1], "")
    return Ending(
        USER, f"The environment variable {found[1]}={value} is not understood: {first_line(error)}. Unset it."
    )


def _peers(error: BaseException) -> Ending | None:
    if not _says(error, _PEERS):
        return None
    return Ending(
        FAULT,
        f"Another process of this run has ended or cannot be reached ({first_line(error)}). Look at the logs of the "
        "others; the same command in all of them goes on from the newest checkpoint.",
    )


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    """Whether an error of JAX, all of which are RuntimeErrors, holds one of some phrases."""
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def _system(error: BaseException) -> Ending | None:
    if not isinstance(error, OSError) or not error.strerror:
        return None
    if error.filename is None and error.errno not in _ADVICE:
        return None  # a socket or a pipe of ours: no file of the user's
    where = "" if error.filename is None else f": {error.filename}"
    return Ending(USER, f"{error.strerror}{where}. {_ADVICE.get(error.errno or 0, 'Check the path.')}")


def _text(error: BaseException) -> Ending | None:
    if not isinstance(error, UnicodeError):
        return None
    return Ending(
        USER,
        f"A name or a file holds characters that cannot be read or written here ({first_line(error)}). "
        "Set LC_ALL=C.UTF-8 and PYTHONIOENCODING=utf-8, or take a name in plain letters.",
    )


def _packages(error: BaseException) -> Ending | None:
    if not isinstance(error, ImportError) or (error.name or "score_sde").partition(".")[0] == "score_sde":
        return None
    package = (error.name or "").partition(".")[0]
    return Ending(
        USER,
        f"The package {package} cannot be loaded ({first_line(error)}). Install it: "
        f"{sys.executable} -m pip install {package}",
    )


def _fault(error: BaseException, doing: str, directory: Path | None) -> Ending:
    """What to say of an exception that nobody has foreseen."""
    kind = type(error).__name__ + (f": {line}" if (line := first_line(error)) else "")
    text = "".join(traceback.format_exception(error))
    header = f"{shlex.join(sys.argv)}\n{datetime.now(UTC).isoformat(timespec='seconds')}, {software()}\n\n"
    place = _kept(header + text, directory)
    if place is None:
        return Ending(FAULT, f"{doing} failed. This is a fault of the program ({software()}).\n{text}")
    return Ending(
        FAULT,
        f"{doing} failed: {kind}\nThis is a fault of the program ({software()}), not of what it was given. "
        f"Please report it with its traceback, which lies in {place}.",
    )


def first_line(error: BaseException) -> str:
    """The first line of what an exception says.

    >>> first_line(ValueError("a disk is full"))
    'a disk is full'
    """
    return next(iter(str(error).strip().splitlines()), "")


def software() -> str:
    """The versions that a report of a fault needs."""
    known = []
    for package in ("jax", "jaxlib"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            known.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join([f"score_sde {__version__}", *known, f"Python {platform.python_version()}"])


def _kept(text: str, directory: Path | None) -> Path | None:
    """The file that now holds a text: in the directory, else among temporary files; None if neither can be written."""
    name = f"traceback-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.txt"
    if directory is not None:
        with contextlib.suppress(OSError, ValueError):
            (directory / name).write_text(text, encoding="utf-8", errors="backslashreplace")
            return directory / name
    with contextlib.suppress(OSError, ValueError):
        place = Path(tempfile.gettempdir(), f"score_sde-{name}")
        place.write_text(text, encoding="utf-8", errors="backslashreplace")
        return place
    return None


def _output_is_closed() -> bool:
    """Whether who read standard output has gone; a pipe says so by an error that waits on it."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return False


def _forget_output() -> None:
    """Point standard output to nothing, so that the interpreter does not complain of it again at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def guard(main: Callable[[], int]) -> int:
    """The exit code of a whole program, whose threads end in a line too, and whose output may have been closed.

    Warnings take a line each, and those about the cache of compiled programs, one per program, a line together. What
    other libraries cannot raise, in destructors and callbacks, is not shown unless tracebacks are asked for.
    """
    if not os.environ.get(RAISE):
        warnings.showwarning = _Warnings()
        threading.excepthook = _thread_failed
        sys.unraisablehook = lambda _: None
    try:
        code = main()
    except SystemExit as request:  # of --help and --version
        code = request.code if isinstance(request.code, int) else FAULT if request.code else 0
    if threading.excepthook is _thread_failed:
        threading.excepthook = lambda _: None  # what threads find closed at the end of the program is no fault
    try:
        sys.stdout.flush()
    except OSError:
        _forget_output()
        return code or CLOSED
    return code


class _Warnings:
    """Shows warnings in one line, without the place in a library's source that they come from."""

    def __init__(self) -> None:
        self._cache = False

    def __call__(self, message: Warning | str, *_: Any, **__: Any) -> None:
        text = str(message).strip().partition("\n")[0]
        if "persistent compilation cache" in text:
            if self._cache:
                return
            self._cache = True
            place = os.environ.get("JAX_COMPILATION_CACHE_DIR")
            text += f". All goes on without; if this comes again, empty {place} or give another."
        print(f"score_sde: warning: {text}", file=sys.stderr, flush=True)


def _thread_failed(arguments: threading.ExceptHookArgs) -> None:
    """One line about a thread that ended in an exception; who waits for it hears of it in a way of their own."""
    error = arguments.exc_value
    if error is not None and not isinstance(error, SystemExit):
        ending = _outside(error) or _fault(error, "a thread", None)
        print(f"score_sde: {ending.message}", file=sys.stderr, flush=True)
