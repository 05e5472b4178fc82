"""A kill in the middle of a mode, and a full disk: one sentence, nothing half written, and the same bits afterwards."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from score_sde.cli import main
from tests.modes.test_classes import run

ROOT = Path(__file__).parents[2]
#: The file that a mode writes its results to, and the smallest disk that holds it not.
FILES = {"export": "model.safetensors", "classify": "classification.npz"}
SMALL = 256  # bytes
KILLED = """
import os, signal, sys

real = os.replace


def replace(source, target):
    if os.path.basename(target) == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)


os.replace = replace
from score_sde.cli import main

sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a run."""
    place = tmp_path_factory.mktemp("faults")
    assert run("train", place / "run") == 0
    return place


@pytest.fixture
def whole(place, mode):
    """The directory, with the results of a mode that nothing has stopped."""
    if not (place / mode).exists():
        assert main(_flags(mode, place, place / mode)) == 0
    return place


def _flags(mode, place, out):
    return [f"--workdir={place / 'run'}", f"--mode={mode}", f"--out={out}"]


def _assert_complete(mode, whole, out):
    assert (out / FILES[mode]).read_bytes() == (whole / mode / FILES[mode]).read_bytes()
    assert sorted(file.name for file in out.iterdir()) == sorted(file.name for file in (whole / mode).iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("mode", FILES)
def test_a_mode_that_is_killed_while_it_writes_ends_in_the_same_bits(mode, whole, tmp_path):
    command = [sys.executable, "-c", KILLED, FILES[mode], *_flags(mode, whole, tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, cwd=ROOT, env=environment, capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / FILES[mode]).exists() and list(tmp_path.glob(".*.tmp"))
    assert main(_flags(mode, whole, tmp_path)) == 0
    _assert_complete(mode, whole, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="no limit on files")
@pytest.mark.parametrize("mode", FILES)
def test_a_disk_that_is_full_is_one_sentence_and_the_same_command_goes_on(mode, whole, tmp_path, capsys):
    limits, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, limits[1]))
        code = main(_flags(mode, whole, tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and said.startswith("score_sde: Cannot ") and str(tmp_path) in said, said
    assert not (tmp_path / FILES[mode]).exists()
    assert main(_flags(mode, whole, tmp_path)) == 0
    _assert_complete(mode, whole, tmp_path)
