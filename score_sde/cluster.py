"""Many processes as one run: joining, work for one process alone, and ending together.

JAX answers mistakes of a launch from C++ by ending the process: a peer that never comes, two processes with one number,
a port in use. Neither an exception nor an exit code of ours is left. Where flags say who is who, the processes
therefore call the roll over a plain socket first, at the address that JAX's coordinator then takes over. Where JAX
finds the cluster, the launcher has counted the processes, and there is no roll.
"""

import argparse
import logging
import os
import socket
import sys
import threading
import time
import traceback
from typing import Any, NamedTuple

from score_sde.errors import UserError, plural

# JAX ends the others after a process has been silent for this long. A machine that is moved to other hardware is
# silent for some seconds; a scheduler that has given notice waits for two minutes.
HEARTBEAT_SECONDS = 60
# The time for which a failed process waits for the others to fail in the same way before it ends alone.
PATIENCE_SECONDS = 10
RETRY_SECONDS = 0.2
LONGEST_SECONDS, MOST_PROCESSES = 7 * 86400, 100_000  # more is a slip, and more than sockets and JAX can count
WELCOME = "welcome"
#: Names of the flags that tell a process its place among the others.
FLAGS = ("distributed", "coordinator", "num_processes", "process_id", "cluster_timeout")
_NO_CLUSTER = (
    "--distributed found no cluster to join. It looks for SLURM (SLURM_JOB_ID, SLURM_STEP_NODELIST, SLURM_PROCID: srun "
    "sets them), Open MPI (OMPI_MCA_orte_hnp_uri: mpirun sets it), a Cloud TPU (its metadata, or TPU_WORKER_HOSTNAMES) "
    "and Kubernetes (an indexed Job, with jax[k8s] installed). Elsewhere say "
    "--coordinator=HOST:PORT --num_processes=N --process_id=I."
)

_logger = logging.getLogger(__name__)


class Member(NamedTuple):
    """One process among several, as flags describe it."""

    host: str
    port: int
    num_processes: int
    process_id: int


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a cluster to a parser."""
    group = parser.add_argument_group("several processes", "the same command in each; all of them make one run")
    group.add_argument("--distributed", action="store_true", help="join the cluster that this process was started in")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="or name it: a free port of process 0's machine,")
    group.add_argument("--num_processes", metavar="N", type=int, help="the number of processes,")
    group.add_argument("--process_id", metavar="I", type=int, help="and which of them this is, from 0")
    group.add_argument("--cluster_timeout", metavar="SECONDS", type=int, default=300, help="wait for the others (300)")


def requested(options: argparse.Namespace) -> dict[str, Any] | None:
    """The arguments of :func:`join` that parsed flags request, or None for a process on its own.

    Raises:
        UserError: If the flags contradict each other, are incomplete or out of range.

    >>> parser = argparse.ArgumentParser()
    >>> add_flags(parser)
    >>> requested(parser.parse_args([])) is None
    True
    >>> requested(parser.parse_args(["--distributed"]))
    {'timeout': 300}
    """
    named = {name: getattr(options, name) for name in ("coordinator", "num_processes", "process_id")}
    given = [f"--{name}" for name, value in named.items() if value is not None]
    if options.distributed and given:
        raise UserError(f"--distributed finds the cluster, and {' '.join(given)} names it; expected one or the other.")
    if not options.distributed and not given:
        _check(timeout=options.cluster_timeout)
        return None
    arguments = {"timeout": options.cluster_timeout} | (named if given else {})
    _check(**arguments)
    return arguments


def join(**place: Any) -> None:
    """Make this process one of a cluster: :func:`connect`, with its arguments and errors, and :func:`meet`."""
    connect(**place)
    meet()


def connect(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = 300,
    heeds_sigterm: bool = True,
) -> None:
    """Connect this process with the others of a cluster; call it before anything else touches a device.

    With all of the first three arguments, the processes call the roll at the coordinator's address. With none, JAX
    finds the cluster in the environment that SLURM, Open MPI, Kubernetes or a TPU sets for the process.

    Args:
        coordinator: ``HOST:PORT``, a free port on the machine of process 0.
        num_processes: Number of processes.
        process_id: Index of this process, from 0.
        timeout: Seconds to wait for the others.
        heeds_sigterm: Whether the program asks ``multihost_utils.reached_preemption_sync_point``. JAX then takes
            SIGTERM for it; a program that does not ask would never end.

    Raises:
        UserError: If the arguments are incomplete or out of range, there is no cluster, the coordinator does not
            answer or its port is taken, or the processes do not come or disagree on their number.
    """
    member = _check(coordinator=coordinator, num_processes=num_processes, process_id=process_id, timeout=timeout)
    if member is None:
        _logger.info("Joining the cluster of this process; JAX aborts if the others are not there in %d s.", timeout)
    else:
        _call_roll(member, float(timeout))
    import jax  # after the roll, so that a launch that fails does so at once

    jax.config.update("jax_enable_preemption_service", heeds_sigterm)
    # Detection would still narrow the devices to one, by the local rank of a SLURM task.
    named: dict[str, Any] = {} if member is None else {"cluster_detection_method": "deactivate"}
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            **named,
        )
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        nowhere = member is None and isinstance(error, ValueError)
        raise UserError(_NO_CLUSTER if nowhere else f"JAX cannot join the cluster: {error}") from error


def meet() -> None:
    """Open the channels between the devices of all processes, after :func:`connect`.

    On CPUs a connection is made at its first use, by all within half a minute or not at all. Processes but the first
    log warnings only from here on.

    Raises:
        UserError: If the devices of the processes cannot reach one another.
    """
    import jax

    try:
        barrier("joined")
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"JAX cannot join the cluster: {error}") from error
    if not is_main():
        logging.getLogger().setLevel(logging.WARNING)
    processes, devices = jax.process_count(), jax.device_count()
    words = (plural(processes, "process", "processes"), plural(devices, "device"))
    _logger.info("%d %s with %d %s.", processes, words[0], devices, words[1])


def is_main() -> bool:
    """Whether this is the process that speaks and writes for all: process 0, or the only one.

    >>> is_main()
    True
    """
    import jax

    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until every process has come to the barrier of this name; nothing for a process on its own.

    >>> barrier("saved")
    """
    import jax

    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def shutdown(code: int = 0) -> None:
    """Leave the cluster, after :func:`join`, together with the others.

    A process that failed, with a ``code`` other than 0, waits for them ten seconds only. If they failed alike, they all
    return. If not, this process ends here with its code, and JAX ends the others, at once where they miss it in a
    collective or it was process 0, and else within the heartbeat timeout.
    """
    if code:
        alone = threading.Timer(PATIENCE_SECONDS, _end_alone, (code, sys.exception()))
        alone.daemon = True
        alone.start()
        _disconnect()
        alone.cancel()
    else:
        _disconnect()


def _disconnect() -> None:
    import jax

    try:
        jax.distributed.shutdown()
    except RuntimeError as error:  # this process is done, whatever happened to the others
        _logger.warning("The other processes ended without this one: %s", str(error).partition("\n")[0])


def _end_alone(code: int, error: BaseException | None) -> None:
    if error is not None:
        traceback.print_exception(error)
    print(
        "score_sde: this process failed and the others did not end with it; it ends without them.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(code)


def _check(
    *,
    timeout: int,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Member | None:
    """The member that the arguments of :func:`join` describe, or None to leave it to JAX."""
    if not 1 <= timeout <= LONGEST_SECONDS:
        raise UserError(f"--cluster_timeout is {timeout}, expected at least 1 second and at most {LONGEST_SECONDS:,}.")
    named = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in named.items() if value is None]
    if len(missing) == len(named):
        return None
    if coordinator is None or num_processes is None or process_id is None:
        raise UserError(
            f"{' and '.join(missing)} missing; expected --coordinator=HOST:PORT --num_processes=N --process_id=I, or "
            "--distributed alone where SLURM, Open MPI, Kubernetes or a TPU tells the process its place."
        )
    host, colon, port = coordinator.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not (colon and bare and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UserError(f"--coordinator is '{coordinator}', expected HOST:PORT such as 10.0.0.1:8476.")
    if ":" in bare and bare == host:
        raise UserError(f"--coordinator is '{coordinator}'; expected an IPv6 address in brackets: [{host}]:{port}.")
    if not 1 <= num_processes <= MOST_PROCESSES:
        raise UserError(f"--num_processes is {num_processes}, expected at least 1 and at most {MOST_PROCESSES:,}.")
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process_id is {process_id}, expected 0 to {num_processes - 1}, its place among all.")
    return Member(bare, int(port), num_processes, process_id)


def _call_roll(member: Member, timeout: float) -> None:
    """Return once all processes have been seen, or raise the same UserError in each of them."""
    deadline = time.monotonic() + timeout
    if member.process_id:
        _answer(member, deadline, timeout)
    elif member.num_processes > 1:
        _ask(member, deadline, timeout)


def _answer(member: Member, deadline: float, timeout: float) -> None:
    """Report this process to process 0, as often as necessary, and wait for its verdict."""
    reason = "it was not tried"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((member.host, member.port), timeout=left) as connection:
                connection.sendall(f"score_sde {member.num_processes} {member.process_id}\n".encode())
                # Process 0 may have been started later, and reports who was missing when its own time is up.
                connection.settimeout(timeout + PATIENCE_SECONDS)
                with connection.makefile("rb") as stream:
                    verdict, newline, _ = stream.readline(4096).decode(errors="replace").partition("\n")
        except OSError as error:
            reason = str(error)
        else:
            if newline and verdict == WELCOME:
                return
            if newline and verdict.startswith("score_sde: "):
                raise UserError(verdict.removeprefix("score_sde: "))
            reason = "what answers there is no process 0 that waits for others"
        time.sleep(RETRY_SECONDS)
    raise UserError(
        f"The coordinator {member.host}:{member.port} did not answer process {member.process_id} within {timeout:g} s "
        f"({reason}). Check that process 0 runs, that --coordinator is its machine and the same in every process, "
        "and that no firewall closes the port; --cluster_timeout=SECONDS waits longer."
    )


def _ask(member: Member, deadline: float, timeout: float) -> None:
    """Wait for all other processes, and tell them whether the roll is complete."""
    ipv6 = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    try:
        listener = socket.create_server(("", member.port), family=family, dualstack_ipv6=ipv6, backlog=1024)
    except OSError as error:
        raise UserError(
            f"Process 0 cannot listen on port {member.port} ({error.strerror}). Take a free port above 1023 in "
            "--coordinator, the same in every process, and end an earlier run that still holds it."
        ) from error
    present: dict[int, socket.socket] = {}
    with listener:
        try:
            problem = _collect(member, listener, present, deadline, timeout)
            for connection in present.values():
                _tell(connection, WELCOME if problem is None else f"score_sde: {problem}")
        finally:
            for connection in present.values():
                connection.close()
    if problem is not None:
        raise UserError(problem)


def _collect(
    member: Member, listener: socket.socket, present: dict[int, socket.socket], deadline: float, timeout: float
) -> str | None:
    """Fill ``present`` with the other processes, and return the problem of the launch, or None."""
    while True:
        _drop_those_who_left(present)
        if len(present) == member.num_processes - 1:
            return None
        listener.settimeout(max(deadline - time.monotonic(), 1e-3))
        try:
            connection, address = listener.accept()
        except TimeoutError:
            _drop_those_who_left(present)
            missing = ", ".join(str(index) for index in range(1, member.num_processes) if index not in present)
            return (
                f"Of {member.num_processes} processes these did not come to {member.host}:{member.port} within "
                f"{timeout:g} s: {missing}. Look at their logs, and check their --coordinator."
            )
        greeting = _read_greeting(connection)
        if greeting is None:
            connection.close()  # a health check or a port scan
            continue
        count, index = greeting
        _drop_those_who_left(present)  # while nobody connected
        if count == member.num_processes and index not in present:
            present[index] = connection
            continue
        present[-1] = connection  # so that it is told, too
        problem = f"two were started with --process_id={index}, the second at {address[0]}"
        if count != member.num_processes:
            problem = f"process {index} was started with --num_processes={count}, process 0 with {member.num_processes}"
        return f"The processes disagree: {problem}. Start all with one --num_processes and each with its own id."


def _read_greeting(connection: socket.socket) -> tuple[int, int] | None:
    """The number of processes and the index that a process reports, or None for a stranger."""
    connection.settimeout(2.0)  # the longest wait for a silent stranger
    try:
        with connection.makefile("rb") as stream:
            words = stream.readline(64).split()
        name, count, index = words
        return (int(count), int(index)) if name == b"score_sde" else None
    except (OSError, ValueError):
        return None


def _drop_those_who_left(present: dict[int, socket.socket]) -> None:
    """Forget processes that were interrupted, which may be about to start again."""
    for index in [index for index, connection in present.items() if _has_left(connection)]:
        present.pop(index).close()


def _has_left(connection: socket.socket) -> bool:
    """Whether the other end, which has nothing more to say, has closed."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _tell(connection: socket.socket, verdict: str) -> None:
    connection.settimeout(2.0)
    try:
        connection.sendall(f"{verdict}\n".encode())
    except OSError:  # it is gone, and JAX will notice
        _logger.warning("A process left while the others were joining.")
