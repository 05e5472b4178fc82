"""Who reads a run leaves no trace in it, and copes with what the run does meanwhile."""

import errno
import os
import shutil

import pytest

from score_sde.checkpointing import Checkpoints, CheckpointWriter, Snapshots, SnapshotWriter, storage
from score_sde.errors import UserError
from score_sde.modes.workdir import has_checkpoint
from tests.checkpointing.small import bits, files, like, save, state_at


@pytest.fixture
def run(tmp_path):
    save(tmp_path, 10, 20)
    with SnapshotWriter(tmp_path) as snapshots:
        snapshots.save(20, {0.05: state_at(20).params})
    return tmp_path


def _trace(workdir):
    """Everything there is, with the time at which an entry of it was last made or removed."""
    return {path: path.stat().st_mtime_ns for path in (workdir, *workdir.rglob("*"))}


READERS = {
    "newest": lambda run: Checkpoints(run).restore_newest(like()),
    "steps": lambda run: Checkpoints(run).steps,
    "whether": has_checkpoint,
    "snapshot": lambda run: Snapshots(run).load(*Snapshots(run).names[0], like().params),
    "nothing": lambda run: Checkpoints(run / "elsewhere").restore_newest(like()),
    "no snapshots": lambda run: Snapshots(run / "elsewhere").names,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_reader_leaves_what_a_writer_has_begun(run, read):
    for name in ("checkpoints/30.orbax-checkpoint-tmp-1", "averages/30.orbax-checkpoint-tmp-1"):
        (run / name / "state").mkdir(parents=True)
    before = _trace(run)
    read(run)
    assert _trace(run) == before


def test_a_run_is_read_while_it_saves(run):
    with CheckpointWriter(run) as writer:
        for step in (30, 40, 50):
            writer.save(state_at(step), {}, {})
            found = Checkpoints(run).restore_newest(like())
            assert found is not None
            assert bits(found.state) == bits(state_at(int(found.state.step)))
    assert Checkpoints(run).steps == [30, 40, 50]


def test_a_checkpoint_that_is_removed_while_it_is_read_gives_way_to_the_next(run, monkeypatch, caplog):
    """The newest is read, but another one of several is removed when the run goes on."""
    inner = storage._read_arrays

    def removed(path, tree):
        if path.parent.name == "20":
            shutil.rmtree(path.parent)
            save(run, 30)
        return inner(path, tree)

    monkeypatch.setattr(storage, "_read_arrays", removed)
    found = Checkpoints(run).restore_newest(like())
    assert bits(found.state) == bits(state_at(30))
    assert not caplog.records


def test_only_the_writer_removes_what_a_kill_left_behind(run):
    left = run / "checkpoints" / "30.orbax-checkpoint-tmp-1"
    left.mkdir()
    with CheckpointWriter(run):
        pass
    save(run, 30)
    assert not left.exists() and files(run / "checkpoints" / "30")


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
        ValueError(
            'PERMISSION_DENIED: Error opening "zarr" driver: Failed to open: "x" [OS error 13: Permission denied]'
        ),
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes."),
    ],
)
def test_a_checkpoint_that_may_not_be_read_is_neither_passed_over_nor_moved(error, run, monkeypatch):
    def refused(path, tree):
        raise error

    monkeypatch.setattr(storage, "_read_arrays", refused)
    for checkpoints in (Checkpoints(run), CheckpointWriter(run)):
        with pytest.raises(UserError, match=r"checkpoints/20 cannot be read \((permission|too many|out of memory)"):
            checkpoints.restore_newest(like())
    checkpoints.close()
    assert Checkpoints(run).steps == [10, 20]
