"""A run whose records are lost or edited: nothing that was trained is lost, and the way out is named."""

import json
import shutil

import pytest

from score_sde.checkpointing import Checkpoints, newest_config
from score_sde.cli import main
from score_sde.config import leaves
from score_sde.errors import UserError
from score_sde.fields import DEFAULTS
from score_sde.modes import training
from score_sde.modes.dequantizer import _check_same
from tests.modes.test_record import TINY

NO_DATA = ("--config.data.name=toy:moons", "--config.training.sample_every=10")


def _run(mode, workdir, *extra, config=None):
    given = [] if config is None else [f"--config={config}", *TINY, *NO_DATA]
    return main([f"--workdir={workdir}", f"--mode={mode}", *given, *extra])


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """Where a run was when it ended, whose directory was moved after half of its steps, and what it said."""
    place, said = tmp_path_factory.mktemp("moved"), []
    patch = pytest.MonkeyPatch()

    def pictures(*_):
        return lambda step, params: shutil.move(place / "run", place / "away") if step == 10 else None

    patch.setattr(training, "_pictures", pictures)
    patch.setattr("score_sde.training.loop.log.warning", lambda text, *values: said.append(text % values))
    assert _run("train", place / "run", config="vp/toy_mlp") == 0
    patch.undo()
    return place, said


@pytest.mark.slow
def test_a_directory_that_is_moved_while_it_is_trained_leaves_a_run_in_its_place(moved):
    place, said = moved
    (told,) = (sentence for sentence in said if "gone from" in sentence)
    assert told.startswith(f"data.json and config.json are gone from {place / 'run'}, as if")
    for name in ("config.json", "data.json"):
        assert (place / "run" / name).read_bytes() == (place / "away" / name).read_bytes()
    assert Checkpoints(place / "run").steps == [10, 20]
    assert [json.loads(line)["step"] for line in (place / "away" / "metrics.jsonl").read_text().splitlines()] == [10]
    assert _run("sample", place / "run") == 0


@pytest.fixture
def edited(moved, tmp_path):
    """A run with another width in its ``config.json`` than it was trained with."""
    run = shutil.copytree(moved[0] / "run", tmp_path / "run")
    record = json.loads((run / "config.json").read_text())
    record["model"]["features"] *= 4
    (run / "config.json").write_text(json.dumps(record))
    return run


@pytest.mark.sweep
@pytest.mark.parametrize("config", [None, "vp/toy_mlp"])
@pytest.mark.parametrize("mode", ["sample", "train"])
def test_the_way_out_of_an_edited_record_is_named_and_leads_out(edited, capsys, config, mode):
    assert _run(mode, edited, config=config) == 2
    said = capsys.readouterr().err
    assert "model.features: " in said
    assert f"{edited / 'config.json'} says otherwise than the checkpoints there" in said
    assert "remove it, and the configuration is taken from the checkpoints" in said
    assert "Remove it if" not in said and "Set these fields back" not in said
    (edited / "config.json").unlink()
    assert _run(mode, edited, config=config) == 0


def test_a_checkpoint_of_another_run_is_still_told_as_such(edited, moved, capsys):
    shutil.copy(moved[0] / "run" / "config.json", edited / "config.json")
    assert _run("sample", edited, "--config.model.features=3") == 2
    assert "Set these fields back" in capsys.readouterr().err


def test_a_dequantizer_with_an_edited_record_is_not_to_be_removed(edited):
    """Its record and its checkpoints are those of any run."""
    config = newest_config(edited)
    record = dict(config, seed=config["seed"] + 1)
    (edited / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="remove it, and the configuration is taken from the checkpoints"):
        _check_same(record, DEFAULTS.with_fields(leaves(config)), edited)
