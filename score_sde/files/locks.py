"""One writer at a time: locks on directories, checks that they are writable, and removal of leftover temporary files.

The operating system releases a lock when its process ends, however it ends. The lock file only names the holder; a file
left by a killed process is taken over.

A bucket has no such locks, so the file itself is the lock: the driver creates it only if it does not exist, its holder
renews it every minute, and a lock not renewed for five minutes is taken over.
"""

import contextlib
import errno
import functools
import json
import logging
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from score_sde.cluster import is_main
from score_sde.errors import UserError
from score_sde.files.atomic import refusal, writing
from score_sde.files.buckets import Bucket
from score_sde.files.reading import Unreadable, read_json, reason_of

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

Mode = TypeVar("Mode", bound=Callable[..., Any])

_TEMPORARY = re.compile(r"\..+\.(?P<process>\d+)(@(?P<host>.*))?\.tmp")  # names given by atomic_path
_BLOCK = 4096  # bytes written to test a directory
_DAY = 86_400.0  # seconds
_RENEWED, _LAPSED = 60.0, 300.0  # seconds between renewals of a lock in a bucket, and until it lapses

log = logging.getLogger(__name__)


@contextlib.contextmanager
def only_writer(directory: Path, kind: str, *, doing: str) -> Iterator[None]:
    """Hold an exclusive lock on one kind of work in a directory.

    Of several processes of one run, the first holds the lock for all. Where the system has no locks (Windows, some
    network file systems), nothing is locked.

    The directory must exist. Different kinds of work do not exclude each other. Other processes are shown ``doing``,
    such as ``"training the run in runs/a"``.

    Raises:
        UserError: If another process holds the lock, with its place, or if the directory cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name, only_writer(Path(name), "train", doing="training"):
    ...     os.listdir(name)
    ['.train.lock']
    """
    if not is_main():
        yield
        return
    path = directory / f".{kind}.lock"
    if isinstance(path, Bucket):
        with _leased(path, doing):
            yield
        return
    with writing(path):
        descriptor = _locked(path)
    if descriptor is None:
        raise _held(path)
    try:
        with writing(path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, _signed(_this(doing)))
        remove_leftovers(directory)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # while the lock is held, so that the file is still ours
        os.close(descriptor)


def one_at_a_time(kind: str) -> Callable[[Mode], Mode]:
    """A decorator for modes that write results to an existing ``workdir``, or to ``out``: one of each kind at a time.

    It also detects a read-only directory before hours of work. If the directory is missing, the mode itself reports it.
    """

    def decorate(mode: Mode) -> Mode:
        @functools.wraps(mode)
        def alone(config: Any, workdir: Path, *rest: Any, **keywords: Any) -> Any:
            if (place := keywords.get("out")) is not None:
                check_writable(place)
            elif not (place := workdir).is_dir():
                return mode(config, workdir, *rest, **keywords)
            with only_writer(place, kind, doing=f"running --mode={kind} in {place}"):
                return mode(config, workdir, *rest, **keywords)

        return cast(Mode, alone)

    return decorate


def check_writable(directory: Path, *, make: bool = True) -> None:
    """Create a directory for results, and check that it is writable before they are computed.

    Unless told to ``make`` a missing directory, the one above is tested, and nothing is left behind.
    """
    if not is_main():
        return
    if isinstance(directory, Bucket):
        with writing(directory):
            probe = directory / f".{socket.gethostname()}.{os.getpid()}.tmp"
            probe.write_bytes(bytes(1))
            probe.unlink()
        return
    try:
        if make:
            directory.mkdir(parents=True, exist_ok=True)
        there = next(place for place in (directory, *directory.absolute().parents) if os.path.lexists(place))
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(_BLOCK))
            file.flush()
    except OSError as error:
        raise refusal(f"to {directory}", directory, error) from error


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock, or ``None`` if another process does."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _flock(descriptor):
                os.close(descriptor)
                return None
            # The previous holder may have removed the file between our opening and our locking it.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _flock(descriptor: int) -> bool:
    """Try to lock a file; returns whether this succeeded."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        log.warning("This file system has no locks (%s); do not write there twice at once.", error.strerror)
    return True


@contextlib.contextmanager
def _leased(path: Bucket, doing: str) -> Iterator[None]:
    """Hold a lock in a bucket. Two that find it lapsed at the same moment may both take it; one then reports so."""
    holder, done = _this(doing), threading.Event()
    with writing(path):
        if (lapsed := _lapsed(path)) is False:
            raise _held(path)
        if lapsed:
            path.unlink(missing_ok=True)
        try:
            path.create(_signed(holder, renewed=time.time()))
        except FileExistsError:
            raise _held(path) from None
    renewing = threading.Thread(target=_renew, args=(path, holder, done), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        with contextlib.suppress(Exception):  # otherwise it lapses
            if _is_of(path, holder):
                path.unlink()


def _lapsed(path: Bucket) -> bool | None:
    """Whether a lock in a bucket has lapsed; ``None`` if there is none."""
    try:
        found = read_json(path)
    except Unreadable:
        return False
    if found is None:
        return None
    if not isinstance(renewed := found.get("renewed"), int | float):
        return True
    here = found.get("host") == socket.gethostname() and isinstance(found.get("process"), int)
    return time.time() - renewed > _LAPSED or (here and _is_gone(found["process"]))


def _renew(path: Bucket, holder: dict[str, Any], done: threading.Event) -> None:
    while not done.wait(_RENEWED):
        try:
            if not _is_of(path, holder):
                log.error("%s is another's now, who writes there, too; end one of the two.", path)
                return
            path.write_bytes(_signed(holder, renewed=time.time()))
        except Exception as error:
            log.warning("%s cannot be renewed (%s), and lapses after %.0f s.", path, reason_of(error), _LAPSED)


def _is_of(path: Path, holder: dict[str, Any]) -> bool:
    return holder.items() <= (read_json(path) or {}).items()


def _signed(holder: dict[str, Any], **more: float) -> bytes:
    return (json.dumps(holder | more) + "\n").encode()


def _this(doing: str) -> dict[str, Any]:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {"doing": doing, "process": os.getpid(), "host": socket.gethostname(), "since": since}


def _held(path: Path) -> UserError:
    lapses = f" If it was killed, its lock lapses within {_LAPSED / 60:.0f} minutes." * isinstance(path, Bucket)
    return UserError(f"{_holder(path)}; wait for it, end it, or give another --workdir.{lapses}")


def _holder(path: Path) -> str:
    """The holder of a lock, as the beginning of a sentence."""
    with contextlib.suppress(UserError):
        found = read_json(path) or {}
        if {"doing", "process", "host", "since"} <= found.keys():
            return f"Process {found['process']} on {found['host']} has been {found['doing']} since {found['since']}"
    return f"Another process holds the lock {path}"  # it is about to write its name or to end


def remove_leftovers(directory: Path) -> None:
    """Remove temporary files of killed writers from a directory and its own folders, such as the one of pictures.

    This includes files under the number of this process: it has not written yet, so an earlier one left them.
    """
    remove_abandoned((*directory.glob(".*.tmp"), *directory.glob("*/.*.tmp")), mine=True)


def remove_abandoned(paths: Iterable[Path], *, mine: bool = False) -> None:
    """Remove temporary files of dead writers: processes that ended on this machine, or files idle for a day on another.

    Only names with a process and perhaps a host, as given by :func:`.atomic_path`, are touched; files of this process
    only if ``mine``.
    """
    for path in paths:
        if (found := _TEMPORARY.fullmatch(path.name)) is None:
            continue
        with contextlib.suppress(OSError):
            here, process = found["host"] == socket.gethostname(), int(found["process"])
            if process == os.getpid() and here:
                gone = mine
            else:
                gone = _is_gone(process) if here else time.time() - path.stat().st_mtime > _DAY
            if gone:
                path.unlink()


def _is_gone(process: int) -> bool:
    """Whether no process of this machine has this number."""
    if os.name != "posix":
        return False  # on Windows the question would kill the process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False
