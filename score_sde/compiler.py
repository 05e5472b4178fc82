"""Protection from the wrong programs that XLA makes for CPUs; ``import score_sde`` calls :func:`protect`.

Some versions of XLA give sums to the YNN library and get some of them wrong: two ``expm1``, ``log1p`` or ``log`` of
different arguments come out as one in a sum over 4096 rows or more. An option of XLA keeps sums from that library. It
must be set before JAX starts its backend, and an XLA that does not know it ends the process. Only the standard library
is imported here, and the version of jaxlib.
"""

import functools
import os
import re
import sys
import warnings

OPTION = "xla_cpu_experimental_ynn_fusion_type"
# The operations that YNN keeps: of those that XLA gives to it, convolutions are slow there and sums are wrong.
KEPT = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"

# Versions of jaxlib that are known to be wrong, each range with its first and last; all of them know the option.
# `tests/test_compiler.py` runs the programs without protection and tells whether this is right for the version at hand.
# Later versions are left alone, since they may not know the option: `distributed.jit` asks them.
WRONG = (((0, 10, 2), (0, 12, 0, 1)),)

_FLAGS = "XLA_FLAGS"
_SETTING = f"--{OPTION}={KEPT}"


@functools.cache
def protect() -> bool:
    """Add the option to ``XLA_FLAGS``, if this process needs it and the user has not chosen it; once per process.

    Returns:
        Whether ``XLA_FLAGS`` protects all programs of this process.
    """
    flags = os.environ.get(_FLAGS, "").strip()
    given = _text(flags)
    if _SETTING in given.split():  # also in every process that this one starts
        return True
    if OPTION in given or not _runs_on_cpu() or not is_wrong(_jaxlib_version()):
        return False
    if _backend_is_started():
        if sys.modules["jax"].default_backend() == "cpu":
            _warn("import score_sde before the first computation")
        return False
    if given != flags:
        _warn(f"add the option to the file {flags}")
        return False
    os.environ[_FLAGS] = f"{flags} {_SETTING}".strip()
    return True


def is_wrong(version: str) -> bool:
    """Whether a version of jaxlib is one of those that are known to compute wrong sums.

    >>> [is_wrong(version) for version in ("0.10.1", "0.10.2", "0.11.0.dev20260701", "0.13.0")]
    [False, True, True, False]
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", re.split("[^0-9.]", version)[0]))
    return any(first <= numbers <= last for first, last in WRONG)


def _text(flags: str) -> str:
    """The flags themselves, which XLA also takes from a file."""
    if not flags or flags.startswith("-"):
        return flags
    try:
        with open(flags, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""  # XLA reports it


def _runs_on_cpu() -> bool:
    """Whether programs of this process may run on a CPU, also beside an accelerator.

    The accelerator's own XLA then reads the option, too, and knows it: every build of XLA declares the options of all
    platforms, and JAX is installed with plugins of its own time (CUDA's and libtpu know it at both ends of ``WRONG``).
    """
    jax = sys.modules.get("jax")
    platforms = os.environ.get("JAX_PLATFORMS") if jax is None else jax.config.jax_platforms
    return not platforms or "cpu" in platforms.split(",")


def _jaxlib_version() -> str:
    try:
        from jaxlib.version import __version__
    except ImportError:
        return ""
    return __version__


def _backend_is_started() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")  # JAX has no public way to ask without starting it
    return bridge is not None and bridge.backends_are_initialized()


def _warn(remedy: str) -> None:
    warnings.warn(
        f"XLA of jaxlib {_jaxlib_version()} computes some sums wrong on a CPU: {remedy}, or set "
        f"XLA_FLAGS={_SETTING} before Python starts. Until then only programs that score_sde compiles are right.",
        RuntimeWarning,
        stacklevel=4,  # the statement that imports the package
    )
