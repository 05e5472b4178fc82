"""The modes stats and eval: which checkpoints, which is the best, and the same numbers whatever interrupts them."""

import json
import shutil

import numpy as np
import pytest

import score_sde.evaluation.metrics as metrics_module
import score_sde.evaluation.samples as samples_module
from score_sde.cli import main
from score_sde.errors import UserError
from score_sde.evaluation.loss import LossEvaluator
from score_sde.evaluation.record import best_of, parse_steps
from score_sde.metrics import Moments, ReferenceStatistics, read_statistics, write_statistics

TINY = {
    **{"model.features": 8, "model.num_blocks": 1, "training.num_steps": 60, "training.batch_size": 64},
    **{"training.log_every": 10, "training.eval_every": 20, "training.checkpoint_every": 20, "optim.warmup": 10},
    **{"training.sample_every": 0, "sampling.num_steps": 8, "sampling.batch_size": 50, "sampling.grid": "log_snr"},
    **{"sampling.predictor": "dpm_solver_2m", "likelihood.batch_size": 500, "evaluation.keep_features": 400},
    "evaluation.reference_examples": 1000,
}


def _run(mode, workdir, **changes):
    fields = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return main(["--config=configs/vp/toy_mlp.py", f"--workdir={workdir}", f"--mode={mode}", *overrides])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    assert _run("train", workdir) == 0
    return workdir


@pytest.fixture
def workdir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def _evaluation(workdir):
    return json.loads((workdir / "evaluation.json").read_text())


def _numbers(entries):
    """The entries without what took how long."""
    return [{name: value for name, value in entry.items() if "seconds" not in name} for entry in entries]


def test_by_default_the_loss_of_the_newest_is_measured_and_nothing_is_drawn(workdir, monkeypatch):
    monkeypatch.setattr(metrics_module.SampleEvaluator, "__call__", None)
    assert _run("eval", workdir) == 0
    found, newest = _evaluation(workdir), json.loads((workdir / "eval.json").read_text())
    assert [entry["step"] for entry in found["checkpoints"]] == [60]
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert found["checkpoints"][0]["loss"] == pytest.approx(logged[-1]["eval_loss"], rel=1e-6)
    assert (newest["loss"], newest["step"]) == (found["checkpoints"][0]["loss"], 60)
    assert not (workdir / "metrics.json").exists()


@pytest.mark.slow
def test_all_checkpoints_are_measured_once_and_the_best_is_the_least(workdir, monkeypatch):
    samples = {"evaluation__checkpoints": "all", "evaluation__num_samples": 200}
    assert _run("eval", workdir, **samples) == 0
    found = _evaluation(workdir)
    values = {entry["step"]: entry["metrics"]["sliced_wasserstein"]["value"] for entry in found["checkpoints"]}
    assert list(values) == [20, 40, 60]
    assert (found["best"], found["best_by"]) == (min(values, key=values.get), "sliced_wasserstein")
    best = json.loads((workdir / "metrics.json").read_text())
    assert best["step"] == found["best"]
    assert set(best["metrics"]) == {"sliced_wasserstein", "energy"}
    reference = read_statistics(workdir / "statistics.npz")
    assert (reference.count, reference.split, len(reference.features_subset)) == (1000, "train", 400)
    assert best["metrics"]["energy"]["protocol"]["reference_sha256"] == reference.sha256
    assert main([f"--workdir={workdir}", "--mode=report"]) == 0
    page = (workdir / "report.html").read_text()
    assert "No checkpoints have been compared yet" not in page and reference.sha256[:8] in page

    def measured_again(*arguments):
        raise AssertionError

    monkeypatch.setattr(LossEvaluator, "__call__", measured_again)
    unasked = {"likelihood__tolerance": 1e-3}  # no likelihood is measured
    assert _run("eval", workdir, **samples, **unasked, evaluation__best_by="loss") == 0
    again = _evaluation(workdir)
    assert again["checkpoints"] == found["checkpoints"]
    losses = {entry["step"]: entry["loss"] for entry in found["checkpoints"]}
    assert again["best"] == min(losses, key=losses.get)
    with pytest.raises(AssertionError):  # other samples are another measurement
        _run("eval", workdir, **samples | {"evaluation__num_samples": 100})


@pytest.mark.slow
def test_another_model_of_the_same_steps_is_measured_anew(workdir, tmp_path):
    assert _run("eval", workdir, evaluation__checkpoints="20,60") == 0
    first = _evaluation(workdir)["checkpoints"]
    assert _run("train", tmp_path / "other", training__batch_size=32) == 0
    shutil.rmtree(workdir / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", workdir / "checkpoints")
    shutil.copy(tmp_path / "other" / "config.json", workdir / "config.json")
    assert _run("eval", workdir, evaluation__checkpoints="40,60") == 0
    second = _evaluation(workdir)["checkpoints"]
    assert [entry["step"] for entry in first] == [20, 60]
    assert [entry["step"] for entry in second] == [40, 60]  # that of 20 was the other model's
    assert first[1]["loss"] != second[1]["loss"]


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_bit_for_bit(workdir, tmp_path, monkeypatch):
    other = shutil.copytree(workdir, tmp_path / "other")
    samples = {"evaluation__checkpoints": "40,60", "evaluation__num_samples": 200}
    assert _run("eval", workdir, **samples) == 0
    check, batches = samples_module.check_samples, []

    def killed(*arguments):
        batches.append(1)
        if len(batches) == 7:  # the third batch of the second checkpoint
            raise KeyboardInterrupt
        check(*arguments)

    monkeypatch.setattr(samples_module, "check_samples", killed)
    assert _run("eval", other, **samples) == 130
    assert [entry["step"] for entry in _evaluation(other)["checkpoints"]] == [40]
    assert len(list(other.glob("evaluation.*.partial"))) == 1
    assert _run("eval", other, **samples) == 0
    assert len(batches) == 7 + 2
    assert _numbers(_evaluation(other)["checkpoints"]) == _numbers(_evaluation(workdir)["checkpoints"])
    assert not list(other.glob("*.partial*"))


def test_the_best_is_told_by_an_earlier_evaluation_or_by_the_losses_of_training(workdir):
    assert _run("eval", workdir, evaluation__checkpoints="best") == 0
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {record["step"]: record["eval_loss"] for record in logged if "eval_loss" in record}
    assert [entry["step"] for entry in _evaluation(workdir)["checkpoints"]] == [min(losses, key=losses.get)]
    record = _evaluation(workdir) | {"best": 20, "identity": "another"}
    (workdir / "evaluation.json").write_text(json.dumps(record))
    assert _run("eval", workdir, evaluation__checkpoints="best") == 0
    assert [entry["step"] for entry in _evaluation(workdir)["checkpoints"]] == [20]


def test_a_damaged_checkpoint_is_left_out_of_a_range_and_refused_by_name(workdir, capsys):
    shutil.rmtree(workdir / "checkpoints" / "40" / "state")
    assert _run("eval", workdir, evaluation__checkpoints="20:60") == 0
    assert [entry["step"] for entry in _evaluation(workdir)["checkpoints"]] == [20, 60]
    capsys.readouterr()
    assert _run("eval", workdir, evaluation__checkpoints="40") == 2
    assert "[40]" in capsys.readouterr().err


def test_the_likelihood_is_measured_with_the_rest(workdir, monkeypatch):
    settings = {"evaluation__likelihood": True, "likelihood__num_steps": 8, "likelihood__num_examples": 100}
    assert _run("eval", workdir, **settings) == 0
    entry = _evaluation(workdir)["checkpoints"][0]
    assert -20.0 < entry["nats_per_example"] < 0.0
    assert entry["nats_per_example_std_error"] > 0.0
    assert not list(workdir.glob("*.partial*"))
    monkeypatch.setattr(LossEvaluator, "__call__", None)
    assert _run("eval", workdir, **settings) == 0
    with pytest.raises(TypeError):  # another grid is another measurement
        _run("eval", workdir, **settings | {"likelihood__num_steps": 9})


def test_statistics_are_written_and_used_by_another_run(workdir, tmp_path):
    assert _run("stats", tmp_path / "stats") == 0
    path = tmp_path / "stats" / "statistics.npz"
    about = json.loads(path.with_suffix(".json").read_text())
    reference = read_statistics(path)
    assert about["statistics_sha256"] == reference.sha256
    assert (about["num_examples"], about["features_kept"]) == (1000, 400)
    assert _run("eval", workdir, evaluation__num_samples=50, evaluation__reference=path) == 0
    assert not (workdir / "statistics.npz").exists()
    found = _evaluation(workdir)["checkpoints"][0]["metrics"]["energy"]
    assert found["protocol"]["reference_sha256"] == reference.sha256


def test_a_reference_of_other_data_is_refused_and_nothing_is_drawn(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(metrics_module.SampleEvaluator, "__call__", None)
    moments = Moments(np.zeros(3), np.eye(3), 100)
    fields = {"features_subset": None, "source": "cubes", "split": "train", "count": 100, "shape": (3,)}
    cubes = ReferenceStatistics(
        moments=moments, extractor="pixels", extractor_sha256="pixels", num_levels=None, **fields
    )
    write_statistics(tmp_path / "cubes.npz", cubes)
    assert _run("eval", workdir, evaluation__num_samples=50, evaluation__reference=tmp_path / "cubes.npz") == 2
    assert "the shape is (2,) of the samples and (3,) of the reference" in capsys.readouterr().err


BAD = {
    "evaluation.checkpoints=newst": "expected newest, best, all, a range such as 1000:5000",
    "evaluation.checkpoints=30": "there are no checkpoints of the steps [30]; expected some of 20, 40, 60",
    "evaluation.checkpoints=70:": "no checkpoint in",
    "evaluation.best_by=frechet": "Unknown criterion 'frechet'. Known: loss.",
    "evaluation.num_samples=10": "expected 0, or an integer from 40",
    "evaluation.reference_split=tran": "Did you mean 'train'",
    "evaluation.metrics=('frehet',)": "Did you mean 'frechet'",
}


@pytest.mark.parametrize("override", BAD)
def test_a_wrong_setting_is_answered_with_what_was_expected(trained, capsys, override):
    overrides = [f"--config.{name}={value}" for name, value in TINY.items()]
    arguments = ["--config=configs/vp/toy_mlp.py", f"--workdir={trained}", "--mode=eval", *overrides]
    assert main([*arguments, f"--config.{override}"]) == 2
    assert BAD[override] in capsys.readouterr().err
    assert not (trained / "evaluation.json").exists()


THERE = [500, 1000, 1500, 2000]


@pytest.mark.parametrize(
    ("wanted", "steps"),
    [(":1000", [500, 1000]), ("1000:", [1000, 1500, 2000]), (":", THERE), ("600:900", []), ("2000, 500", [500, 2000])],
)
def test_a_range_holds_both_its_ends(wanted, steps):
    assert parse_steps(wanted, THERE) == steps


@pytest.mark.parametrize("wanted", ["1:2:3", "a:b", "", "1000,,2000", "-5"])
def test_what_is_no_range_is_refused(wanted):
    with pytest.raises(UserError, match="expected newest, best, all, a range"):
        parse_steps(wanted, THERE)


def test_of_equals_the_first_is_best_and_of_recall_more_is_better():
    entries = {
        step: {"loss": 1.0, "metrics": {"frechet": {"value": value}, "recall": {"value": value}}}
        for step, value in ((3, 0.2), (2, 0.1), (1, 0.1))
    }
    assert best_of(entries, "") == (1, "frechet")
    assert best_of(entries, "recall") == (3, "recall")
    assert best_of(entries, "loss") == (1, "loss")
