"""Processes of one run do the same, or none of them begins and each says what differs."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from score_sde.agreement import agree, agree_on_directory
from score_sde.errors import UserError

ROOT = Path(__file__).parents[1]


class _Store:
    """What JAX's coordinator keeps for all processes."""

    def __init__(self):
        self._kept, self._changed = {}, threading.Condition()

    def key_value_set(self, key: str, value: str) -> None:
        with self._changed:
            assert key not in self._kept, "the coordinator refuses to set a key twice"
            self._kept[key] = value
            self._changed.notify_all()

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._kept, timeout_in_ms / 1000):
                raise RuntimeError("DEADLINE_EXCEEDED")
            return self._kept[key]


def _together(*prepared, **keywords):
    """What processes end with that prepare these settings, or fail with these errors: results or exceptions."""

    def call(index, **among):
        def prepare():
            if isinstance(prepared[index], Exception):
                raise prepared[index]
            return index, prepared[index]

        return agree(prepare, **among)

    return _ends(len(prepared), call, **keywords)


def _ends(number, call, *, timeout=20.0, count=None):
    """What a call in each of several processes ends with, which share a store."""
    store, ends = _Store(), [None] * number

    def process(index):
        among = {"store": store, "process_id": index, "num_processes": count or number, "timeout": timeout}
        try:
            ends[index] = call(index, **among)
        except Exception as error:
            ends[index] = error

    threads = [threading.Thread(target=process, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


def test_processes_that_agree_get_what_they_prepared():
    settings = {"optim.lr": 0.1, "model.widths": (1, 2), "likelihood.tolerance": float("nan")}
    assert _together(settings, {**settings, "model.widths": [1, 2]}, dict(reversed(settings.items()))) == [0, 1, 2]


def test_what_differs_is_named_in_every_process_with_who_holds_what():
    common = {"seed": 1, "optim.lr": 0.1}
    ends = _together(common, common | {"optim.lr": 0.5}, common | {"model.name": "mlp"}, common)
    assert all(isinstance(end, UserError) for end in ends)
    assert {str(end) for end in ends} == {str(ends[0])}
    assert "optim.lr: 0.1 in processes 0, 2, 3; 0.5 in process 1" in str(ends[0])
    assert 'model.name: nothing in processes 0, 1, 3; "mlp" in process 2' in str(ends[0])
    assert "seed" not in str(ends[0])


def test_a_message_about_a_thousand_processes_and_fields_stays_short():
    settings = {f"field{index}": 0 for index in range(1000)}
    ends = _together(settings, *[{name: 1 for name in settings}] * 30)
    assert "1 in processes 1, 2, 3, 4, 5, 6, 7, 8 and 22 more" in str(ends[0])
    assert "and 980 more" in str(ends[0])
    assert len(str(ends[0])) < 4000


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("error", [UserError("There is no config file x.py."), ZeroDivisionError("by zero")])
def test_a_process_that_cannot_begin_is_heard_by_the_others(failing, error):
    prepared = [{"seed": 1}, {"seed": 1}]
    prepared[failing] = error
    ends = _together(*prepared)
    assert ends[failing] is error
    other = ends[1 - failing]
    assert isinstance(other, UserError)
    assert f"process {failing}: " in str(other) and str(error) in str(other)


def test_a_process_that_says_nothing_is_named():
    (end,) = _together({"seed": 1}, count=2, timeout=0.05)
    assert "nothing was heard of process 1 for 0.05 s" in str(end)


@pytest.mark.parametrize("there", [False, True])
def test_directories_of_one_name_on_different_disks_are_refused_in_every_process(tmp_path, there):
    """Each machine with a disk of its own: process 0 has written, and process 2 looks for it in vain."""
    machines = [tmp_path / "shared", tmp_path / "shared", tmp_path / "own"]
    for machine in machines:
        (machine / "runs" / "x" if there else machine).mkdir(parents=True, exist_ok=True)

    def call(index, **among):
        elsewhere = str(machines[index])
        seen = _Elsewhere(among["store"], str(machines[0]), elsewhere)
        agree_on_directory(machines[index] / "runs" / "x", **among | {"store": seen}, patience=0.2)

    ends = _ends(3, call)
    assert all(isinstance(end, UserError) for end in ends), ends
    assert "is not the directory that process 0 has under this name" in str(ends[2])
    assert all("process 2: " in str(end) and "a disk that they share" in str(end) for end in ends[:2])
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


class _Elsewhere:
    """A store in which one name of a disk stands for another, as a path means another directory on another machine."""

    def __init__(self, store, name, own):
        self._store, self._name, self._own = store, name, own

    def key_value_set(self, key: str, value: str) -> None:
        self._store.key_value_set(key, value)

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        return self._store.blocking_key_value_get(key, timeout_in_ms).replace(self._name, self._own)


@pytest.mark.parametrize("there", [False, True])
def test_a_directory_that_all_processes_see_is_left_as_it_was(tmp_path, there):
    directory = tmp_path / "runs" / "x"
    if there:
        directory.mkdir(parents=True)
    assert _ends(3, lambda index, **among: agree_on_directory(directory, **among)) == [None] * 3
    assert directory.exists() == there and not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_directory_that_cannot_be_written_is_left_to_the_mode_to_refuse():
    ends = _ends(2, lambda index, **among: agree_on_directory(Path("/proc/self/x"), **among))
    assert ends == [None, None]


def _commands(tmp_path, *differing, mode="train", folders=(ROOT, ROOT)):
    """Both processes of one run to their end, each with some flags of its own: exit codes and what they said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = [f"--coordinator=127.0.0.1:{server.getsockname()[1]}", "--num_processes=2", "--cluster_timeout=120"]
    common = [f"--config={ROOT}/configs/vp/toy_mlp.py", f"--mode={mode}", f"--workdir={tmp_path / 'run'}"]
    processes = []
    for index, own in enumerate(differing):
        names = {flag.partition("=")[0] for flag in own}
        shared = [flag for flag in common if flag.partition("=")[0] not in names]
        command = [sys.executable, "-m", "score_sde", *shared, *place, f"--process_id={index}", *own]
        environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        processes.append(
            subprocess.Popen(
                command, cwd=folders[index], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )
    said = [process.communicate(timeout=120) for process in processes]
    return [process.returncode for process in processes], [err.decode() for _, err in said]


def test_two_commands_that_differ_end_with_two_before_anything_is_written(tmp_path):
    own = [f"--workdir={tmp_path / 'other'}", "--config.optim.lr=0.5"]
    codes, said = _commands(tmp_path, [], own)
    assert codes == [2, 2], said
    for text in said:
        assert "optim.lr: 0.001 in process 0; 0.5 in process 1" in text
        assert f'--workdir: "{tmp_path / "run"}" in process 0; "{tmp_path / "other"}" in process 1' in text
        assert "Traceback" not in text
    assert not list(tmp_path.iterdir())


def test_a_command_that_fails_in_one_process_ends_both_with_two(tmp_path):
    codes, said = _commands(tmp_path, [], ["--config.sde.beta_mix=1"])
    assert codes == [2, 2], said
    assert "process 1: Unknown config field 'sde.beta_mix'" in said[0]
    assert said[1].startswith("score_sde: Unknown config field 'sde.beta_mix'")


@pytest.mark.sweep
@pytest.mark.parametrize("missing", [False, True])
def test_two_processes_that_read_other_data_under_one_name_end_with_two(tmp_path, missing):
    folders = [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        if not (missing and seed):
            np.savez(folder / "points.npz", x=np.random.default_rng(seed).normal(size=(50, 2)))
    own = ["--config.data.name=npz:points.npz"]
    codes, said = _commands(tmp_path, own, own, folders=folders)
    assert codes == [2, 2], said
    assert not (tmp_path / "run").exists()
    if missing:
        assert all("npz:points.npz: there is no such file" in text for text in said)
        assert "process 1: npz:points.npz" in said[0]
    else:
        assert all("the train split: " in text and "in process 0; " in text for text in said)
