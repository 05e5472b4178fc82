"""Whatever happens to the files of a checkpoint, what is restored is what was written, or its elder and one line."""

import logging
import os
import random
import shutil

import jax.numpy as jnp
import pytest

from score_sde.checkpointing import Checkpoints, CheckpointWriter, Snapshots, SnapshotWriter
from score_sde.checkpointing.digests import json_digest
from score_sde.errors import UserError
from tests.checkpointing.small import CONFIG, bits, files, like, save, state_at

STEPS = (10, 20)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save(tmp_path_factory.mktemp("whole"), *STEPS)


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def _place(rng, size):
    return rng.randrange(max(size, 1))


def _flip(file, rng):
    data = bytearray(file.read_bytes())
    if data:
        data[_place(rng, len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def _hole(file, rng):
    data = bytearray(file.read_bytes())
    start = _place(rng, len(data))
    end = min(len(data), start + rng.randrange(1, 512))
    data[start:end] = bytes(end - start)
    file.write_bytes(data)


def _swap(file, rng):
    other = rng.choice([path for path in files(_checkpoint_of(file)) if path != file])
    ours, theirs = file.read_bytes(), other.read_bytes()
    file.write_bytes(theirs)
    other.write_bytes(ours)


def _checkpoint_of(file):
    return next(parent for parent in file.parents if parent.name.isdigit())


DAMAGES = {
    "flip": _flip,
    "truncate": lambda file, rng: os.truncate(file, _place(rng, file.stat().st_size)),
    "remove": lambda file, rng: file.unlink(),
    "zero": lambda file, rng: file.write_bytes(bytes(file.stat().st_size)),
    "hole": _hole,
    "extend": lambda file, rng: file.write_bytes(file.read_bytes() + rng.randbytes(rng.randrange(1, 2000))),
    "swap": _swap,
    "noise": lambda file, rng: file.write_bytes(rng.randbytes(file.stat().st_size)),
}


def _check(run, caplog):
    """Restores as a run that goes on does; the step that was found, which holds what was written."""
    caplog.clear()
    with caplog.at_level(logging.INFO), CheckpointWriter(run) as writer:
        found = writer.restore_newest(like())
        step = int(found.state.step)
        assert bits(found.state) == bits(state_at(step))
        assert (found.iterator, found.config) == ({"position": step}, CONFIG)
        assert found.window == {"loss": [0.5, step + 0.1]}
        messages = [record.getMessage() for record in caplog.records if record.name.startswith("score_sde")]
        assert len(messages) == (step != STEPS[-1])
        assert all("Checkpoint 20 cannot be read (" in text and "of step 10." in text for text in messages)
        writer.save(state_at(30), {}, CONFIG)
    assert Checkpoints(run).steps == [*(s for s in STEPS if s <= step), 30]
    return step


def _fuzz(whole, tmp_path, caplog, capfd, *, seed, count=0):
    """The steps that are found after some damages at random, or after every damage of every file in two places."""
    rng, found = random.Random(seed), []
    names = [path.relative_to(whole) for path in files(whole / "checkpoints" / "20")]
    pairs = [(name, damage) for damage in DAMAGES for name in names]
    for number in range(count or 2 * len(pairs)):
        name, damage = rng.choice(pairs) if count else pairs[number % len(pairs)]
        run = shutil.copytree(whole, tmp_path / str(number))
        DAMAGES[damage](run / name, rng)
        try:
            found.append(_check(run, caplog))
        except BaseException as error:
            error.add_note(f"{damage} of {name}, case {number}")
            raise
        shutil.rmtree(run)
    assert not capfd.readouterr().err  # no traceback of a thread that was left alone
    return found


def test_a_damaged_file_ends_in_what_was_written_or_in_the_elder(whole, tmp_path, caplog, capfd):
    assert set(_fuzz(whole, tmp_path, caplog, capfd, seed=1, count=20)) == set(STEPS)


@pytest.mark.long
def test_every_damage_of_every_file_ends_in_what_was_written_or_in_the_elder(whole, tmp_path, caplog, capfd):
    found = _fuzz(whole, tmp_path, caplog, capfd, seed=2)
    print(f"{len(found)} damages: {found.count(20)} harmless, {found.count(10)} ended in the elder.")
    assert len(found) >= 300 and min(found.count(10), found.count(20)) >= 100


def test_a_bit_in_the_middle_of_an_array_does_not_pass(run, caplog):
    """Nothing but the digest may notice it."""
    data = max(files(run / "checkpoints" / "20" / "state" / "d"), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    assert _check(run, caplog) == 10


@pytest.mark.parametrize("item", ["iterator", "window", "config", "digests"])
def test_another_number_in_a_file_of_json_does_not_pass(run, item, caplog):
    file = run / "checkpoints" / "20" / item / "metadata"
    text = file.read_text()
    digit = next(i for i, letter in enumerate(text) if letter in "0123456789")
    file.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])
    assert _check(run, caplog) == 10


@pytest.mark.parametrize("item", ["iterator", "window", "config", "state"])
def test_a_part_that_is_gone_is_not_one_that_never_was(item, run, caplog):
    shutil.rmtree(run / "checkpoints" / "20" / item)
    assert _check(run, caplog) == 10


def test_a_checkpoint_under_the_name_of_another_step_does_not_pass(run):
    shutil.copytree(run / "checkpoints" / "10", run / "checkpoints" / "40")
    assert int(Checkpoints(run).restore_newest(like()).state.step) == 20


def test_where_no_checkpoint_is_good_one_sentence_says_why(run):
    for step in STEPS:
        shutil.rmtree(run / "checkpoints" / str(step) / "state" / "d")
    with pytest.raises(UserError, match=r"None of the checkpoints \[20, 10\] in .* can be read \(.*another --workdir"):
        Checkpoints(run).restore_newest(like())


def test_checkpoints_of_a_version_without_digests_are_read_and_that_is_said_once(run, caplog):
    for step in STEPS:
        shutil.rmtree(run / "checkpoints" / str(step) / "digests")
    with caplog.at_level(logging.INFO):
        for among in ((10,), (20,)):
            found = Checkpoints(run).restore_newest(like(), among=among)
            assert bits(found.state) == bits(state_at(*among))
    assert caplog.text.count("without digests") == 1


def test_arrays_of_another_type_or_shape_are_refused_by_name_and_are_no_damage(run):
    other = like().params | {"dense": {"kernel": jnp.zeros((20, 16)), "bias": jnp.zeros(15)}}
    with pytest.raises(UserError, match=r"float32 \(20, 15\) as state.*kernel.*makes float32 \(20, 16\)"):
        Checkpoints(run).restore_newest(state_at(0).__class__(**{**vars(state_at(0)), "params": other}))


def test_a_damaged_snapshot_does_not_pass(tmp_path):
    with SnapshotWriter(tmp_path) as snapshots:
        snapshots.save(20, {0.05: state_at(20).params, 0.1: state_at(21).params})
    expected = {0.05: 20, 0.1: 21}
    for width, step in expected.items():
        assert bits(Snapshots(tmp_path).load(20, width, like().params)) == bits(state_at(step).params)
    (tmp_path / "averages" / "20" / "0.05").rename(tmp_path / "averages" / "20" / "x")
    (tmp_path / "averages" / "20" / "0.1").rename(tmp_path / "averages" / "20" / "0.05")
    with pytest.raises(
        UserError, match=r"The snapshot .*20/0\.05 cannot be read \(the digest of 0\.05.* is not the one"
    ):
        Snapshots(tmp_path).load(20, 0.05, like().params)


def test_a_digest_of_json_is_one_of_the_order_of_lists_and_not_of_keys():
    value = {"a": 1, "b": [1, 2]}
    assert json_digest(value) == json_digest({"b": [1, 2], "a": 1})
    assert json_digest(value) != json_digest({"a": 1, "b": [2, 1]})
