"""Runs on standardized data: what a user sees is in the units of the data, whatever these are."""

import json

import numpy as np
import pytest

from score_sde.cli import main
from score_sde.data import column_statistics, load_source
from score_sde.modes.record import recorded_data
from tests.training.test_resume import ROOT

TINY = {
    **{"model.features": 8, "model.num_blocks": 1, "data.standardize": "columns", "likelihood.budget_examples": 0},
    **{"training.num_steps": 4, "training.log_every": 2, "training.eval_every": 4, "training.checkpoint_every": 4},
    **{"training.batch_size": 16, "likelihood.num_steps": 4, "likelihood.num_probes": 0, "likelihood.num_examples": 6},
    **{"likelihood.noise_levels": 0, "likelihood.bound_times": 0, "sampling.num_samples": 8, "sampling.num_steps": 3},
    **{"sampling.predictor": "ddim", "sampling.corrector": "none", "optim.warmup": 1},
}
UNITS = np.float32([1.0, 1024.0, 0.5])  # powers of two, which change no digit of a float


def run(mode, workdir, file, **changes):
    fields = TINY | {"data.name": f"npz:{file}"} | {name.replace("__", "."): value for name, value in changes.items()}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return main([f"--config={ROOT / 'configs/vp/toy_mlp.py'}", f"--workdir={workdir}", f"--mode={mode}", *overrides])


def table(count=60):
    rng = np.random.RandomState(0)
    return np.float32(rng.standard_normal((count, 3)) @ np.tril(np.ones((3, 3))) * [1.0, 30.0, 0.01] + [4.0, -200.0, 0])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The same run on a table and on the table in other units."""
    home = tmp_path_factory.mktemp("units")
    for name, units in (("ours", np.ones(3, np.float32)), ("theirs", UNITS)):
        np.savez(home / f"{name}.npz", x=table() * units)
        assert run("train", home / name, home / f"{name}.npz") == 0
    return home


@pytest.mark.slow
def test_other_units_change_likelihoods_by_a_constant_and_samples_by_a_factor(trained):
    found = {}
    for name in ("ours", "theirs"):
        for mode in ("likelihood", "sample"):
            assert run(mode, trained / name, trained / f"{name}.npz") == 0
        arrays, reports = (
            {file: load(trained / name / file) for file in files}
            for load, files in (
                (lambda path: dict(np.load(path)), ("likelihood.npz", "samples.npz")),
                (lambda path: json.loads(path.read_text()), ("likelihood.json",)),
            )
        )
        found[name] = arrays | reports
    ours, theirs = found["ours"], found["theirs"]
    gap = np.log(UNITS.astype(np.float64)).sum()
    nats = [each["likelihood.npz"]["nats"] for each in (ours, theirs)]
    np.testing.assert_allclose(nats[1], nats[0] - gap, atol=1e-5)
    bits = [each["likelihood.json"]["density_bits_per_dim"] for each in (ours, theirs)]
    np.testing.assert_allclose(bits[1] - bits[0], gap / (3 * np.log(2.0)), atol=1e-5)
    np.testing.assert_allclose(bits[0], -nats[0].mean() / (3 * np.log(2.0)), rtol=1e-5)
    np.testing.assert_array_equal(theirs["samples.npz"]["samples"], ours["samples.npz"]["samples"] * UNITS)


@pytest.mark.slow
def test_the_statistics_are_recorded_and_samples_need_no_data(trained, tmp_path):
    statistics = column_statistics(load_source(f"npz:{trained / 'ours.npz'}", "train"))
    recorded = recorded_data(trained / "ours").standardization
    np.testing.assert_array_equal(recorded.mean, statistics.mean)
    np.testing.assert_array_equal(recorded.std, statistics.std)
    assert run("sample", trained / "ours", tmp_path / "gone.npz", sampling__num_samples=4) == 0


def test_a_run_goes_on_with_its_own_statistics_alone(trained, capsys):
    path = trained / "ours" / "data.json"
    before = path.read_text()
    assert run("train", trained / "ours", trained / "ours.npz", training__num_steps=8) == 0
    assert path.read_text() == before
    assert run("train", trained / "ours", trained / "theirs.npz", training__num_steps=8) == 2
    assert "contents of the train split" in capsys.readouterr().err
    assert run("sample", trained / "ours", trained / "ours.npz", data__standardize="none") == 2
    assert "data.standardize: columns -> none" in capsys.readouterr().err


def test_data_that_cannot_be_standardized_are_refused_before_training(tmp_path, capsys):
    values = table()
    values[:, 1] = 3.0
    np.savez(tmp_path / "flat.npz", x=values)
    assert run("train", tmp_path / "run", tmp_path / "flat.npz") == 2
    assert "constant: 1 (3); expected columns that vary" in capsys.readouterr().err
    assert run("train", tmp_path / "run", tmp_path, data__name="digits", model__name="ncsnpp") == 2
    assert "config.data.standardize is columns, and digits has 17 gray levels" in capsys.readouterr().err
