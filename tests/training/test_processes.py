"""One run in one process, in two, in four: the same losses, samples and likelihoods, each file written once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from score_sde.checkpointing import Checkpoints
from tests.checkpointing.small import bits
from tests.training.test_resume import CONFIG, ROOT, _experiment, _overrides, _restored

CHANGES = {
    "training.log_every": 1,
    "training.eval_every": 10,
    "optim.ema_rate": 0.5,
    "model.dropout": 0.0,
    "sampling.num_samples": 10,
    "sampling.num_steps": 20,
    "likelihood.num_examples": 30,
    "likelihood.num_steps": 8,
    "likelihood.batch_size": 16,
    "likelihood.noise_levels": 0,
}


def _port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _start(count, workdir, mode, **changes):
    """Processes with one device each."""
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "score_sde", f"--config={CONFIG}", f"--workdir={workdir}", f"--mode={mode}"]
    command += _overrides(**CHANGES | {"training.num_steps": 20} | changes)
    place = ["--cluster_timeout=120", f"--coordinator=127.0.0.1:{_port()}", f"--num_processes={count}"]
    return [
        subprocess.Popen(
            [*command, *(place if count > 1 else []), *([f"--process_id={index}"] if count > 1 else [])],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def _end(processes, codes=None):
    logs = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == (codes or [0] * len(processes)), "\n".join(logs)
    return logs


def _files(workdir):
    return sorted(path.relative_to(workdir).parts[0] for path in workdir.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("processes") / "1"
    _end(_start(1, workdir, "demo"))
    return workdir


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_make_the_run_of_one(count, alone, tmp_path):
    """Not to the bit, for sums over a batch come in another order."""
    workdir = tmp_path / str(count)
    logs = _end(_start(count, workdir, "demo", **{"sampling.batch_size": 8}))
    assert "Trained to step 20" in logs[0] and not any("Trained to step" in log for log in logs[1:])
    assert {name for name in _files(workdir) if "." in name} == {name for name in _files(alone) if "." in name}

    def losses(directory):
        records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        return np.array([[record["loss"], record["grad_norm"]] for record in records])

    np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-4)
    states = [_restored(directory, _experiment(**CHANGES)).state for directory in (workdir, alone)]
    for name in ("params", "ema_params"):
        pair = [_flat(getattr(state, name)) for state in states]
        np.testing.assert_allclose(*pair, rtol=0.0, atol=1e-5)
    for file, array, bound in (("samples.npz", "samples", 1e-3), ("likelihood.npz", "nats", 1e-3)):
        pair = [np.load(directory / file)[array] for directory in (workdir, alone)]
        np.testing.assert_allclose(*pair, rtol=0.0, atol=bound, err_msg=file)


def _flat(tree):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


@pytest.mark.long
@pytest.mark.parametrize(("number", "codes"), [(signal.SIGTERM, [0, 0]), (signal.SIGINT, [0, 130])])
def test_one_process_that_is_asked_to_end_ends_all_of_them_and_one_process_goes_on(number, codes, tmp_path):
    workdir = tmp_path / "two"
    long = {"training.num_steps": 100_000, "training.eval_every": 50_000, "training.checkpoint_every": 50_000}
    long |= {"training.steps_per_dispatch": 5, "training.log_every": 5}
    _end(_start(1, workdir, "train", **long | {"training.num_steps": 10}))
    (workdir / "metrics.jsonl").unlink()
    processes = _start(2, workdir, "train", **long)
    deadline = time.monotonic() + 120
    while not (workdir / "metrics.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].send_signal(number)
    logs = _end(processes, codes)
    assert "is saved; the same command goes on from there" in logs[0]
    step = Checkpoints(workdir).steps[-1]
    assert step > 10
    _end(_start(1, workdir, "train", **long | {"training.num_steps": step + 5}))
    assert int(_restored(workdir, _experiment(**CHANGES)).state.step) == step + 5


@pytest.mark.long
def test_a_process_that_is_killed_takes_the_others_with_it_and_nothing_is_lost(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    plan = {"training.num_steps": 3000, "training.log_every": 10, "training.checkpoint_every": 100}
    plan |= {"training.eval_every": 1000}
    processes = _start(2, killed, "train", **plan)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints" / "300").is_dir() and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate(timeout=150)
    assert all(process.returncode != 0 for process in processes)
    for workdir in (killed, whole):
        _end(_start(2, workdir, "train", **plan))
    states = [bits(_restored(workdir, _experiment(**CHANGES)).state) for workdir in (killed, whole)]
    assert states[0] == states[1]
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
