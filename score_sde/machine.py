"""The machine on which a result was measured, in figures and in words."""

import collections
import os
import platform
from typing import Any

#: Generations of AMD's processors by their family and by whether they have AVX-512.
_ZEN = {("25", False): "Zen 3", ("25", True): "Zen 4", ("26", True): "Zen 5"}


def describe_machine() -> dict[str, Any]:
    """The context of a measured time: platform, processor, number of CPUs, versions, and the devices JAX uses.

    JSON can hold it. ``cpu_count`` counts the CPUs available to this process, not all of the host.
    """
    import jax

    device = jax.devices()[0]
    return {
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_count": _available_cpus(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "backend": jax.default_backend(),
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
    }


def hardware_line(machine: Any) -> str:
    """The result of :func:`describe_machine` in words; empty if it was not recorded.

    >>> hardware_line({"device_count": 8, "device_kind": "TPU v5e", "cpu_count": 2, "cpu": "Some CPU", "jax": "0.10.2"})
    '8 x TPU v5e; 2 CPUs of Some CPU; JAX 0.10.2, Python ?'
    """
    if not isinstance(machine, dict):
        return ""
    of = collections.defaultdict(lambda: "?", machine)
    where = f"{of['device_count']} x {of['device_kind']}; {of['cpu_count']} CPUs of {of['cpu']}"
    return f"{where}; JAX {of['jax']}, Python {of['python']}"


def memory_bytes() -> int:
    """The memory available to this process: the machine's, or its container's if that is less.

    >>> memory_bytes() > 2**26
    True
    """
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        total = 1 << 40
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            return min(total, int(file.read()))
    except (OSError, ValueError):  # no container, or one without a limit
        return total


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return cpu_words(file.read())
    except (OSError, KeyError):  # not on every system
        return platform.processor() or platform.machine()


def cpu_words(cpuinfo: str) -> str:
    r"""The processor that Linux describes in ``/proc/cpuinfo``.

    A virtual machine may hide the model, but not the family and the instructions, on which speed depends.

    >>> cpu_words("model name : AMD EPYC\ncpu family : 26\nflags : avx2 avx512f\n\nmodel name : the next")
    'AMD EPYC (Zen 5, AVX-512)'

    Raises:
        KeyError: If it does not say the model.
    """
    first = cpuinfo.split("\n\n", 1)[0]
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    model, wide = known["model name"], "avx512f" in known.get("flags", "").split()
    zen = _ZEN.get((known.get("cpu family", ""), wide)) if model.startswith("AMD") else None
    words = ", ".join([word for word in (zen, "AVX-512" * wide) if word])
    return f"{model} ({words})" if words else model


def _available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
