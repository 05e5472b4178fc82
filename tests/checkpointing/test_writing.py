"""What is kept of what was written, and what is never written or read."""

import errno
import math
import os
import resource
import signal
import threading

import jax.numpy as jnp
import pytest

from score_sde.checkpointing import Checkpoints, CheckpointWriter, NotFinite, storage
from score_sde.checkpointing.digests import Examined
from score_sde.errors import UserError
from tests.checkpointing.small import CONFIG, bits, like, save, state_at


def _save_losses(workdir, losses, **options):
    with CheckpointWriter(workdir, **options) as writer:
        for step, loss in losses.items():
            writer.save(state_at(step), {}, CONFIG, loss=loss)


def test_the_best_stay_the_best_when_the_run_is_started_again(tmp_path):
    options = {"keep": 1, "keep_best": 1}
    _save_losses(tmp_path, {1: 0.5, 2: 0.1, 3: 0.3}, **options)
    assert Checkpoints(tmp_path).steps == [2, 3]
    for step in (4, 5):
        _save_losses(tmp_path, {step: 0.2}, **options)
        assert Checkpoints(tmp_path).steps == [2, step]
    _save_losses(tmp_path, {6: 0.05, 7: 0.3}, **options)
    assert Checkpoints(tmp_path).steps == [6, 7]


def test_what_is_no_number_is_never_the_best(tmp_path):
    _save_losses(tmp_path, {1: math.nan, 2: 1.0, 3: -math.inf, 4: None, 5: 2.0, 6: math.nan}, keep=1, keep_best=1)
    assert Checkpoints(tmp_path).steps == [2, 6]
    _save_losses(tmp_path / "none", {1: math.nan, 2: math.nan, 3: math.nan}, keep=1, keep_best=2)
    assert Checkpoints(tmp_path / "none").steps == [3]


def test_a_state_that_is_not_finite_is_refused_by_name_and_leaves_the_directory_alone(tmp_path):
    save(tmp_path, 10)
    with (
        CheckpointWriter(tmp_path) as writer,
        pytest.raises(NotFinite, match=r"After step 20 state\..*\['dense'\]"),
    ):
        writer.save(state_at(20, scale=jnp.inf), {}, CONFIG)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["10"]


def test_a_state_that_is_not_finite_is_passed_over_when_an_earlier_version_has_saved_it(tmp_path, monkeypatch, caplog):
    save(tmp_path, 10)
    with monkeypatch.context() as patch, CheckpointWriter(tmp_path) as writer:
        patch.setattr(storage, "examine", lambda tree: Examined({}, []))
        patch.setattr(storage, "_DIGESTS", "none")
        writer.save(state_at(20, scale=jnp.nan), {}, CONFIG)
    assert bits(Checkpoints(tmp_path).restore_newest(like()).state) == bits(state_at(10))
    assert (
        "Checkpoint 20 cannot be read (state.params['dense']['kernel'] has values that are not finite)" in caplog.text
    )
    with pytest.raises(UserError, match=r"None of the checkpoints \[20\].*not finite"):
        Checkpoints(tmp_path).restore_newest(like(), among=[20])


@pytest.fixture
def largest_file():
    """Limits the size of files, as a disk that is full does."""
    limits, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("size", [0, 60, 250, 600, 1500, 3000])
def test_a_disk_that_takes_no_more_is_one_sentence_and_each_time(size, tmp_path, largest_file, capfd):
    save(tmp_path, 10)
    largest_file(size)
    with pytest.raises(UserError, match=r"Cannot write checkpoints to .*Free some space.*untouched"):
        save(tmp_path, 20, 30)
    largest_file(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert "Event loop is closed" not in capfd.readouterr().err
    assert bits(Checkpoints(tmp_path).restore_newest(like()).state) == bits(state_at(10))
    save(tmp_path, 20)
    assert Checkpoints(tmp_path).steps == [10, 20]


def test_a_disk_without_room_for_a_directory_does_not_hold_up_the_end(tmp_path, monkeypatch):
    save(tmp_path, 10)
    before, make = set(threading.enumerate()), os.mkdir

    def full(path, *args, **kwargs):
        if "20.orbax" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        make(path, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"no space left on device.*Free some space"):
        patch.setattr(os, "mkdir", full)
        save(tmp_path, 20)
    waiting = [thread for thread in set(threading.enumerate()) - before if "json" in thread.name]
    for thread in waiting:
        thread.join(5.0)
    assert not [thread for thread in waiting if thread.is_alive()]
    assert bits(Checkpoints(tmp_path).restore_newest(like()).state) == bits(state_at(10))
