"""The mode reproduce: what is missing is named, what is measured is judged, and the exit code says which."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest

from score_sde.cli import main
from score_sde.config import from_file
from score_sde.experiment import Experiment
from score_sde.interop.checkpoints import export_checkpoint
from score_sde.modes import reproducing
from score_sde.report.rendering import render
from score_sde.reproduction import rows
from score_sde.reproduction.checks import INCEPTION, Result, find_checkpoint, merged, table
from score_sde.reproduction.rows import ROWS, Checkpoint

NLL, FID = ROWS["score_sde/cifar10_ddpmpp_continuous_vp/nll"], ROWS["score_sde/cifar10_ddpmpp_continuous_vp/fid_pc"]


def _reproduce(workdir, row, *extra):
    return main([f"--workdir={workdir}", "--mode=reproduce", f"--row={row}", *extra])


def test_everything_that_is_missing_is_named_with_its_file_and_place(tmp_path, capsys):
    where = tmp_path / "run"
    data = f"--config.data.data_dir={tmp_path / 'data'}"
    assert _reproduce(where, "score_sde/cifar10_ddpmpp_continuous_vp/*", data) == 2
    said = capsys.readouterr().err
    assert not where.exists()
    lines = [line.strip() for line in said.splitlines()[1:] if line.startswith("  score_sde/")]
    of_nll = [line for line in lines if line.startswith(f"{NLL.name} lacks ")]
    of_fid = [line for line in lines if line.startswith(f"{FID.name} lacks ")]
    folder = where / "checkpoints" / "vp/cifar10_ddpmpp_continuous"
    assert "checkpoint_26.pth (PyTorch) or checkpoint_26 (Flax)" in of_nll[0]
    assert f"into {folder}" in of_nll[0]
    assert "the test split of cifar10" in of_nll[1]
    assert str(tmp_path / "data") in said
    assert "smallest N" in of_fid[0]
    weights = next(line for line in of_fid if "Inception" in line)
    assert INCEPTION in weights
    assert f"put it at {where / INCEPTION}" in weights
    reference = tmp_path / "cifar10_stats.npz"
    assert _reproduce(where, FID.name, data, f"--config.evaluation.reference={reference}") == 2
    assert f"the reference statistics {reference}" in capsys.readouterr().err


def test_a_file_that_is_no_checkpoint_is_refused_before_anything_is_run(tmp_path, capsys):
    place = tmp_path / "checkpoint_26.pth"
    place.write_text("<html>quota exceeded</html>")
    assert _reproduce(tmp_path / "run", NLL.name, f"--checkpoint={place}") == 2
    assert f"{place} is in none of the known checkpoint formats" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--row=digits/vpp"], "Did you mean 'digits/vp"),
        ([], "--row=NAME"),
        (["--row=digits/vp", "--config=configs/vp/digits_ddpmpp.py"], "which take none"),
        (["--row=digits/vp", "--config.optim.lrr=1"], "Did you mean 'optim.lr'"),
    ],
)
def test_wrong_flags_are_answered(tmp_path, capsys, arguments, message):
    assert main([f"--workdir={tmp_path}", "--mode=reproduce", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("number", [26, 8])
def test_the_checkpoint_of_a_number_or_the_smallest_is_found_in_either_framework(tmp_path, number):
    folder = tmp_path / "vp" / "model"
    folder.mkdir(parents=True)
    for name in ("checkpoint_26.pth", "checkpoint_8", "checkpoint_100.tmp", "meta"):
        (folder / name).touch()
    wanted = Checkpoint(folders=("elsewhere", "vp/model"), number=26 if number == 26 else None)
    assert find_checkpoint(wanted, tmp_path) == folder / ("checkpoint_26.pth" if number == 26 else "checkpoint_8")
    assert find_checkpoint(dataclasses.replace(wanted, number=9), tmp_path) is None


def _result(measured, **changes):
    row = dataclasses.replace(NLL, expected=2.0, tolerance=0.1000001)
    fields = {"row": row, "protocol": "as published", "overridden": [], "std_error": 0.01, "details": {}} | changes
    return Result(measured=measured, **fields)


def _page(result):
    rows = merged({}, [result.record()])
    return render("reproduction.md", rows=rows, table=table(rows))


@pytest.mark.parametrize("measured", [1.9, 2.1, 2.11, math.nan])
def test_a_result_passes_within_its_tolerance_and_no_number_never_does(measured):
    result = _result(measured)
    assert result.passed == (measured in (1.9, 2.1))
    json.dumps(result.record(), allow_nan=False)
    if math.isfinite(measured):
        page = _page(result)
        assert ("| pass |" in page) == result.passed
        assert all(part in page for part in (NLL.name, NLL.source, NLL.reason, "| 2.00 |", "as published"))


def test_a_result_of_another_protocol_is_not_judged():
    result = _result(2.0, overridden=["likelihood.num_examples: 0 -> 10"])
    page = _page(result)
    assert result.passed is None
    assert "| not comparable |" in page
    assert "0 of 1 rows pass; 1 cannot be compared" in page
    assert "Overridden: likelihood.num_examples: 0 -> 10" in page


def test_rows_that_were_measured_before_stay_beside_new_ones(caplog):
    """A row is replaced by the same row of the same protocol alone, and what is no row is left out aloud."""
    old, other = _result(1.0).record(), _result(3.0, overridden=["x: 1 -> 2"]).record()
    found = {"rows": [old, other, {"name": NLL.name}, 7], "command": "early", "date": "2020-01-01"}
    rows = merged(found, [_result(2.0).record() | {"command": "late"}])
    assert [(row["measured"], row["command"]) for row in rows] == [(2.0, "late"), (3.0, "early")]
    assert "2 rows of reproduction.json are damaged" in caplog.text
    assert merged({}, []) == merged({"rows": None}, []) == []


SMALL = (
    *("model.features=8", "model.num_blocks=1", "model.channel_multipliers=(1,)", "training.sample_every=0"),
    *("training.num_steps=20", "training.log_every=10", "training.eval_every=20", "training.checkpoint_every=20"),
    *("sampling.predictor=dpm_solver_2m", "sampling.num_steps=4", "sampling.grid=log_snr", "sampling.batch_size=50"),
    *("evaluation.num_samples=50", "evaluation.metrics=('frechet',)", "evaluation.keep_features=0"),
    *("likelihood.tolerance=0.1", "likelihood.num_examples=30", "likelihood.batch_size=30", "likelihood.bound_times=0"),
    *("likelihood.budget_examples=0", "likelihood.noise_levels=0"),
)


@pytest.fixture
def small(monkeypatch):
    """Two rows of one tiny model: one that any likelihood meets, one that no distance does."""
    common = {"settings": SMALL, "run": "small", "reason": "a test"}
    found = {
        "small/nll": dataclasses.replace(ROWS["digits/vp/nll"], expected=4.0, tolerance=100.0, **common),
        "small/fid": dataclasses.replace(ROWS["digits/vp/fid"], expected=0.5, tolerance=1e-6, **common),
    }
    named = {name: dataclasses.replace(row, name=name) for name, row in found.items()}
    monkeypatch.setattr(rows, "ROWS", named)
    return named


@pytest.mark.slow
def test_rows_that_train_are_measured_and_judged_and_not_trained_again(tmp_path, small, monkeypatch, capsys):
    assert _reproduce(tmp_path, "small/nll") == 0
    monkeypatch.setattr(reproducing, "run_train", None)
    faster, fewer = "--config.likelihood.batch_size=10", "--config.likelihood.num_examples=10"
    assert _reproduce(tmp_path, "small/nll", fewer, faster) == 1  # no verdict
    assert _reproduce(tmp_path, "small/*") == 1
    record = json.loads((tmp_path / "reproduction.json").read_text())
    (other,) = (row for row in record["rows"] if row["overridden"])
    by_name = {row["name"]: row for row in record["rows"] if not row["overridden"]}
    assert {name: row["passed"] for name, row in by_name.items()} == {"small/nll": True, "small/fid": False}
    likelihood = json.loads((tmp_path / "small" / "likelihood.json").read_text())
    assert by_name["small/nll"]["measured"] == likelihood["bits_per_dim"]
    metrics = json.loads((tmp_path / "small" / "metrics.json").read_text())
    assert by_name["small/fid"]["measured"] == metrics["metrics"]["frechet"]["value"]
    assert (other["name"], other["passed"]) == ("small/nll", None)
    assert other["overridden"] == ["likelihood.num_examples: 30 -> 10"]
    assert "likelihood.num_examples=10," in other["protocol"]
    assert "likelihood.num_examples=30," in by_name["small/nll"]["protocol"]
    page = (tmp_path / "reproduction.md").read_text()
    assert "1 of 3 rows pass; 1 cannot be compared" in page
    assert re.search(r"\| small/fid \|.*\| FAIL \|", page)
    capsys.readouterr()
    assert _reproduce(tmp_path, "small/nll", "--config.optim.lr=0.01") == 2  # the run is of another rate
    assert "optim.lr: 0.003 -> 0.01" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_that_is_trained_further_is_measured_anew(tmp_path, small, capsys):
    seen = []
    for steps in (20, 40):
        _reproduce(tmp_path, "small/*", "--config.optim.schedule=constant", f"--config.training.num_steps={steps}")
        rows = json.loads((tmp_path / "reproduction.json").read_text())["rows"]
        measured = {row["name"]: row["measured"] for row in rows}
        found = [json.loads((tmp_path / "small" / f"{name}.json").read_text()) for name in ("likelihood", "evaluation")]
        assert measured["small/nll"] == found[0]["bits_per_dim"]
        assert measured["small/fid"] == found[1]["checkpoints"][-1]["metrics"]["frechet"]["value"]
        assert found[0]["step"] == found[1]["checkpoints"][-1]["step"] == steps
        seen.append(measured)
    assert all(seen[0][name] != seen[1][name] for name in small)
    capsys.readouterr()
    assert _reproduce(tmp_path, "small/nll", "--config.optim.schedule=constant") == 2
    assert "has been trained to step 40, and small/nll is of step 20" in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkpoint_is_imported_and_measured(tmp_path, small, monkeypatch):
    """From a file in its folder to a verdict; another seed gives another model, so the weights are the file's."""
    row = small["small/nll"]
    config = from_file(Path("configs/vp/digits_ddpmpp.py"))
    config.model.features, config.model.num_blocks, config.model.channel_multipliers = 8, 1, (1,)
    state = Experiment.from_config(config, (8, 8, 1), 17).init_state()
    folder = tmp_path / "checkpoints" / "vp" / "small"
    folder.mkdir(parents=True)
    export_checkpoint(folder / "checkpoint_3", state.params, state.ema_params, 150_000)
    published = dataclasses.replace(row, checkpoint=Checkpoint(folders=("vp/small",), number=None))
    monkeypatch.setattr(rows, "ROWS", {row.name: published})
    monkeypatch.setattr(reproducing, "run_train", None)
    assert _reproduce(tmp_path, row.name) == 0
    found = json.loads((tmp_path / "reproduction.json").read_text())["rows"][0]
    assert found["checkpoint"] == str(folder / "checkpoint_3")
    assert json.loads((tmp_path / "small" / "likelihood.json").read_text())["step"] == 150_000
