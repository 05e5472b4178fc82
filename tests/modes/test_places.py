"""Results go neither where training removes them nor among the results of another run."""

import json
from pathlib import Path

import pytest

from score_sde.cli import main
from score_sde.config import default_config
from score_sde.modes.record import OWN, check_places

TOY = Path(__file__).parents[2] / "configs" / "vp" / "toy_mlp.py"


@pytest.fixture
def runs(tmp_path):
    """Two directories of runs: one that has begun, one that has lost its record but not its checkpoint."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text(json.dumps(default_config().to_dict()))
    (tmp_path / "b" / "checkpoints" / "20").mkdir(parents=True)
    return tmp_path


def _said(capsys, *flags, mode="sample"):
    assert main([f"--config={TOY}", f"--mode={mode}", *flags]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("folder", OWN)
@pytest.mark.parametrize(("home", "below"), [("a", ""), ("a", "999"), ("b", "20/deep")])
def test_folders_that_a_run_keeps_to_itself_take_no_results(runs, capsys, folder, home, below):
    place = runs / home / folder / below
    there = sorted(runs.rglob("*"))
    message = _said(capsys, f"--workdir={runs / 'a'}", f"--out={place}")
    assert f"--out is {place}, which is in {folder}/ of the run in {runs / home}" in message
    assert sorted(runs.rglob("*")) == there


def test_a_run_is_not_trained_in_the_checkpoints_of_another_either(runs, capsys):
    message = _said(capsys, f"--workdir={runs / 'b' / 'checkpoints' / '30'}", mode="train")
    assert f"which is in checkpoints/ of the run in {runs / 'b'}" in message
    assert not (runs / "b" / "checkpoints" / "30").exists()


def test_links_lead_to_such_folders_too(runs, capsys):
    (runs / "disk").mkdir()
    (runs / "a" / "checkpoints").symlink_to(runs / "disk")
    (runs / "elsewhere").symlink_to(runs / "a")
    for place in (runs / "disk" / "1", runs / "elsewhere" / "checkpoints" / "1", runs / "a" / "checkpoints" / "1"):
        message = _said(capsys, f"--workdir={runs / 'a'}", f"--out={place}")
        assert f"which is in checkpoints/ of the run in {runs / 'a'}" in message


@pytest.mark.parametrize(("home", "other"), ["ab", "ba"])
def test_the_directory_of_another_run_takes_no_results(runs, capsys, home, other):
    message = _said(capsys, f"--workdir={runs / home}", f"--out={runs / other}")
    assert f"--out is {runs / other}, the directory of another run" in message
    assert str(runs / home) in message


def test_results_may_go_anywhere_else(runs):
    for place in (None, runs, runs / "a", runs / "a" / "results", runs / "c" / "checkpoints", runs / "checkpoints"):
        check_places(runs / "a", place)
    check_places(runs / "new", None)
