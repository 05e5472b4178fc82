"""SIGTERM saves and ends with 0, Ctrl-C with 130; what is kept, and what is put together from it afterwards."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from score_sde import distributed, signals
from score_sde.checkpointing import Checkpoints, Snapshots
from score_sde.cli import main
from score_sde.data import DataRecord
from score_sde.errors import Preempted, Terminated, UserError
from score_sde.interop.safetensors_files import read_safetensors
from score_sde.modes.record import claim
from score_sde.modes.training import train
from score_sde.modes.workdir import trained_state
from score_sde.training import loop
from score_sde.training.ema import power_averages
from score_sde.training.preemption import Preemption
from tests.checkpointing.small import bits
from tests.training.test_resume import CONFIG, ROOT, _experiment, _overrides, _restored

SNAPSHOTS = {"optim.ema_widths": "(0.05,0.10)", "optim.ema_snapshot_every": 5}


@pytest.fixture
def terminate(monkeypatch):
    """Has a signal come while a step is computed (counted from 1), once or several times."""

    def at(step, number=signal.SIGTERM, times=1):
        def jit_step(*args, **kwargs):
            compiled = distributed.jit_step(*args, **kwargs)

            def run(state, batch):
                for _ in range(times if int(state.step) + 1 == step else 0):
                    os.kill(os.getpid(), number)
                return compiled(state, batch)

            return run

        monkeypatch.setattr(loop, "jit_step", jit_step)

    return at


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The working directory of a run of 30 steps in one go, with snapshots of averages."""
    workdir = tmp_path_factory.mktemp("whole")
    train(_experiment(**SNAPSHOTS), workdir)
    return workdir


@pytest.mark.slow
def test_only_the_loop_asks_whether_to_end(monkeypatch, tmp_path):
    """JAX ends the run one question after the greatest number asked: a save that says its step puts that off."""
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    train(_experiment(**SNAPSHOTS), tmp_path)
    assert Checkpoints(tmp_path).steps and Snapshots(tmp_path).names
    assert asked == []


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("step", "number"), [(2, signal.SIGINT), (10, signal.SIGTERM), (13, signal.SIGINT), (29, signal.SIGTERM)]
)
def test_a_run_that_is_asked_to_end_saves_where_it_is_and_goes_on_from_there(
    step, number, terminate, uninterrupted, tmp_path
):
    terminate(step, number)
    before = signal.getsignal(number)
    how, code = {signal.SIGTERM: ("stopped", 0), signal.SIGINT: ("interrupted", 130)}[number]
    with pytest.raises(Preempted, match=f"{how} at step {step}, which is saved") as ending:
        train(_experiment(**SNAPSHOTS), tmp_path)
    assert signal.getsignal(number) is before and ending.value.code == code
    assert int(_restored(tmp_path, _experiment(**SNAPSHOTS)).state.step) == step
    terminate(10**9)
    train(_experiment(**SNAPSHOTS), tmp_path)
    experiment = _experiment(**SNAPSHOTS)
    ends = [bits(_restored(workdir, experiment).state) for workdir in (tmp_path, uninterrupted)]
    assert ends[0] == ends[1]
    # Lines of metrics are means over windows that the end has cut in two.
    assert (tmp_path / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()


def test_a_run_of_several_steps_per_call_ends_after_a_call_and_goes_on_from_there(terminate, tmp_path):
    chosen = _experiment(**{"training.steps_per_dispatch": 0})
    train(chosen, tmp_path / "whole")
    terminate(11)  # the first step of a call of five
    with pytest.raises(Preempted, match="stopped at step 15, which is saved"):
        train(chosen, tmp_path / "stopped")
    terminate(10**9)
    with pytest.raises(UserError, match=r"goes on from step 15 and steps_per_dispatch is 10; .* such as 5"):
        fields = {"training.steps_per_dispatch": 10, "training.log_every": 10}
        train(_experiment(**fields), tmp_path / "stopped")
    train(chosen, tmp_path / "stopped")
    whole, stopped = (tmp_path / name for name in ("whole", "stopped"))
    assert bits(_restored(whole, chosen).state) == bits(_restored(stopped, chosen).state)
    assert (whole / "metrics.jsonl").read_bytes() == (stopped / "metrics.jsonl").read_bytes()


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("step", "number", "times", "kept"),
    [(1, signal.SIGTERM, 1, None), (1, signal.SIGINT, 1, None), (15, signal.SIGINT, 2, 10)],
)
def test_a_run_ends_at_once_before_its_first_step_is_done_and_when_it_is_interrupted_twice(
    step, number, times, kept, terminate, tmp_path
):
    """The first step is compiled, for minutes, and there is nothing to save."""
    terminate(step, number, times)
    with pytest.raises(KeyboardInterrupt) as ending:
        train(_experiment(), tmp_path)
    assert isinstance(ending.value, Terminated) == (number == signal.SIGTERM)
    assert max(Checkpoints(tmp_path).steps, default=None) == kept
    assert not signals._saves_first.is_set()


def test_the_command_line_saves_an_interrupted_run_and_ends_with_130(terminate, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ["JAX_COMPILATION_CACHE_DIR"])
    terminate(13, signal.SIGINT)
    with caplog.at_level(logging.INFO):
        assert main([f"--config={CONFIG}", f"--workdir={tmp_path}", "--mode=train", *_overrides()]) == 130
    assert any("Compiling the training step" in line for line in caplog.messages)
    assert "score_sde: interrupted at step 13, which is saved; the same command goes on" in capfd.readouterr().err
    assert Checkpoints(tmp_path).steps == [10, 13]


def test_a_run_that_is_asked_during_its_last_step_simply_ends(terminate, tmp_path):
    terminate(30)
    assert int(train(_experiment(), tmp_path).step) == 30


def test_a_loss_that_is_not_finite_is_not_saved_by_a_run_that_must_end(terminate, monkeypatch, tmp_path):
    terminate(13)
    asked = loop.jit_step

    def jit_step(*args, **kwargs):
        run = asked(*args, **kwargs)

        def spoilt(state, batch):
            state, metrics = run(state, batch)
            return state, metrics | ({"loss": np.float32(np.nan)} if int(state.step) == 12 else {})

        return spoilt

    monkeypatch.setattr(loop, "jit_step", jit_step)
    with pytest.raises(UserError, match=r"The loss became nan at step 12\. The checkpoint of step 10 is kept"):
        train(_experiment(), tmp_path)
    assert int(_restored(tmp_path).state.step) == 10


def test_outside_of_the_main_thread_signals_are_left_alone():
    seen = []

    def ask():
        with Preemption() as preemption:
            seen.append((signal.getsignal(signal.SIGTERM), preemption.requested()))

    thread = threading.Thread(target=ask)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def test_processes_that_go_on_from_a_later_step_hear_of_it_too(monkeypatch):
    """JAX ends a run when a count equals the one agreed on: one more than the last when a process was asked."""
    last, agreed = 0, None

    def reached(count):
        nonlocal last
        last = count
        return count == agreed

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", reached)
    for _ in range(2):  # loops of one process, whatever the numbers of their steps
        with Preemption() as preemption:
            assert [preemption.requested() for _ in range(3)] == [False] * 3
            agreed = last + 1
            assert preemption.requested()


def test_the_command_line_ends_with_0_and_goes_on(tmp_path):
    changes = {"training.num_steps": 100_000, "training.eval_every": 50_000, "training.checkpoint_every": 50_000}
    command = [sys.executable, "-m", "score_sde", f"--config={CONFIG}", f"--workdir={tmp_path}", "--mode=train"]
    process = subprocess.Popen(
        [*command, *_overrides(**changes)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "metrics.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert time.monotonic() - asked < 30
    assert "is saved; the same command goes on from there" in log and "Traceback" not in log
    (step,) = Checkpoints(tmp_path).steps
    assert f"stopped at step {step}," in log


def test_checkpoints_are_kept_by_age_by_number_and_by_loss(tmp_path):
    changes = {"training.log_every": 5, "training.eval_every": 5, "training.checkpoint_every": 5}
    policy = {"training.keep_checkpoints": 1, "training.keep_every": 10, "training.keep_best": 1}
    train(_experiment(40, **changes, **policy), tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = min(records, key=lambda record: record["eval_loss"])["step"]
    assert set(Checkpoints(tmp_path).steps) == {10, 20, 30, 40, best}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.keep_every": 15}, "config.training.keep_every is 15; expected a multiple of"),
        ({"training.keep_best": 1, "training.checkpoint_every": 5}, "so that every checkpoint has a loss"),
        ({"training.keep_best": -1}, "config.training.keep_best is -1; expected an integer from 0"),
        ({"training.accumulate": 3}, "batch_size is 8; expected a multiple of config.training.accumulate, 3"),
        ({"mesh.data": 3}, "config.mesh is data=3, fsdp=1"),
        ({"ema_width": 0.5}, "config.ema_width is 0.5; expected 0, or a number from 0.001 to 0.28"),
        ({"optim.ema_snapshot_every": 5}, "ema_widths"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        _experiment(**changes)


def _measured(workdir, **changes):
    experiment = _experiment(**SNAPSHOTS, **changes)
    return trained_state(experiment, workdir)


@pytest.fixture
def recorded(uninterrupted, tmp_path):
    workdir = shutil.copytree(uninterrupted, tmp_path / "run")
    claim(_experiment(**SNAPSHOTS).settings, workdir, DataRecord("toy:gaussians", (2,), None, None, {}))
    return workdir


def test_a_tracked_average_comes_back_from_its_snapshots(recorded):
    state = _measured(recorded)
    assert Snapshots(recorded).names == [(step, width) for step in range(5, 31, 5) for width in (0.05, 0.1)]
    for width, tracked in power_averages(state.opt_state).items():
        found = _measured(recorded, ema_width=width).ema_params
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found, tracked)


def test_another_average_lies_between_those_that_were_tracked(recorded):
    narrow, wide = power_averages(_measured(recorded).opt_state).values()
    found = _measured(recorded, ema_width=0.075).ema_params

    def distance(a, b):
        return np.sqrt(sum(np.sum((x - y) ** 2) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)))

    assert max(distance(found, narrow), distance(found, wide)) < distance(narrow, wide)
    assert min(distance(found, narrow), distance(found, wide)) > 0.0


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.parametrize("last", [25, 30])
def test_the_step_of_an_average_is_recorded_and_said_when_it_is_behind(last, recorded, caplog):
    if last == 25:
        shutil.rmtree(recorded / "averages" / "30")
    fields = _overrides(**SNAPSHOTS, ema_width=0.075, **{"sampling.predictor": "ddim", "sampling.num_steps": 2})
    with caplog.at_level(logging.INFO):
        assert main([f"--config={CONFIG}", f"--workdir={recorded}", "--mode=sample", *fields]) == 0
    found = json.loads((recorded / "sampling.json").read_text())
    assert (found["step"], found["ema_step"]) == (30, last)
    assert f"at step {last} is put together" in caplog.text
    assert main([f"--workdir={recorded}", "--mode=export", "--config.ema_width=0.075"]) == 0
    tensors, metadata = read_safetensors(recorded / "model.safetensors")
    assert (tensors["ema_width"], tensors["ema_step"], metadata) == (0.075, last, {"score_sde_step": "30"})
    assert ("is of step 25, the last snapshot, and the newest checkpoint is of step 30" in caplog.text) == (last == 25)


def _damage(directory):
    for file in directory.rglob("*"):
        file.is_file() and os.truncate(file, 0)


@pytest.mark.sweep
@pytest.mark.parametrize("step", [15, 30])
def test_a_damaged_snapshot_is_left_out_as_if_it_had_never_been_there(step, recorded, tmp_path, caplog):
    without = shutil.copytree(recorded, tmp_path / "without")
    _damage(recorded / "averages" / str(step) / "0.05")
    shutil.rmtree(without / "averages" / str(step) / "0.05")
    found, expected = (_measured(workdir, ema_width=0.075).ema_params for workdir in (recorded, without))
    assert bits(found) == bits(expected)
    said = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    assert len(said) == 1 and f"averages/{step}/0.05 cannot be read" in said[0] and "without it" in said[0]


def test_an_average_without_snapshots_says_what_to_do(recorded):
    _damage(recorded / "averages")
    with pytest.raises(UserError, match="There are no snapshots of averages"):
        _measured(recorded, ema_width=0.05)
    shutil.rmtree(recorded / "averages")
    with pytest.raises(UserError, match=r"There are no snapshots of averages; train with config\.optim\.ema_widths"):
        _measured(recorded, ema_width=0.05)


@pytest.mark.slow
def test_a_run_that_goes_back_writes_its_snapshots_again(uninterrupted, tmp_path):
    workdir = shutil.copytree(uninterrupted, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "30")
    shutil.rmtree(workdir / "checkpoints" / "20")
    train(_experiment(**SNAPSHOTS), workdir)
    _assert_averages_equal(workdir, uninterrupted)


def _assert_averages_equal(workdir, reference):
    like = _experiment(**SNAPSHOTS).abstract_state().ema_params
    ours, theirs = Snapshots(workdir), Snapshots(reference)
    assert ours.names == theirs.names
    for name in ours.names:
        assert bits(ours.load(*name, like)) == bits(theirs.load(*name, like))
