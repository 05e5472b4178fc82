"""Processes join, agree and end together; a launch that cannot succeed is a sentence in every process; scripts run."""

import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import yaml

from score_sde import cluster
from score_sde.cli import _parse, main
from score_sde.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "experiments" / "launch"
ALONE = ["--workdir=x", "--mode=conformance"]
# Where the tests run must not look like a cluster.
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMPI_", "TPU_", "KUBE"))}


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--distributed", "--process_id=1"], ["--distributed finds", "--process_id names", "one or the other"]),
        (["--coordinator=a:1"], ["--num_processes and --process_id missing", "or --distributed alone"]),
        (["--num_processes=2", "--process_id=0"], ["--coordinator missing"]),
        (["--coordinator=a", "--num_processes=2", "--process_id=0"], ["is 'a', expected HOST:PORT"]),
        (["--coordinator=:80", "--num_processes=2", "--process_id=0"], ["is ':80', expected HOST:PORT"]),
        (["--coordinator=a:b", "--num_processes=2", "--process_id=0"], ["is 'a:b', expected HOST:PORT"]),
        (["--coordinator=a:65536", "--num_processes=2", "--process_id=0"], ["is 'a:65536', expected HOST:PORT"]),
        (["--coordinator=::1:80", "--num_processes=2", "--process_id=0"], ["in brackets: [::1]:80"]),
        (["--coordinator=a:1", "--num_processes=0", "--process_id=0"], ["--num_processes is 0", "at least 1"]),
        (["--coordinator=a:1", "--num_processes=2", "--process_id=2"], ["--process_id is 2, expected 0 to 1"]),
        (["--coordinator=a:1", "--num_processes=2", "--process_id=-1"], ["--process_id is -1, expected 0 to 1"]),
        (["--distributed", "--cluster_timeout=0"], ["--cluster_timeout is 0", "at least 1 second"]),
        (["--cluster_timeout=-1"], ["--cluster_timeout is -1", "at least 1 second"]),
        (["--distributed", f"--cluster_timeout={10**20}"], ["at most 604,800"]),
        (["--coordinator=a:1", f"--num_processes={10**20}", "--process_id=0"], ["at most 100,000"]),
    ],
)
def test_flags_that_name_no_cluster_are_refused(flags, parts, capsys):
    assert main([*ALONE, *flags]) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in parts), message


def test_a_coordinator_that_is_not_there_ends_the_command_in_time(port, capsys):
    start = time.monotonic()
    flags = [f"--coordinator=localhost:{port}", "--num_processes=2", "--process_id=1", "--cluster_timeout=1"]
    assert main([*ALONE, *flags]) == 2
    assert time.monotonic() - start < 5
    assert f"The coordinator localhost:{port} did not answer process 1 within 1 s" in capsys.readouterr().err


def test_another_service_at_the_coordinators_address_is_no_coordinator():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(UserError, match=r"did not answer process 1 within 0\.5 s \(what answers there is no"):
            cluster._call_roll(cluster.Member("127.0.0.1", server.getsockname()[1], 2, 1), 0.5)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_port_in_use_is_told():
    with socket.create_server(("", 0)) as server, pytest.raises(UserError, match="cannot listen on port"):
        cluster._call_roll(cluster.Member("127.0.0.1", server.getsockname()[1], 2, 0), 1.0)


def _roll(port, places, timeout=10.0):
    """What each of several processes, (number of processes, index), hears at the roll: None, or the error."""
    heard = [None] * len(places)

    def call(slot, count, index):
        try:
            cluster._call_roll(cluster.Member("127.0.0.1", port, count, index), timeout)
        except UserError as error:
            heard[slot] = str(error)

    threads = [threading.Thread(target=call, args=(slot, *place)) for slot, place in enumerate(places)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return heard


def _knock(port, words, stay=0.0):
    """Say something to process 0 as soon as it listens, and leave after some seconds."""
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(words)
                time.sleep(stay)
                return
        except ConnectionRefusedError:
            time.sleep(0.01)


def test_processes_that_agree_are_let_in_in_any_order(port):
    assert _roll(port, [(4, 3), (4, 1), (4, 0), (4, 2)]) == [None] * 4


@pytest.mark.sweep
@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"", b"score_sde 3\n", b"score_sde 3 1\n"])
def test_strangers_and_processes_that_left_do_not_count(port, words):
    knocking = threading.Thread(target=_knock, args=(port, words))
    knocking.start()
    (heard,) = _roll(port, [(3, 0)], timeout=0.5)
    knocking.join()
    assert heard is not None
    assert "within 0.5 s: 1, 2." in heard


def test_a_process_that_was_started_again_is_let_in(port):
    knocking = threading.Thread(target=_knock, args=(port, b"score_sde 3 1\n", 0.1))  # it leaves while nobody comes
    again = threading.Timer(0.5, lambda: heard.extend(_roll(port, [(3, 1), (3, 2)])))
    heard = []
    knocking.start()
    again.start()
    assert _roll(port, [(3, 0)]) == [None]
    knocking.join()
    again.join()
    assert heard == [None, None]


@pytest.mark.parametrize(
    ("places", "timeout", "parts"),
    [
        ([(3, 0), (3, 1), (2, 1)], 3.0, ["disagree", "--num_processes=2, process 0 with 3"]),
        ([(3, 0), (3, 2), (3, 2)], 3.0, ["disagree", "two were started with --process_id=2"]),
        ([(4, 0), (4, 2)], 0.5, ["Of 4 processes", "within 0.5 s: 1, 3."]),
    ],
)
def test_a_launch_that_cannot_succeed_is_the_same_error_in_every_process(port, places, timeout, parts):
    heard = _roll(port, places, timeout)
    told = [message for message in heard if message is not None]
    assert len(told) == len(places)
    assert all(part in heard[0] for part in parts), heard
    # One that comes when process 0 has gone hears that nobody answers.
    assert all(message == heard[0] or "did not answer" in message for message in told), heard


JOIN = """
import json, logging, os, signal, sys
from score_sde import cluster
logging.basicConfig(level=logging.INFO)
index = int(sys.argv[2])
cluster.join(coordinator=sys.argv[1], num_processes=int(sys.argv[3]), process_id=index, timeout=60,
             heeds_sigterm=False)
"""
ADD = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
numbers = np.arange(4 * index, 4 * index + 4, dtype=np.float32)
numbers = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data")), numbers)
total = jax.jit(jax.numpy.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))(numbers)
cluster.barrier("added")
told = [float(total), jax.process_count(), cluster.is_main(), logging.getLogger().level]
print("result", json.dumps(told), flush=True)
cluster.shutdown()
"""
FAIL = """
cluster.PATIENCE_SECONDS = 0.5
cluster.barrier("begun")
try:
    if index == 1:
        raise ValueError("a disk is full")
    cluster.barrier("never")
finally:
    cluster.shutdown(7)
"""
SIGTERM = """
os.kill(os.getpid(), signal.SIGTERM)
signal.pause()
"""


def _start(program, *arguments):
    command = [sys.executable, "-c", JOIN + program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=PLAIN, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _finish(*processes):
    results = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        results.append((process.returncode, out, err))
    return results


def test_two_processes_add_numbers_that_neither_holds_alone(port):
    done = _finish(*(_start(ADD, f"127.0.0.1:{port}", index, 2) for index in range(2)))
    assert [code for code, _, _ in done] == [0, 0], done
    lines = [line for _, out, _ in done for line in out.splitlines() if line.startswith("result")]
    told = [json.loads(line.removeprefix("result")) for line in lines]
    assert told == [[28.0, 2, True, 20], [28.0, 2, False, 30]]
    assert "2 processes with" in done[0][2]
    assert "2 processes with" not in done[1][2]


def test_a_process_that_fails_alone_keeps_its_code_and_the_others_end_too(port):
    waiting, failing = _finish(*(_start(FAIL, f"127.0.0.1:{port}", index, 2) for index in range(2)))
    assert failing[0] == 7
    assert "ValueError: a disk is full" in failing[2]
    assert "this process failed and the others did not" in failing[2]
    assert waiting[0] != 0


def test_a_program_that_does_not_heed_sigterm_dies_of_it_and_no_cluster_is_told(port):
    command = [sys.executable, "-m", "score_sde", *ALONE, "--distributed"]
    nowhere = subprocess.Popen(command, cwd=ROOT, env=PLAIN, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    killed, told = _finish(_start(SIGTERM, f"127.0.0.1:{port}", 0, 1), nowhere)
    assert killed[0] == -signal.SIGTERM
    assert told[0] == 2
    assert all(
        name in told[2] for name in ("found no cluster", "SLURM", "Open MPI", "TPU", "Kubernetes", "--coordinator")
    )


FLAGS = "--config.model.channel_multipliers=(1,2) --config.training.num_steps=7"
SCRIPTS = ("local.sh", "slurm.sbatch", "tpu_pod.sh")


def _worker():
    """The job that the JobSet makes, and the container that trains."""
    (workers,) = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    return job, job["template"]["spec"]["containers"][0]


def _bash(arguments, **environment):
    return subprocess.run(
        ["bash", *arguments], cwd=ROOT, env=PLAIN | environment, capture_output=True, text=True, check=False
    )


def _pod(**environment):
    """What a pod of the JobSet runs, with the environment that its manifest gives it."""
    _, container = _worker()
    given = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    given |= {"COORDINATOR": "score-sde-workers-0-0.score-sde", "JOB_COMPLETION_INDEX": "1"}
    assert container["command"] == ["bash", "-c"]
    return _bash(["-c", *container["args"]], **(given | environment))


def _launched(shown):
    """The arguments of score_sde in commands that a dry run shows, also where they are quoted for another shell."""
    for line in shown.splitlines():
        words = shlex.split(line)
        words = (
            [inner for word in words for inner in shlex.split(word.removeprefix("--command="))]
            if "ssh" in words
            else words
        )
        if "score_sde" in words and words[words.index("score_sde") - 1] == "-m":
            yield words[words.index("score_sde") + 1 :]


def _dry_runs():
    environment = {"DRY_RUN": "1", "FLAGS": FLAGS, "WORKDIR": "runs/a b", "TPU": "pod", "ZONE": "here"}
    for script in SCRIPTS:
        yield script, _bash([str(LAUNCH / script)], **environment)
    yield "jobset.yaml", _pod(DRY_RUN="1", FLAGS=FLAGS, WORKDIR="runs/a b")
    yield "jobset.yaml on a TPU", _pod(DRY_RUN="1", FLAGS=FLAGS, WORKDIR="runs/a b", TPU_WORKER_HOSTNAMES="a,b")


def test_every_script_launches_commands_that_the_parser_accepts():
    places = {}
    for name, done in _dry_runs():
        assert done.returncode == 0, (name, done.stderr)
        commands = list(_launched(done.stdout))
        assert commands, (name, done.stdout)
        for arguments in commands:
            options, overrides = _parse(arguments)
            assert (options.mode, options.workdir, overrides) == ("train", "runs/a b", FLAGS.split()), name
            assert (ROOT / options.config).exists()
            places.setdefault(name, []).append(cluster.requested(options))
    found = [{"timeout": 300}]
    assert places["slurm.sbatch"] == places["tpu_pod.sh"] == places["jobset.yaml on a TPU"] == found
    assert [place["process_id"] for place in places["local.sh"]] == [0, 1]
    assert {place["num_processes"] for place in places["local.sh"]} == {2}
    job, _ = _worker()
    (pod,) = places["jobset.yaml"]
    assert pod["num_processes"] == job["parallelism"] == job["completions"]
    assert (pod["process_id"], pod["coordinator"]) == (1, "score-sde-workers-0-0.score-sde:8476")


def test_the_scripts_are_sound_bash():
    for script in SCRIPTS:
        assert _bash(["-n", str(LAUNCH / script)]).returncode == 0
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", *(LAUNCH / script for script in SCRIPTS)], check=True)
    _, container = _worker()
    subprocess.run(["shellcheck", "--shell=bash", "-"], input=container["args"][0], text=True, check=True)


# Training as the scripts see it: it begins, takes a moment to save when it is told to end, and exits with 0.
TRAINING = """#!/usr/bin/env bash
trap 'sleep 0.2; echo saved >>"$LOG"; exit 0' TERM
echo $$ >>"$LOG"
while true; do sleep 0.05; done
"""


def _preempted(tmp_path, start, **programs):
    """The exit code of a script that gets SIGTERM, and what its programs wrote; ``programs`` stand in for real ones."""
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    log.touch()
    environment = PLAIN | {"PATH": f"{tmp_path}:{PLAIN['PATH']}", "LOG": str(log), "SLURM_JOB_ID": "5"}
    with subprocess.Popen(["bash", *start], cwd=ROOT, env=environment) as script:
        deadline = time.monotonic() + 20
        while not log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.2)  # all of them have begun
        script.send_signal(signal.SIGTERM)
        code = script.wait(timeout=20)
    return code, log.read_text().split("\n")[:-1]


def test_local_processes_save_when_the_script_is_told_to_end(tmp_path):
    code, log = _preempted(tmp_path, [str(LAUNCH / "local.sh")], python=TRAINING)
    assert (code, log[2:]) == (0, ["saved", "saved"])


def test_a_job_that_slurm_ends_saves_first_and_queues_again(tmp_path):
    report = '#!/usr/bin/env bash\necho "$(basename "$0") $*" >>"$LOG"\n'
    code, log = _preempted(
        tmp_path,
        [str(LAUNCH / "slurm.sbatch")],
        srun=TRAINING,
        scancel=report + 'kill -TERM "$(head -1 "$LOG")"\n',
        scontrol=report,
    )
    assert (code, log[1:]) == (0, ["scancel --signal=TERM 5", "saved", "scontrol requeue 5"])


def test_a_pod_that_is_asked_to_go_saves_first_and_is_not_taken_for_done(tmp_path):
    job, container = _worker()
    preamble = "export CONFIG=c WORKDIR=w FLAGS= PROCESSES=2 COORDINATOR=a JOB_COMPLETION_INDEX=0\n"
    code, log = _preempted(tmp_path, ["-c", preamble + container["args"][0]], python=TRAINING)
    assert (code, log[1:]) == (143, ["saved"])
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2]}


@pytest.mark.parametrize("code", [0, 2, 134])
def test_every_script_passes_on_the_code_with_which_training_ends(tmp_path, code):
    for name in ("python", "srun"):
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}:{PLAIN['PATH']}"}
    runs = [_bash([str(LAUNCH / script)], **path) for script in ("local.sh", "slurm.sbatch")]
    assert [done.returncode for done in [*runs, _pod(**path)]] == [code] * 3
