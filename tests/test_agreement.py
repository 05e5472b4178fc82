"""Processes of one run do the same, or none of them begins and each says what differs."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from score_sde.agreement import agree
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


def _together(*prepared, timeout=20.0, count=None):
    """What processes end with that prepare these settings, or fail with these errors: results or exceptions."""
    store, ends = _Store(), [None] * len(prepared)

    def process(index):
        def prepare():
            if isinstance(prepared[index], Exception):
                raise prepared[index]
            return index, prepared[index]

        keywords = {"store": store, "process_id": index, "num_processes": count or len(prepared), "timeout": timeout}
        try:
            ends[index] = agree(prepare, **keywords)
        except Exception as error:
            ends[index] = error

    threads = [threading.Thread(target=process, args=(index,)) for index in range(len(prepared))]
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


def _commands(tmp_path, *differing, mode="train"):
    """Both processes of one run to their end, each with some flags of its own: exit codes and what they said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = [f"--coordinator=127.0.0.1:{server.getsockname()[1]}", "--num_processes=2", "--cluster_timeout=120"]
    common = ["--config=configs/vp/toy_mlp.py", f"--mode={mode}", f"--workdir={tmp_path / 'run'}"]
    processes = []
    for index, own in enumerate(differing):
        names = {flag.partition("=")[0] for flag in own}
        shared = [flag for flag in common if flag.partition("=")[0] not in names]
        command = [sys.executable, "-m", "score_sde", *shared, *place, f"--process_id={index}", *own]
        environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
        processes.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
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
