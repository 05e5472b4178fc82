"""A run is known by what it holds: its data may move, and nothing else about it may change unseen."""

import json
import shutil

import numpy as np
import pytest

from score_sde.cli import main
from score_sde.metrics import read_statistics
from score_sde.modes import statistics

TINY = (
    *("--config.model.features=8", "--config.model.num_blocks=1", "--config.training.num_steps=20"),
    *("--config.training.batch_size=8", "--config.training.log_every=10", "--config.training.eval_every=20"),
    *("--config.training.checkpoint_every=10", "--config.training.sample_every=0", "--config.optim.warmup=5"),
    *("--config.sampling.num_steps=4", "--config.sampling.num_samples=8", "--config.likelihood.batch_size=40"),
)


def _run(mode, workdir, *extra, config="configs/vp/toy_mlp.py"):
    return main([f"--config={config}", f"--workdir={workdir}", f"--mode={mode}", *TINY, *extra])


def _points(seed=0, n=200):
    return np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)


def _data(path):
    return f"--config.data.name=npz:{path}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on the user's own points, which lie in another directory."""
    place = tmp_path_factory.mktemp("points")
    np.savez(place / "points.npz", x=_points())
    assert _run("train", place / "run", _data(place / "points.npz")) == 0
    return place


@pytest.fixture
def place(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "place")
    record = copy / "run" / "config.json"
    record.write_text(record.read_text().replace(str(trained), str(copy)))
    return copy


@pytest.mark.slow
def test_data_that_have_moved_are_the_same_data(place, monkeypatch):
    (place / "elsewhere").mkdir()
    (place / "points.npz").rename(place / "elsewhere" / "x.npz")
    monkeypatch.chdir(place / "elsewhere")
    config = shutil.copy(f"{place}/run/config.json", place / "config.json")
    assert _run("train", place / "run", _data("x.npz"), "--config.training.num_steps=30", config=config) == 0
    assert json.loads((place / "run" / "config.json").read_text())["data"]["name"] == "npz:x.npz"
    steps = [json.loads(line)["step"] for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [10, 20, 30]


@pytest.mark.parametrize(
    ("points", "lines"),
    [
        (_points(1), ["contents of the train split: fingerprint", "contents of the test split: fingerprint"]),
        (_points(n=210), ["examples of the train split: 180 -> 189", "examples of the test split: 20 -> 21"]),
        (_points()[:, :2], ["shape: (3,) -> (2,)"]),
    ],
    ids=["contents", "number", "shape"],
)
def test_other_data_in_the_same_place_are_refused_for_training(place, points, lines, capsys):
    np.savez(place / "points.npz", x=points)
    before = {path: path.read_bytes() for path in (place / "run").glob("*.json*")}
    assert _run("train", place / "run", _data(place / "points.npz"), "--config.training.num_steps=30") == 2
    said = capsys.readouterr().err
    assert "The data differ from the data of the run" in said
    assert all(line in said for line in lines)
    assert {path: path.read_bytes() for path in (place / "run").glob("*.json*")} == before


def test_a_run_without_a_record_of_its_data_is_given_one(place):
    record = json.loads((place / "run" / "data.json").read_text())
    (place / "run" / "data.json").unlink()
    assert _run("train", place / "run", _data(place / "points.npz"), "--config.training.num_steps=30") == 0
    assert json.loads((place / "run" / "data.json").read_text())["splits"] == record["splits"]


def test_a_run_without_a_record_of_its_data_does_not_take_data_of_another_kind(place, capsys):
    (place / "run" / "data.json").unlink()
    assert _run("train", place / "run", "--config.data.name=toy:moons") == 2
    assert "-> toy:moons" in capsys.readouterr().err


@pytest.mark.sweep(4)
@pytest.mark.parametrize(
    ("field", "value"),
    [("optim.lr", "fast"), ("training", 3), ("training.num_steps", [1]), ("optim.ema_widths", 0.05), ("data", "x")],
)
@pytest.mark.parametrize("mode", ["train", "sample", "eval"])
def test_a_record_that_holds_nonsense_ends_in_a_sentence(place, capsys, field, value, mode):
    config, record = shutil.copy(place / "run" / "config.json", place / "mine.json"), place / "run" / "config.json"
    found = json.loads(record.read_text())
    group, _, name = field.partition(".")
    (found[group] if name else found)[name or group] = value
    record.write_text(json.dumps(found))
    (place / "run" / "data.json").unlink()
    assert main([f"--config={config}", f"--workdir={place / 'run'}", f"--mode={mode}"]) in (0, 2)
    said = capsys.readouterr().err
    assert "Traceback" not in said and "fault" not in said


@pytest.mark.parametrize("content", ['{"name": ', '{"name": "x"}', '{"name": "x", "shape": 3, "splits": []}'])
def test_a_damaged_record_of_the_data_is_named(place, capsys, content):
    (place / "run" / "data.json").write_text(content)
    assert _run("train", place / "run", _data(place / "points.npz")) == 2
    assert f"{place / 'run' / 'data.json'} cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("steps", [10, 20])
def test_no_more_steps_than_there_are_change_nothing_and_say_so(place, caplog, steps):
    caplog.set_level("INFO")
    changes = [f"--config.training.{change}" for change in (f"num_steps={steps}", "eval_every=100")]
    assert _run("train", place / "run", _data(place / "points.npz"), *changes) == 0
    said = f"It is at step 20 already and config.training.num_steps is {steps}: nothing is left to train."
    assert said in caplog.text
    assert "Trained to step" not in caplog.text
    assert "and the run has" not in caplog.text  # which is a caution, and nothing is ahead
    assert json.loads((place / "run" / "config.json").read_text())["training"]["num_steps"] == 20


def test_without_a_configuration_a_mode_takes_the_record_of_the_run(place, caplog):
    caplog.set_level("INFO")
    run = f"--workdir={place / 'run'}"
    assert main([run, "--mode=train", "--config.training.num_steps=30", "--config.training.eval_every=100"]) == 0
    assert "config.training has eval_every=100, and the run has 30 steps" in caplog.text
    assert "Trained to step 30" in caplog.text
    for mode in ("sample", "export", "eval", "stats"):
        assert main([run, f"--mode={mode}"]) == 0
    found = json.loads((place / "run" / "sampling.json").read_text())
    assert (found["step"], found["num_samples"], found["num_steps"]) == (30, 8, 4)
    assert main([run, "--mode=sample", "--config.sampling.num_samples=5"]) == 0
    assert json.loads((place / "run" / "sampling.json").read_text())["num_samples"] == 5


def test_sampling_and_export_need_no_data_and_measuring_does(place, caplog, capsys):
    caplog.set_level("INFO")
    (place / "points.npz").unlink()
    run = f"--workdir={place / 'run'}"
    assert main([run, "--mode=sample"]) == 0
    assert "samples.png shows the samples alone" in caplog.text
    assert np.load(place / "run" / "samples.npz")["samples"].shape == (8, 3)
    assert main([run, "--mode=export"]) == 0
    capsys.readouterr()
    assert main([run, "--mode=eval"]) == 2
    said = capsys.readouterr().err
    assert "there is no such file" in said
    assert "have moved, say where they are: --config.data.name=npz:PLACE" in said


def test_fields_that_a_mode_does_not_read_are_those_of_the_run(place):
    """Even those that decide how a checkpoint is laid out, such as averages that the optimizer keeps."""
    changed = ("--config.optim.ema_widths=(0.05,)", "--config.optim.lr=7.0", "--config.training.batch_size=2")
    assert _run("export", place / "run", *changed) == 0
    assert _run("train", place / "run", _data(place / "points.npz"), *changed) == 2


def test_what_is_measured_of_other_data_is_said(place, caplog):
    np.savez(place / "points.npz", x=_points(1))
    assert main([f"--workdir={place / 'run'}", "--mode=eval"]) == 0
    assert "not that of the data that the run was trained on" in caplog.text
    np.savez(place / "points.npz", x=_points(1)[:, :2])
    assert main([f"--workdir={place / 'run'}", "--mode=eval"]) == 2


def test_data_changed_in_place_are_measured_anew(place, caplog):
    """The statistics that samples are compared with too."""
    caplog.set_level("INFO")
    settings = ("--config.evaluation.num_samples=40", "--config.evaluation.keep_features=100")
    evaluate = [f"--workdir={place / 'run'}", "--mode=eval", *settings]

    def energy():
        assert main(evaluate) == 0
        found = json.loads((place / "run" / "evaluation.json").read_text())["checkpoints"]
        return found[0]["metrics"]["energy"]["value"], found[0]["loss"]

    first = energy()
    assert energy() == first
    assert caplog.text.count("was measured before") == 1
    np.savez(place / "points.npz", x=_points() + 100.0)
    second = energy()
    assert second[0] > 3 * first[0]
    assert second[1] != first[1]
    assert caplog.text.count("was measured before") == 1
    assert "statistics.npz is of another data set" in caplog.text
    shutil.move(place / "points.npz", place / "moved.npz")
    evaluate.append(_data(place / "moved.npz"))
    assert energy() == second
    assert caplog.text.count("was measured before") == 2


def test_statistics_without_their_record_are_computed_again(place, monkeypatch):
    """Of the two files the arrays come last, so that a kill between them leaves nothing that is taken for whole."""
    run = [f"--workdir={place / 'run'}", "--mode=stats"]

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(statistics, "write_statistics", killed)
    assert main(run) == 130
    assert not (place / "run" / "statistics.npz").exists()
    monkeypatch.undo()
    assert main(run) == 0
    about = json.loads((place / "run" / "statistics.json").read_text())
    assert about["statistics_sha256"] == read_statistics(place / "run" / "statistics.npz").sha256


def _state_of(directory):
    """Every file and directory with its contents and when they changed."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in (directory, *directory.rglob("*"))
    }


@pytest.mark.slow
def test_results_go_elsewhere_and_the_run_is_only_read(place, tmp_path):
    run, out = place / "run", tmp_path / "some" / "results"
    before = _state_of(place)
    settings = ("--config.evaluation.num_samples=40", "--config.evaluation.keep_features=100")
    latents = ("--config.likelihood.tolerance=0.1", "--config.sampling.num_samples=4")
    for mode, *options in (["sample"], ["export"], ["eval", *settings], ["latents", *latents], ["report"]):
        assert main([f"--workdir={run}", f"--mode={mode}", f"--out={out}", *options]) == 0, mode
    assert _state_of(place) == before
    written = {"samples.npz", "sampling.json", "model.safetensors", "evaluation.json", "statistics.npz", "latents.npz"}
    assert {*written, "report.html", "summary.md"} <= {path.name for path in out.iterdir()}
    page = (out / "report.html").read_text()
    loss = json.loads((out / "evaluation.json").read_text())["checkpoints"][0]["loss"]
    assert f"{loss:.3g}"[:4] in page and "samples.npz" in page


def test_statistics_of_a_run_are_read_there(place, tmp_path):
    settings = ("--config.evaluation.num_samples=40", "--config.evaluation.keep_features=100")
    assert main([f"--workdir={place / 'run'}", "--mode=stats", *settings]) == 0
    assert main([f"--workdir={place / 'run'}", "--mode=eval", f"--out={tmp_path / 'out'}", *settings]) == 0
    assert not (tmp_path / "out" / "statistics.npz").exists()


MEASURING = ("sample", "likelihood", "eval", "latents", "pareto", "restore", "classify", "stats", "export", "plan")


@pytest.mark.parametrize("mode", MEASURING)
def test_a_place_that_takes_nothing_is_found_before_anything_is_computed(trained, tmp_path, capsys, mode, monkeypatch):
    (tmp_path / "file").write_text("")
    for module, name in (("statistics", "data_statistics"), ("reporting", "make_plan")):
        monkeypatch.setattr(f"score_sde.modes.{module}.{name}", None)
    for module in ("sampling", "likelihood", "evaluating", "restoring", "classifying", "comparing", "exchanging"):
        monkeypatch.setattr(f"score_sde.modes.{module}.experiment_of", None)
    assert main([f"--workdir={trained / 'run'}", f"--mode={mode}", f"--out={tmp_path / 'file' / 'x'}"]) == 2
    said = capsys.readouterr().err
    assert f"Cannot write to {tmp_path / 'file' / 'x'} (" in said and "a directory)" in said
    assert "--out=DIR" in said


@pytest.mark.parametrize("mode", ["train", "demo", "train_dequantizer", "train_classifier", "conformance"])
def test_a_mode_that_writes_a_run_has_no_other_place(trained, tmp_path, capsys, mode):
    assert main([f"--workdir={trained / 'run'}", f"--mode={mode}", f"--out={tmp_path}"]) == 2
    assert f"not for {mode}; leave it out" in capsys.readouterr().err


@pytest.mark.slow
def test_results_of_an_earlier_step_are_said_to_be(place):
    run = f"--workdir={place / 'run'}"
    assert main([run, "--mode=eval"]) == 0
    assert main([run, "--mode=train", "--config.training.num_steps=30"]) == 0
    note = "eval.json is of step 20, and the run is at step 30; --mode=eval measures that."
    assert main([run, "--mode=report"]) == 0
    assert note in (place / "run" / "summary.md").read_text()
    assert note in (place / "run" / "report.html").read_text()
    assert main([run, "--mode=eval"]) == 0
    assert main([run, "--mode=report"]) == 0
    assert note not in (place / "run" / "summary.md").read_text()
    assert note not in (place / "run" / "report.html").read_text()


def test_statistics_of_other_data_than_those_of_the_run_say_so(place, caplog):
    said = "is not that of the data that the run was trained on"
    assert _run("stats", place / "run", _data(place / "points.npz")) == 0
    assert said not in caplog.text
    np.savez(place / "points.npz", x=_points(1))
    assert _run("stats", place / "run", _data(place / "points.npz")) == 0
    assert caplog.text.count(said) == 1


@pytest.mark.parametrize("mode", ["eval", "stats", "likelihood"])
def test_data_that_are_missed_are_named_by_their_whole_path_and_their_field(place, capsys, monkeypatch, mode):
    monkeypatch.chdir(place)
    assert main([f"--workdir={place / 'run'}", f"--mode={mode}", "--config.data.name=npz:gone/x.npz"]) == 2
    said = capsys.readouterr().err
    assert f"npz:gone/x.npz: there is no such file, {place / 'gone' / 'x.npz'}." in said
    assert said.count("--config.data.name=npz:PLACE") == 1
