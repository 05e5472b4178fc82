"""Results of different settings stand side by side, and no long phase is measured twice."""

import json
import logging
import os
import shutil

import numpy as np
import pytest

from score_sde.cli import load_config
from score_sde.evaluation import pareto, partial
from score_sde.evaluation.results import RESULTS, keep_earlier
from score_sde.files import atomic_write_json
from score_sde.modes import MODES
from score_sde.report.results import MODES as MODES_OF
from score_sde.report.results import forms, misshapen, places
from tests.evaluation.test_sample_mode import save_model
from tests.training.test_resume import CONFIG as TOY

FEW = {
    "model.features": 8,
    "model.num_blocks": 1,
    "sampling.predictor": "ddim",
    "sampling.num_steps": 3,
    "sampling.num_samples": 20,
    "sampling.batch_size": 10,
    "likelihood.num_steps": 3,
    "likelihood.order": 1,
    "likelihood.num_examples": 20,
    "likelihood.batch_size": 10,
    "likelihood.bound_times": 2,
    "likelihood.budget_examples": 0,
    "likelihood.noise_levels": 0,
    "likelihood.tolerance": 0.1,
    "pareto.solvers": ("ddim",),
    "pareto.grids": ("uniform",),
    "pareto.evals": (3, 4),
    "pareto.num_samples": 8,
}


def few(**changes):
    fields = FEW | {name.replace("__", "."): value for name, value in changes.items()}
    return load_config(TOY, [f"--config.{name}={value}" for name, value in fields.items()])


@pytest.fixture
def run(model, tmp_path):
    return shutil.copytree(model, tmp_path / "run")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), few())


#: A field of each mode, and another value.
OTHER = {
    "sample": {"sampling__seed": 7},
    "likelihood": {"likelihood__order": 2},
    "latents": {"sampling__num_samples": 3},
    "eval": {"likelihood__batch_size": 12},
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sample", "likelihood", "eval", pytest.param("latents", marks=pytest.mark.long)])
def test_results_of_other_settings_are_kept_and_those_of_the_same_are_replaced(mode, run, caplog):
    report, *others = RESULTS[mode]
    MODES[mode](few(), run, "the first")
    first = {name: (run / name).read_bytes() for name in (report, *others) if (run / name).exists()}
    assert report in first
    check_described(run)
    MODES[mode](few(), run, "the same")
    assert not (run / "earlier").exists()
    again = {name: (run / name).read_bytes() for name in first}
    with caplog.at_level(logging.INFO):
        MODES[mode](few(**OTHER[mode]), run, "another")
    kept = run / "earlier" / f"{mode}-1"
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == again
    assert f"kept in {kept}." in caplog.text
    assert json.loads((run / report).read_text())["command"] == "another"
    assert not list(run.glob("*.partial*"))
    assert "[earlier](earlier)" in (run / "summary.md").read_text()


#: Numbers in results that no page shows: what decides a result, and what others are computed from.
UNSHOWN = {"seed", "first", "num_evals_max", "num_train", "sampling_seconds", "likelihood_seconds",
           "cpu_count", "device_count", "process_count"}  # fmt: skip


def check_described(run):
    """Whatever number a mode writes, the pages know its place and form."""
    reports = {name: json.loads((run / name).read_text()) for name in MODES_OF if (run / name).exists()}
    assert reports and misshapen(reports) == []
    for name, report in reports.items():
        known = {place for path in forms(name) for place, _ in places(report, path)}
        assert {place for place in _numbers(report) if place.split(".")[-1] not in UNSHOWN} <= known


def _numbers(value, place=""):
    if isinstance(value, dict):
        return {found for name, item in value.items() for found in _numbers(item, f"{place}.{name}".lstrip("."))}
    if isinstance(value, list):
        return {found for item in value for found in _numbers(item, place)}
    return {place} if isinstance(value, int | float) and not isinstance(value, bool) else set()


def test_a_kill_while_results_are_moved_loses_none_and_splits_none(tmp_path, monkeypatch):
    def write(identity):
        atomic_write_json(tmp_path / "sampling.json", {"identity": identity})
        for name in RESULTS["sample"][1:]:
            (tmp_path / name).write_text(identity)

    def killed(source, target, replace=os.replace):
        if str(source).endswith("samples.png"):
            raise KeyboardInterrupt
        replace(source, target)

    write("a")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        keep_earlier(tmp_path, "sample", "b")
    keep_earlier(tmp_path, "sample", "b")
    write("b")
    keep_earlier(tmp_path, "sample", "c")
    keep_earlier(tmp_path, "sample", "c")  # there is nothing to move
    (tmp_path / "sampling.json").write_text("{")  # nobody knows of what
    keep_earlier(tmp_path, "sample", "c")
    found = {path.name: sorted(file.name for file in path.iterdir()) for path in (tmp_path / "earlier").iterdir()}
    everything = sorted(RESULTS["sample"])
    assert found == {"sample-1": everything, "sample-2": everything, "sample-3": ["sampling.json"]}
    assert (tmp_path / "earlier" / "sample-2" / "samples.npz").read_text() == "b"


@pytest.mark.parametrize("mode", ["sample", "eval"])
def test_to_go_back_to_settings_leaves_no_second_copy_of_their_results(mode, tmp_path):
    """Each setting has one place; an evaluation stays beside one that measures fewer checkpoints."""
    report = RESULTS[mode][0]
    for number, identity in enumerate(["7", "43", "7", "8", "7", "43"]):
        keep_earlier(tmp_path, mode, identity)
        steps = [{"step": step, "parameters": "x"} for step in range(number + 1)]
        atomic_write_json(tmp_path / report, {"identity": identity, "number": number, "checkpoints": steps})

    def kept():
        found = {path.name: json.loads((path / report).read_text()) for path in (tmp_path / "earlier").iterdir()}
        return {name: (entry["identity"], entry["number"]) for name, entry in found.items()}

    assert kept() == {f"{mode}-1": ("7", 4), f"{mode}-2": ("43", 1), f"{mode}-3": ("8", 3)}
    atomic_write_json(tmp_path / report, {"identity": "43", "number": 9, "checkpoints": [{"step": 9}]})
    keep_earlier(tmp_path, mode, "another")
    assert kept()[f"{mode}-2"] == ("43", 1) and kept()[f"{mode}-4"] == ("43", 9)


@pytest.mark.slow
def test_a_likelihood_that_was_killed_in_a_later_phase_is_not_measured_again(run, monkeypatch, model):
    """The flow is done and half of the bound when the kill comes; then only the other half is measured."""
    add, phases = partial.Partial.add, []

    def counted(kept, row, seconds):
        phases.append(kept._path.name.rsplit(".", 2)[0])
        if phases.count("likelihood.bound") == 2:
            raise KeyboardInterrupt
        add(kept, row, seconds)

    whole = shutil.copytree(run, run.parent / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(partial.Partial, "add", counted)
        MODES["likelihood"](few(), run, "command")
    again = []
    monkeypatch.setattr(partial.Partial, "add", lambda kept, *row: (again.append(kept._path.name), add(kept, *row)))
    MODES["likelihood"](few(), run, "command")
    assert [name.rsplit(".", 2)[0] for name in again] == ["likelihood.bound"]
    MODES["likelihood"](few(), whole, "command")
    with np.load(run / "likelihood.npz") as ours, np.load(whole / "likelihood.npz") as theirs:
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("mode", ["sample", pytest.param("likelihood", marks=pytest.mark.long)])
def test_what_a_kill_left_stays_when_other_settings_come_between(mode, run, monkeypatch):
    add, added = partial.Partial.add, []

    def killed(kept, row, seconds):
        if added:
            raise KeyboardInterrupt
        added.append(1)
        add(kept, row, seconds)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(partial.Partial, "add", killed)
        MODES[mode](few(), run, "command")
    left = {path.name: path.read_bytes() for path in run.glob("*.partial*")}
    MODES[mode](few(**OTHER[mode]), run, "another")
    assert len(left) == 2 and {path.name: path.read_bytes() for path in run.glob("*.partial*")} == left
    monkeypatch.setattr(
        partial.Partial,
        "_go_on",
        lambda kept, *a, go=partial.Partial._go_on: (go(kept, *a), added.append(kept.batches)),
    )
    MODES[mode](few(), run, "command")
    assert added == [1, 1] and not list(run.glob("*.partial*"))


@pytest.mark.slow
def test_settings_of_a_sweep_that_were_measured_before_a_kill_are_not_measured_again(run, monkeypatch):
    monkeypatch.setattr(pareto, "_REFERENCE_STEPS", 3)
    add, measured = partial.Partial.add, []

    def killed(kept, row, seconds):
        measured.append(1)
        if len(measured) == 4:
            raise KeyboardInterrupt
        add(kept, row, seconds)

    monkeypatch.setattr(partial.Partial, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        MODES["pareto"](few(), run, "command")
    MODES["pareto"](few(), run, "command")
    assert len(measured) == 4 + 1  # two references and two settings, of which the last came twice
    report = json.loads((run / "pareto.json").read_text())
    assert [point["num_evals"] for point in report["points"]] == [3, 4]
    assert all(point["seconds"] > 0.0 for point in report["points"]) and not list(run.glob("*.partial*"))
    MODES["pareto"](few(pareto__evals=(3,)), run, "another")
    assert json.loads((run / "earlier" / "pareto-1" / "pareto.json").read_text()) == report
