"""Setup of a process before any heavy import: signals, standard streams, the allocator, a cache of programs.

Only the standard library is imported here, and little of it: the setup must be in place early.
"""

import contextlib
import gc
import io
import os
import signal
import sys
from types import FrameType

SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "told to end"}
GOES_ON = "the same command goes on from what is saved, if anything is"
_LONG = 1.0  # seconds of a compilation that leaves much memory behind
_TUNABLES = "GLIBC_TUNABLES"
_CACHE = "JAX_COMPILATION_CACHE_DIR"


def begin() -> None:
    """Set up the process of the command line. It comes first, so that signals end all later statements cleanly.

    Until :func:`keep_imported` no garbage is collected: nearly all that imports make stays.
    """
    gc.disable()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup and background jobs mean it
            signal.signal(number, _end_early)
    _tune_allocator()
    _mend_streams()
    os.environ["MPLBACKEND"] = "agg"  # pictures are files; a notebook or a user's choice of windows would be in the way


def keep_imported() -> None:
    """Collect garbage from here on, without looking at what is there already: the modules.

    The collector would look at all of them again and again while a network is traced, which then takes a fifth longer.
    In a process without :func:`begin` nothing changes.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def return_freed_memory() -> None:
    """Have the memory that a long compilation has freed returned to the system; glibc keeps it, hundreds of megabytes.

    Call it once JAX is loaded; other C libraries are left alone.
    """
    import ctypes

    import jax

    if sys.platform != "linux" or (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is None:
        return

    def compiled(event: str, duration_secs: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and duration_secs > _LONG:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(compiled)


def prepare_process() -> None:
    """Set up the process of a script for speed; call it before JAX is loaded."""
    _tune_allocator()
    keep_compiled_programs()
    quiet_compiler()


def quiet_compiler() -> None:
    """Keep XLA's messages about itself off standard error; call it before JAX is loaded.

    XLA raises false alarms: that a program takes long to compile, or that a cached one was compiled on a similar
    processor. Failures are raised as exceptions. Set ``TF_CPP_MIN_LOG_LEVEL`` yourself to see more.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def hand_over_signals(*, keep: frozenset[signal.Signals] = frozenset()) -> None:
    """Give signals their usual meaning once imports are done: SIGINT raises, and SIGTERM ends the process.

    Other code has taken over the signals to ``keep``.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    for number, handler in usual.items():
        if number not in keep and signal.getsignal(number) is _end_early:
            signal.signal(number, handler)


def _end_early(number: int, frame: FrameType | None) -> None:
    """End at once with one line: nothing has begun, and the traceback of an import would help nobody."""
    with contextlib.suppress(OSError):
        os.write(2, f"score_sde: {SIGNALS[signal.Signals(number)]} before anything was begun.\n".encode())
    os._exit(128 + number)


def _tune_allocator() -> None:
    """On Linux start again with huge pages for malloc, which must be chosen before the process starts.

    XLA's buffers on a CPU are fresh memory at every step, and the page faults of small pages cost about a seventh of
    a training step. Set ``GLIBC_TUNABLES`` yourself to prevent it. Signals wait until the new program can answer.
    """
    if sys.platform == "linux" and _TUNABLES not in os.environ and sys.argv[0]:
        environment = os.environ | {_TUNABLES: "glibc.malloc.hugetlb=1"}
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        with contextlib.suppress(OSError):  # then this process goes on, with small pages
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _mend_streams() -> None:
    """Open closed standard streams on the null device, and let the others write characters that they cannot encode.

    Otherwise the next file to be opened would become standard error, and C libraries would write into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def keep_compiled_programs() -> str | None:
    """Keep compiled programs between processes; JAX_COMPILATION_CACHE_DIR moves them, empty switches it off.

    Returned is the reason why they are not kept, or None if they are, or if the user has switched the cache off.
    """
    # Small programs too: reading one takes a tenth of the time of compiling it, and a command has dozens.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    place = os.environ.get(_CACHE, _cache_directory())
    if place == "":
        return None
    reason = "there is no home directory" if place is None else _unusable(place)
    os.environ[_CACHE] = "" if reason or place is None else place
    return reason and f"Compiled programs are not kept, since {reason}; {_CACHE}=DIR keeps them elsewhere."


def _cache_directory() -> str | None:
    """The directory for caches, or None for a user without a home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The standard requires a relative path to be ignored.
    base = given if os.path.isabs(given) else os.path.expanduser("~/.cache")
    return os.path.join(base, "score_sde") if os.path.isabs(base) else None


def _unusable(place: str) -> str | None:
    """Why a directory cannot be made or written, or None if it can."""
    if "://" in place:
        return None  # JAX reads and writes buckets itself
    try:
        os.makedirs(place, exist_ok=True)
    except OSError as error:
        return f"{place} cannot be made ({error.strerror})"
    return None if os.access(place, os.W_OK | os.X_OK) else f"{place} cannot be written"
