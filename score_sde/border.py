"""Exceptions at the border of the program: one rule turns each into a message and an exit code.

Errors that the user can fix become a sentence: the package's own :class:`~score_sde.errors.UserError`, and exceptions
of other libraries when the machine lacks memory, space, permission, devices or packages. Every other exception is a
bug in the program. The message calls it one, and names the file that holds the traceback. With
``SCORE_SDE_TRACEBACK=1`` these exceptions are raised unchanged, for debuggers and tests.
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
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from score_sde import __version__
from score_sde.errors import Preempted, Terminated, UserError
from score_sde.startup import GOES_ON, SIGNALS

RAISE = "SCORE_SDE_TRACEBACK"
FAULT, USER, CLOSED = 1, 2, 141

# The system refuses for these reasons whatever the program does.
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), f"Free space there; {GOES_ON}."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Give a place that this user may use."),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Allow more open files, by `ulimit -n`."),
    errno.EIO: "Check the disk.",
    errno.ENOMEM: "End other programs, or take a smaller batch.",
}
_DEVICES = ("initialize backend", "unknown backend", "no devices found", "already in use by")
_PEERS = ("gloo", "closed by peer", "coordination service", "heartbeat", "connection reset", "socket closed")
_NO_MEMORY = ("resource_exhausted", "out of memory")


class Ending(NamedTuple):
    """The exit code and the last words of a program."""

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

    The program is called ``name``, and was ``doing`` something, in words. The traceback of a bug goes to the directory,
    if it exists and can be written.

    Raises:
        BaseException: ``error`` itself, if it is not the user's and ``SCORE_SDE_TRACEBACK`` is set.
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
    if isinstance(error, Preempted):
        return Ending(error.code, str(error))
    if isinstance(error, UserError):
        return Ending(USER, str(error))
    if isinstance(error, KeyboardInterrupt):
        number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
        return Ending(128 + number, f"{SIGNALS[number]}; {GOES_ON}.")
    return None


def _outside(error: BaseException) -> Ending | None:
    """The ending for an exception, or its explicit cause, if the machine or the environment is the reason."""
    link: BaseException | None = error
    while link is not None:
        for explain in (_memory, _devices, _variables, _peers, _system, _text, _packages):
            if (ending := explain(link)) is not None:
                return ending
        link = link.__cause__
    return None


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
    reason = first_line(error).partition(" (")[0]  # in brackets JAX advises, too
    reason = re.sub(r"^Unable to initialize backend '\w*': |\.$", "", reason) or "JAX finds none"
    return Ending(USER, f"{asked} that cannot be used here ({reason}). {advice} JAX_PLATFORMS=cpu.")


def _is_no_device(error: BaseException) -> bool:
    """Whether JAX has found no device at all; it raises a bare AssertionError then."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, AssertionError) and bool(frames) and Path(frames[-1].filename).name == "xla_bridge.py"


def _variables(error: BaseException) -> Ending | None:
    found = re.search(r"\bjax_\w+", str(error), re.IGNORECASE) if isinstance(error, ValueError) else None
    if found is None or (name := found[0].upper()) not in os.environ:
        return None
    return Ending(
        USER, f"{name}={os.environ[name]} in the environment is refused by JAX ({first_line(error)}). Unset it."
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
    """Whether an error of JAX contains one of some phrases; all of its errors are RuntimeErrors."""
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def _system(error: BaseException) -> Ending | None:
    if not isinstance(error, OSError) or not error.strerror:
        return None
    if error.filename is None and error.errno not in _ADVICE:
        return None  # a socket or a pipe of the program itself
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
    """The ending for an exception that nobody has foreseen."""
    kind = type(error).__name__ + (f": {line}" if (line := first_line(error)) else "")
    text = "".join(traceback.format_exception(error))
    header = f"{shlex.join(sys.argv)}\n{datetime.now(UTC).isoformat(timespec='seconds')}, {software()}\n\n"
    place = _kept(header + text, directory)
    if place is None:
        return Ending(FAULT, f"{doing} failed. This is a bug in the program ({software()}).\n{text}")
    return Ending(
        FAULT,
        f"{doing} failed: {kind}\nThis is a bug in the program ({software()}), not in your input. "
        f"Please report it, with the traceback in {place}.",
    )


def first_line(error: BaseException) -> str:
    """The first line of an exception's message.

    >>> first_line(ValueError("a disk is full"))
    'a disk is full'
    """
    return next(iter(str(error).strip().splitlines()), "")


def software() -> str:
    """The versions that a bug report needs."""
    known = []
    for package in ("jax", "jaxlib"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            known.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join([f"score_sde {__version__}", *known, f"Python {platform.python_version()}"])


def _kept(text: str, directory: Path | None) -> Path | None:
    """Write a text to the directory, else to a temporary file, and return its path; None if neither can be written."""
    name = f"traceback-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.txt"
    data = text.encode("utf-8", errors="backslashreplace")
    if directory is not None:
        with contextlib.suppress(Exception):  # a bucket may raise anything
            (directory / name).write_bytes(data)
            return directory / name
    with contextlib.suppress(OSError, ValueError):
        place = Path(tempfile.gettempdir(), f"score_sde-{name}")
        place.write_bytes(data)
        return place
    return None


def _output_is_closed() -> bool:
    """Whether the reader of standard output has gone; polling a pipe then reports an error."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return False


def _forget_output() -> None:
    """Redirect standard output to nothing, or the interpreter would report the closed pipe once more at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def guard(main: Callable[[], int]) -> int:
    """The exit code of a whole program.

    Exceptions in threads and warnings are one line each. Warnings about the cache of compiled programs, which JAX
    repeats for every program, are one line in all. Exceptions in destructors, which Python ignores, are not shown. A
    reader may close standard output early.
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
        threading.excepthook = lambda _: None  # at the end of the program, threads find their resources closed
    try:
        sys.stdout.flush()
    except OSError:
        _forget_output()
        return code or CLOSED
    return code


class _Warnings:
    """Shows a warning in one line, without the source line of the library."""

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
    error = arguments.exc_value
    if error is not None and not isinstance(error, SystemExit):
        ending = _outside(error) or _fault(error, "a thread", None)
        print(f"score_sde: {ending.message}", file=sys.stderr, flush=True)
