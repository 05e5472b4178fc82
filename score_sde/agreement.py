"""The settings that all processes of one run share: they are compared when the processes join, before any compilation.

Processes with different learning rates, or with different directories, do not make one run. Each process therefore
sends its settings to process 0, and process 0 reports the differences to all. They do so through the key-value store of
JAX's coordinator, which needs no device. A process that fails before it knows its settings tells its error instead, so
that the others do not wait for it.
"""

import importlib.metadata
import itertools
import json
import os
import platform
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from score_sde import __version__
from score_sde.border import first_line
from score_sde.errors import UserError

SHOWN = 20  # fields that a message names before it counts the others
_LISTED = 8  # processes likewise
_NUMERICS = (  # flags of JAX that change results
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
)

_PATIENCE = 1800.0  # seconds to wait for others to read data: the caches of some may hold less
_NUMBERS = itertools.count()  # a key is set once

FoundT = TypeVar("FoundT")


@runtime_checkable
class Store(Protocol):
    """The key-value store that an agreement needs; JAX's distributed client is one."""

    def key_value_set(self, key: str, value: str) -> None:
        """Set a key that is not set yet."""

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        """The value of a key as soon as it is set."""
        ...


def agreed(
    prepare: Callable[[], tuple[FoundT, Mapping[str, Any]]], *, timeout: float, shared: Path | None = None
) -> FoundT:
    """:func:`agree` for a process that ``cluster.connect`` has connected, on its settings and its software.

    ``timeout`` is in seconds. All processes write to the directory ``shared``, which must be one and the same.
    """

    def complete() -> tuple[FoundT, Mapping[str, Any]]:
        found, settings = prepare()
        return found, {**settings, **software()}

    among = _among(timeout)
    found = agree(complete, **among)
    if shared is not None:
        agree_on_directory(shared, **among)
    return found


def agreed_on(topic: str, prepare: Callable[[], tuple[FoundT, Mapping[str, Any]]]) -> FoundT:
    """:func:`agree` on something other than settings; a program of one process agrees with itself.

    All processes ask about the same topics in the same order.
    """
    among = _among(_PATIENCE)
    if among["store"] is None or among["num_processes"] == 1:
        return prepare()[0]
    return agree(prepare, topic=f"{topic}/{next(_NUMBERS)}", **among)


def _among(timeout: float) -> dict[str, Any]:
    """The arguments of :func:`agree` for this process; without a store if ``cluster.connect`` was not called."""
    from jax._src import distributed  # JAX has no public way to its key-value store, and Orbax takes this one, too

    here = distributed.global_state
    known = {"process_id": here.process_id or 0, "num_processes": here.num_processes or 1}
    return {"store": here.client, "timeout": timeout, **known}


def agree_on_directory(
    directory: Path, *, store: Store, process_id: int, num_processes: int, timeout: float, patience: float = 10.0
) -> None:
    """Refuse a directory that lies on different disks for different processes, under one name.

    Process 0 puts a file into the directory, or into its nearest existing parent. The others look for this file, and
    process 0 removes it.

    ``store`` to ``timeout`` are as of :func:`agree`; a shared disk shows a new file within ``patience`` seconds.

    Raises:
        UserError: In every process, if one of them does not see the file of process 0.
    """
    key, probe = "score_sde/probe", None
    if process_id == 0:
        probe = _probe(directory)
        store.key_value_set(key, "" if probe is None else str(probe))

    def look() -> tuple[None, dict[str, Any]]:
        file = _wait(store, key, timeout, "process 0")
        if file and not _appears(type(directory)(file), patience):
            raise UserError(
                f"{directory} is not the directory that process 0 has under this name; all processes write to it, "
                "so it must lie on a disk that they share."
            )
        return None, {}

    try:
        among: dict[str, Any] = {"process_id": process_id, "num_processes": num_processes, "timeout": timeout}
        agree(look, store=store, topic="directory", **among)
    finally:
        if probe is not None:
            probe.unlink(missing_ok=True)


def _probe(directory: Path) -> Path | None:
    """A new file in a directory, or in its nearest existing parent; None if it cannot be written."""
    try:
        there = next(folder for folder in (directory, *directory.parents) if folder.is_dir())
        file = there / f".{uuid.uuid4().hex}.{os.getpid()}.tmp"
        file.touch(exist_ok=False)
    except (OSError, StopIteration):
        return None  # the mode itself reports the reason, when it writes
    return file.absolute()


def _appears(file: Path, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not (there := file.exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return there


def software() -> dict[str, Any]:
    """Versions and flags of JAX on which the results of a process depend."""
    import jax

    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    versions |= {"score_sde": __version__, "Python": ".".join(platform.python_version_tuple()[:2])}
    return versions | {name: getattr(jax.config, name, None) for name in _NUMERICS}


def agree(
    prepare: Callable[[], tuple[FoundT, Mapping[str, Any]]],
    *,
    store: Store,
    process_id: int,
    num_processes: int,
    timeout: float,
    topic: str = "settings",
) -> FoundT:
    """Call ``prepare`` in every process, and return its result if the settings of all processes are equal.

    ``prepare`` returns a result and settings by name, which JSON can hold. The keys in the store begin with ``topic``;
    the others are waited for ``timeout`` seconds.

    Raises:
        UserError: In every process, if settings differ, or another process fails to prepare or does not come.
        Exception: Any exception of ``prepare``, in the process that raised it.
    """
    said, failure, found = {}, None, None
    try:
        found, settings = prepare()
        said = {"settings": {name: json.dumps(value, sort_keys=True) for name, value in settings.items()}}
    except BaseException as error:
        failure = error
        said = {"error": str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"}
    store.key_value_set(f"score_sde/{topic}/{process_id}", json.dumps(said))
    if process_id == 0:
        told = [
            json.loads(_heard(store, f"score_sde/{topic}/{index}", timeout, f"process {index}"))
            for index in range(num_processes)
        ]
        store.key_value_set(f"score_sde/{topic}/verdict", _verdict(told))
    if failure is not None:
        raise failure
    if verdict := _wait(store, f"score_sde/{topic}/verdict", timeout, "process 0"):
        raise UserError(verdict)
    return found  # pyright: ignore[reportReturnType]  # prepare returned it, or its failure was raised


def _heard(store: Store, key: str, timeout: float, who: str) -> str:
    """The message of one process; silence counts as an error."""
    try:
        return _wait(store, key, timeout, who)
    except UserError as error:
        return json.dumps({"error": str(error)})


def _wait(store: Store, key: str, timeout: float, who: str) -> str:
    try:
        return store.blocking_key_value_get(key, round(1000 * timeout))
    except RuntimeError as error:  # JAX's own error is one
        raise UserError(f"After joining, nothing was heard of {who} for {timeout:g} s; look at its log.") from error


def _verdict(told: list[dict[str, Any]]) -> str:
    """The reason why these processes cannot begin, or an empty text."""
    failed = [f"  process {index}: {one['error']}" for index, one in enumerate(told) if "error" in one]
    if failed:
        return "Not every process of this run can begin, so none does:\n" + "\n".join(failed[:SHOWN])
    settings = [one["settings"] for one in told]
    names = dict.fromkeys(name for one in settings for name in one)
    held = {name: [one.get(name, "nothing") for one in settings] for name in names}
    lines = [f"  {name}: {_values(values)}" for name, values in held.items() if len(set(values)) > 1]
    if not lines:
        return ""
    more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    begin = "The processes disagree on what to do, so none of them begins:"
    advice = "Start all of them with the same command, in the same directory, with the same packages and data."
    return "\n".join([begin, *lines[:SHOWN], *more, advice])


def _values(held: list[str]) -> str:
    """The values of one setting, each with its processes.

    >>> _values(["1e-3", "0.5", "1e-3"])
    '1e-3 in processes 0, 2; 0.5 in process 1'
    """
    holders: defaultdict[str, list[int]] = defaultdict(list)
    for index, value in enumerate(held):
        holders[value].append(index)
    return "; ".join(f"{value} in {_processes(indices)}" for value, indices in holders.items())


def _processes(indices: list[int]) -> str:
    if len(indices) == 1:
        return f"process {indices[0]}"
    shown = ", ".join(str(index) for index in indices[:_LISTED])
    return f"processes {shown}" + (f" and {len(indices) - _LISTED} more" if len(indices) > _LISTED else "")
