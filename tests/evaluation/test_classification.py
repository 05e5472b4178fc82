"""Classes by likelihood are Bayes' own where the model is exact, and what ``--mode=classify`` leaves."""

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image
from scipy.special import logsumexp

from score_sde.cli import main
from score_sde.data import ArraySource, SourceInfo
from score_sde.errors import UserError
from score_sde.evaluation import classification
from score_sde.evaluation.classification import class_likelihoods, verdict
from tests import test_classes
from tests.evaluation.test_sample_mode import CONFIG, TINY, save_model, tiny
from tests.test_classes import PARAMS, experiment, log_density

SMALL = TINY | {
    "conditioning.classes": True,
    "likelihood.num_examples": 12,
    "likelihood.batch_size": 60,
    "likelihood.num_steps": 3,
    "likelihood.bound_times": 2,
}
GRID = {"likelihood__num_steps": 60, "likelihood__bound_times": 0}


def points(count):
    """Points of no class in particular, each with a class drawn from its posterior; and log-densities in each."""
    rng = np.random.RandomState(0)
    x = rng.randn(count, 2).astype(np.float32)
    known = np.stack([log_density(x, np.full(count, k)) for k in range(3)], axis=1)
    posterior = np.exp(known - logsumexp(known, axis=1, keepdims=True))
    labels = (rng.uniform(size=(count, 1)) > np.cumsum(posterior, axis=1)).sum(axis=1)
    return ArraySource(SourceInfo("three", (2,), None, 3), x, labels), labels, known


@pytest.mark.parametrize("changes", [{}, GRID])
def test_an_exact_model_classifies_as_bayes_does(changes):
    source, labels, known = points(40)
    found = class_likelihoods(experiment(**{"likelihood__bound_times": 0} | changes), PARAMS, source)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.success.all() and found.nats.shape == (40, 3)
    near = (known > -40.0).all(axis=1)  # further out, the error of the solver is relative
    np.testing.assert_allclose(found.nats[near], known[near], atol=0.1)
    differences = [nats[near] - nats[near, :1] for nats in (found.nats, known)]
    np.testing.assert_allclose(*differences, rtol=5e-3, atol=0.05)
    ours, bayes = verdict(found.nats, labels), verdict(known, labels)
    assert ours.accuracy == bayes.accuracy < 1.0
    assert abs(ours.cross_entropy - bayes.cross_entropy) < 0.01


def test_the_bound_of_an_exact_model_is_tight_in_every_class():
    source, labels, known = points(24)
    found = class_likelihoods(experiment(**GRID | {"likelihood__bound_times": 64}), PARAMS, source)
    assert (np.abs(found.bound_nats + known) < 5 * found.bound_std_error + 0.01 * np.abs(known) + 0.05).all()
    assert verdict(-found.bound_nats, labels).accuracy > 0.5


def test_the_noise_of_probes_leaves_the_differences_between_classes(monkeypatch):
    # Classes of one variance have one Jacobian, of which a Gaussian probe makes one error.
    monkeypatch.setattr(test_classes, "STDS", np.full(3, 0.3))
    source, _, _ = points(24)
    noisy = experiment(**GRID, likelihood__num_probes=1, likelihood__probe_kind="gaussian")
    rough, exact = (class_likelihoods(made, PARAMS, source).nats for made in (noisy, experiment(**GRID)))
    assert (rough - exact).std() > 0.2
    np.testing.assert_allclose(rough - rough[:, :1], exact - exact[:, :1], atol=0.01, rtol=1e-3)


@pytest.mark.slow
def test_an_example_has_its_likelihoods_in_any_batch():
    source, _, _ = points(10)
    noisy = {**GRID, "likelihood__num_probes": 1, "likelihood__probe_kind": "gaussian", "likelihood__bound_times": 4}
    whole = class_likelihoods(experiment(**noisy, likelihood__batch_size=30), PARAMS, source)
    for change in ({"likelihood__batch_size": 1}, {"likelihood__batch_size": 12, "likelihood__num_examples": 7}):
        parts = class_likelihoods(experiment(**noisy | change), PARAMS, source)
        count = len(parts.labels)
        np.testing.assert_allclose(parts.nats, whole.nats[:count], rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(parts.bound_nats, whole.bound_nats[:count], rtol=1e-4, atol=1e-3)


def test_a_network_without_classes_is_refused():
    with pytest.raises(UserError, match="was trained without labels"):
        class_likelihoods(experiment(conditioning__classes=False), PARAMS, points(3)[0])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), tiny(conditioning__classes=True))


def classify(workdir, *flags, **changes):
    fields = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return main([f"--config={CONFIG}", f"--workdir={workdir}", "--mode=classify", *flags, *overrides])


@pytest.mark.slow
def test_a_command_leaves_numbers_a_picture_and_a_page(model, tmp_path):
    assert classify(model, f"--out={tmp_path}") == 0
    report = json.loads((tmp_path / "classification.json").read_text())
    with np.load(tmp_path / "classification.npz") as file:
        found = dict(file)
    assert found["bits_per_dim"].shape == (12, 10) and np.isfinite(found["bound_nats"]).all()
    assert np.sum(report["confusion"]) == report["num_examples"] == 12
    assert np.trace(report["confusion"]) == round(12 * report["accuracy"])
    low, high = report["accuracy_interval"]
    assert low < report["accuracy"] < high
    assert report["discriminative"]["accuracy"] > 0.8  # of the same images, as they are in the data
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.width > 300
    assert "Accuracy by the likelihood of each class" in (tmp_path / "summary.md").read_text()
    assert main([f"--workdir={model}", "--mode=report", f"--out={tmp_path}"]) == 0
    assert "Accuracy of a discriminative classifier" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_costs_one_batch(number, code, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ["JAX_COMPILATION_CACHE_DIR"])
    combined, batches = classification.combined, []

    def asked(*arguments, **options):
        batches.append(1)
        if len(batches) == 2:
            os.kill(os.getpid(), number)
        return combined(*arguments, **options)

    monkeypatch.setattr(classification, "combined", asked)
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    assert classify(model, f"--out={cut}") == code
    assert classify(model, f"--out={cut}") == 0
    assert len(batches) == 2 + 1  # the second of two batches, again
    assert classify(model, f"--out={whole}") == 0
    assert (whole / "classification.npz").read_bytes() == (cut / "classification.npz").read_bytes()
    assert not list(cut.glob("*.partial*")) and "Traceback" not in capsys.readouterr().err


def test_a_run_without_classes_is_refused_before_its_model_is_read(tmp_path, capsys):
    assert classify(tmp_path, conditioning__classes=False) == 2
    said = capsys.readouterr().err
    assert "The network was trained without labels (config.conditioning.classes=False)" in said
    assert not list(tmp_path.glob("classification*"))
