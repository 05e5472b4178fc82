"""A run that was interrupted, or whose newest checkpoint was damaged, ends in the same bits as one that was not."""

import dataclasses
import errno
import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from score_sde import distributed
from score_sde.checkpointing import Checkpoints, CheckpointWriter
from score_sde.cli import load_config
from score_sde.errors import UserError
from score_sde.modes.training import train
from score_sde.modes.workdir import build_experiment
from score_sde.training import loop
from tests.checkpointing.small import bits

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "vp" / "toy_mlp.py"
TINY = {
    "model.features": 16,
    "model.num_blocks": 1,
    "model.dropout": 0.1,
    "optim.warmup": 5,
    "training.num_steps": 30,
    "training.batch_size": 8,
    "training.steps_per_dispatch": 1,  # so that any step can be the last one
    "training.log_every": 5,
    "training.eval_every": 10,
    "training.checkpoint_every": 10,
    "likelihood.batch_size": 10_000,  # also that of the test loss
}


def _overrides(**changes):
    return [f"--config.{name}={value}" for name, value in (TINY | changes).items()]


def _experiment(num_steps=30, **changes):
    return build_experiment(load_config(CONFIG, _overrides(**{"training.num_steps": num_steps}, **changes)))


def _restored(workdir, experiment=None):
    return Checkpoints(workdir).restore_newest((experiment or _experiment()).abstract_state())


def _assert_same_run(workdir, reference):
    assert bits(_restored(workdir).state) == bits(_restored(reference).state)
    assert (workdir / "metrics.jsonl").read_bytes() == (reference / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The working directory of a run of 30 steps in one go."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    state = train(_experiment(), workdir)
    assert bits(_restored(workdir).state) == bits(state)  # the last step is saved
    return workdir


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The working directory of the same run, stopped after 20 steps."""
    workdir = tmp_path_factory.mktemp("stopped")
    train(_experiment(20), workdir)
    return workdir


@pytest.fixture
def workdir(stopped, tmp_path):
    """A copy of the stopped run that a test may damage."""
    return shutil.copytree(stopped, tmp_path / "run")


def test_a_stopped_and_continued_run_ends_in_the_same_bits(uninterrupted, workdir):
    before = bits(_restored(workdir).state)
    train(_experiment(), workdir)
    _assert_same_run(workdir, uninterrupted)
    assert before != bits(_restored(workdir).state)
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 6


def test_a_finished_run_is_left_as_it_is(uninterrupted, tmp_path):
    again = shutil.copytree(uninterrupted, tmp_path / "run")
    state = train(_experiment(), again)
    assert int(state.step) == 30
    _assert_same_run(again, uninterrupted)


@pytest.mark.long
def test_a_run_with_several_steps_per_dispatch_logs_the_same_steps(uninterrupted, tmp_path):
    train(_experiment(**{"training.steps_per_dispatch": 5}), tmp_path)
    one, many = (np.loadtxt(_losses(directory)) for directory in (uninterrupted, tmp_path))
    np.testing.assert_allclose(many, one, rtol=1e-4)


def _losses(workdir):
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [f"{record['step']} {record['loss']}" for record in records]


def _files(checkpoint):
    return sorted(file for file in checkpoint.rglob("*") if file.is_file())


def _truncate(checkpoint):
    largest = max(_files(checkpoint), key=lambda file: file.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def _delete_largest(checkpoint):
    max(_files(checkpoint), key=lambda file: file.stat().st_size).unlink()


def _empty_all(checkpoint):
    for file in _files(checkpoint):
        os.truncate(file, 0)


def _delete_state(checkpoint):
    shutil.rmtree(checkpoint / "state")


@pytest.mark.sweep
@pytest.mark.parametrize("damage", [_truncate, _delete_largest, _empty_all, _delete_state])
def test_a_damaged_newest_checkpoint_is_passed_over_and_the_run_ends_the_same(damage, uninterrupted, workdir, caplog):
    damage(workdir / "checkpoints" / "20")
    with caplog.at_level(logging.INFO):
        train(_experiment(), workdir)
    assert "Checkpoint 20 cannot be read" in caplog.text
    assert "going on from the checkpoint of step 10." in caplog.text
    _assert_same_run(workdir, uninterrupted)
    assert Checkpoints(workdir).steps == [10, 20, 30]


def test_whatever_file_is_damaged_what_is_restored_is_a_whole_checkpoint(workdir):
    experiment, checkpoints = _experiment(), workdir / "checkpoints"
    newest = bits(_restored(workdir, experiment).state)
    shutil.copytree(checkpoints / "20", workdir / "spare")
    older = _without(checkpoints / "20", lambda: bits(_restored(workdir, experiment).state))
    for file in _files(workdir / "spare"):
        shutil.rmtree(checkpoints / "20", ignore_errors=True)
        shutil.copytree(workdir / "spare", checkpoints / "20")
        damaged = checkpoints / "20" / file.relative_to(workdir / "spare")
        os.truncate(damaged, damaged.stat().st_size // 2)
        assert bits(_restored(workdir, experiment).state) in (newest, older), damaged


def _without(directory, action):
    shutil.rmtree(directory)
    return action()


def test_when_every_checkpoint_is_damaged_the_run_stops_and_says_what_to_do(workdir):
    for step in (10, 20):
        _truncate(workdir / "checkpoints" / str(step))
    with pytest.raises(UserError, match=r"None of the checkpoints \[20, 10\] in .* can be read.*another --workdir"):
        train(_experiment(), workdir)


def test_a_checkpoint_of_another_network_is_refused(workdir):
    with pytest.raises(UserError, match="If the configuration has changed, use that of the run"):
        _restored(workdir, _experiment(**{"model.features": 32}))


@pytest.fixture
def spoil(monkeypatch):
    """Makes a metric take a value at one step (counted from 1)."""

    def patch(metric, value, at_step):
        def jit_step(*args, **kwargs):
            compiled = distributed.jit_step(*args, **kwargs)

            def step(state, batch):
                after, metrics = compiled(state, batch)
                return after, metrics | ({metric: jnp.asarray(value)} if int(after.step) == at_step else {})

            return step

        monkeypatch.setattr(loop, "jit_step", jit_step)

    return patch


@pytest.mark.parametrize(("metric", "label"), [("loss", "loss"), ("grad_norm", "norm of the gradient")])
def test_a_loss_that_is_not_finite_stops_the_run_at_its_step_and_keeps_the_last_checkpoint(
    spoil, metric, label, tmp_path
):
    spoil(metric, jnp.nan, 17)
    message = rf"The {label} became nan at step 17\. The checkpoint of step 10 is kept; lower config\.optim\.lr"
    with pytest.raises(UserError, match=message):
        train(_experiment(), tmp_path)
    assert int(_restored(tmp_path).state.step) == 10


def test_a_loss_that_is_not_finite_before_the_first_checkpoint_says_so(spoil, tmp_path):
    spoil("loss", jnp.inf, 3)
    with pytest.raises(UserError, match=r"The loss became inf at step 3\. No checkpoint had been written yet"):
        train(_experiment(), tmp_path)


@pytest.mark.parametrize("method", ["save", "wait_until_finished"])
def test_a_full_disk_stops_the_run_and_leaves_the_earlier_checkpoints(method, workdir, monkeypatch):
    before = bits(_restored(workdir).state)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, method, full)
        with pytest.raises(UserError, match=r"Cannot write checkpoints to .*no space left.*Free some space"):
            train(_experiment(), workdir)
    if method == "save":
        assert bits(_restored(workdir).state) == before
    assert int(_restored(workdir).state.step) >= 20


def test_a_file_system_that_refuses_the_data_is_the_users_to_mend(workdir):
    experiment = _experiment(**{"model.features": 128})  # larger than what may be written
    state = jax.jit(experiment.init_state)()
    before = bits(_restored(workdir).state)
    limits, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, limits[1]))
        with pytest.raises(UserError, match="Cannot write checkpoints to"), CheckpointWriter(workdir) as checkpoints:
            later = dataclasses.replace(state, step=jnp.asarray(30, jnp.int32))
            checkpoints.save(later, {}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert bits(_restored(workdir).state) == before


def test_a_place_for_checkpoints_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(UserError, match="Cannot write checkpoints to"):
        train(_experiment(), tmp_path)


def test_a_run_that_has_lost_its_checkpoints_says_so_and_keeps_its_metrics(workdir, caplog):
    """The same run comes again, to the same bytes; in a new directory nothing is said."""
    before = (workdir / "metrics.jsonl").read_bytes()
    last = json.loads(before.splitlines()[-1])["step"]
    shutil.rmtree(workdir / "checkpoints")
    train(_experiment(last), workdir)
    assert f"The run in {workdir} has metrics to step {last} but no checkpoint; training starts again" in caplog.text
    assert (workdir / "earlier" / "train-1" / "metrics.jsonl").read_bytes() == before
    caplog.clear()
    train(_experiment(last), workdir)
    assert "no checkpoint" not in caplog.text and not (workdir / "earlier" / "train-2").exists()


def _start(workdir):
    changes = {"training.num_steps": 3000, "training.checkpoint_every": 100, "training.eval_every": 500}
    command = [sys.executable, "-m", "score_sde", f"--config={CONFIG}", f"--workdir={workdir}", "--mode=train"]
    with open(workdir.with_suffix(".log"), "ab") as log:
        return subprocess.Popen([*command, *_overrides(**changes)], cwd=ROOT, stdout=log, stderr=log)


def _newest_step(workdir):
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


@pytest.mark.long
def test_a_run_that_is_killed_five_times_ends_in_the_same_bits(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    rng = random.Random(0)
    for target in (0, *sorted(rng.sample(range(100, 2500), 4))):
        process = _start(killed)
        deadline = time.monotonic() + 180
        while _newest_step(killed) < target and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        # A little later, so that it is hit anywhere: between steps, while saving, or (the first) while starting.
        time.sleep(rng.uniform(0.0, 0.2))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
        assert _newest_step(killed) >= target
    for workdir in (killed, whole):
        assert _start(workdir).wait() == 0, workdir.with_suffix(".log").read_text()
    assert _newest_step(killed) == _newest_step(whole) == 3000
    _assert_same_run(killed, whole)
