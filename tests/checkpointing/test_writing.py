"""What is kept of what was written, and what is never written or read."""

import math

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
