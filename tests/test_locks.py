"""One process at a time writes one kind of result to a directory, and what a killed one has left is in nobody's way."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from score_sde import files
from score_sde.cli import main
from score_sde.errors import UserError
from score_sde.files import ELSEWHERE, atomic_write_text, check_writable, locks, only_writer, writing
from tests.evaluation.test_sample_mode import TINY, save_model, tiny
from tests.training.test_resume import ROOT

DIGITS = ROOT / "configs" / "vp" / "digits_ddpmpp.py"
HOLD = """
import sys, time
from pathlib import Path
from score_sde.files import only_writer
with only_writer(Path(sys.argv[1]), "train", doing="training the run in runs/a"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_writer_is_told_who_the_first_is_and_comes_in_when_that_is_done(tmp_path):
    who = f"Process {os.getpid()} on {socket.gethostname()} has been training the run in runs/a since 20.* UTC; wait"
    with only_writer(tmp_path, "train", doing="training the run in runs/a"):
        for _ in range(2):
            with pytest.raises(UserError, match=who), only_writer(tmp_path, "train", doing="training, too"):
                raise AssertionError
        with only_writer(tmp_path, "sample", doing="sampling"):  # another kind of work
            pass
    with only_writer(tmp_path, "train", doing="training, too"):
        pass
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=f"Process {holder.pid} on .* has been training the run in runs/a since"),
            only_writer(tmp_path, "train", doing="training, too"),
        ):
            raise AssertionError
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert (tmp_path / ".train.lock").is_file()
    with only_writer(tmp_path, "train", doing="training, too"):
        pass


def test_a_lock_that_its_holder_removes_while_it_is_being_taken_is_not_mistaken_for_one(monkeypatch, tmp_path):
    """Between opening a file and locking it the holder may end: the file that is locked then is nobody's any more."""
    path, flock, seen = tmp_path / ".train.lock", locks.fcntl.flock, []

    def late(descriptor, operation):
        if not seen:
            path.unlink()
        seen.append(descriptor)
        return flock(descriptor, operation)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    with only_writer(tmp_path, "train", doing="training"):
        assert len(seen) == 2 and path.is_file()
        with pytest.raises(UserError, match="has been training"), only_writer(tmp_path, "train", doing="training"):
            raise AssertionError


def test_a_directory_that_cannot_be_written_is_said_at_once_and_one_without_locks_is_written(monkeypatch, tmp_path):
    def refuse(number):
        def flock(*arguments):
            raise OSError(number, os.strerror(number))

        return flock

    with pytest.raises(UserError, match=r"Cannot write .*\.train\.lock \(No such file"):
        with only_writer(tmp_path / "none", "train", doing="training"):
            raise AssertionError
    monkeypatch.setattr(locks.fcntl, "flock", refuse(errno.EIO))
    with pytest.raises(UserError, match="Input/output error"), only_writer(tmp_path, "train", doing="training"):
        raise AssertionError
    monkeypatch.setattr(locks.fcntl, "flock", refuse(errno.ENOLCK))
    with only_writer(tmp_path, "train", doing="training"):
        pass
    monkeypatch.setattr(locks, "fcntl", None)
    with only_writer(tmp_path, "train", doing="training"), only_writer(tmp_path, "train", doing="training"):
        pass


def test_temporary_files_go_with_the_next_writer_if_their_own_is_gone(tmp_path):
    host, gone = socket.gethostname(), subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, alive = tmp_path / f".a.json.{gone.pid}@{host}.tmp", tmp_path / f".a.json.{os.getppid()}@{host}.tmp"
    fresh, idle = tmp_path / ".a.json.1@another.tmp", tmp_path / f".a.json.{os.getppid()}.tmp"
    own, other = tmp_path / f".b.{os.getpid()}@{host}.tmp", tmp_path / ".mine.tmp"
    below = tmp_path / "progress" / f".a.png.{gone.pid}@{host}.tmp"
    below.parent.mkdir()
    for path in (dead, alive, fresh, idle, own, other, below):
        path.touch()
    os.utime(idle, (time.time() - 100_000,) * 2)
    with only_writer(tmp_path, "train", doing="training"):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([alive, fresh, other, below.parent]) and not below.exists()
    with files.atomic_path(tmp_path / "c") as temporary:
        temporary.touch()
        assert locks._TEMPORARY.fullmatch(temporary.name)["process"] == str(os.getpid())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run with a model, and a configuration with which every mode would work."""
    return save_model(tmp_path_factory.mktemp("run"), tiny())


@pytest.mark.parametrize(
    "mode",
    [
        *("train", "sample", "likelihood", "eval", "latents", "pareto", "restore", "classify", "stats"),
        *("train_dequantizer", "train_classifier"),
    ],
)
def test_every_mode_that_writes_for_long_is_refused_while_it_is_under_way(mode, model, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    beside = {"train_dequantizer": "dequantizer", "train_classifier": "classifier"}
    held = model / beside.get(mode, "")
    held.mkdir(exist_ok=True)
    before = sorted(path.name for path in model.iterdir())
    overrides = [f"--config.{name}={value}" for name, value in TINY.items()] + ["--config.dequantizer.name=flowpp"]
    with only_writer(held, "train" if mode in beside else mode, doing="at work"):
        assert main([f"--config={DIGITS}", f"--workdir={model}", f"--mode={mode}", *overrides]) == 2
    said = capsys.readouterr().err
    assert f"Process {os.getpid()} on" in said and "has been at work since" in said and "Traceback" not in said
    assert sorted(path.name for path in model.iterdir()) == before


def test_what_takes_no_files_is_told_before_and_nothing_is_left_there(tmp_path):
    check_writable(tmp_path / "a" / "b", make=False)
    assert not list(tmp_path.iterdir())
    check_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("")
    for make in (True, False):
        with pytest.raises(UserError, match=r"Cannot write to .*file/x .*--out=DIR"):
            check_writable(tmp_path / "file" / "x", make=make)


@pytest.mark.parametrize("make", [True, False])
@pytest.mark.parametrize("below", ["", "x"])
@pytest.mark.parametrize(("kind", "words"), [("file", "is a file"), ("link", "is a link to nothing")])
def test_what_stands_in_the_way_of_a_directory_is_named(tmp_path, kind, words, below, make):
    """No space is wanted then, and the link leads to nothing that could be made in silence."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    place = tmp_path / kind
    with pytest.raises(UserError) as caught:
        check_writable(place / below, make=make)
    assert str(caught.value) == f"Cannot write to {place / below} ({place} {words}, not a directory); {ELSEWHERE}."
    with pytest.raises(UserError) as caught:
        atomic_write_text(place / below / "y.txt", "text")
    assert f"y.txt ({place} {words}, not a directory); {ELSEWHERE}." in str(caught.value)
    assert not (tmp_path / "nowhere").exists()


def test_space_is_asked_for_where_it_is_missing_alone(tmp_path):
    for number, freed in ((errno.ENOSPC, True), (errno.EACCES, False)):
        with pytest.raises(UserError) as caught, writing(tmp_path / "x"):
            raise OSError(number, os.strerror(number))
        assert ("free space there or " in str(caught.value)) is freed
