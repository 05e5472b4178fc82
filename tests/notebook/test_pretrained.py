"""The models that come with the package: small, loaded by name, and of what their cards say."""

import jax
import numpy as np
import pytest

import score_sde
from score_sde.data import load_source
from score_sde.errors import UserError
from score_sde.metrics.extractors.classifier import make_classifier
from score_sde.modes.models import PRETRAINED, pretrained

_MEGABYTES = 5


def test_all_of_them_are_small():
    assert sum(file.stat().st_size for file in PRETRAINED.rglob("*") if file.is_file()) < _MEGABYTES * 2**20
    assert {"digits-vp", "digits-ve", "digits-classes", "mnist-vdm"} <= set(pretrained())


@pytest.mark.parametrize("name", sorted(pretrained()))
def test_a_pretrained_model_says_what_it_is(name):
    card = (pretrained()[name] / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n") and f"# {name}" in card and "fingerprint" in card


def test_a_typo_is_answered_with_the_nearest_name():
    with pytest.raises(UserError, match="Did you mean 'digits-vp'"):
        score_sde.load("digits-pv")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in sorted(pretrained()) if name.startswith("digits")])
def test_a_pretrained_model_draws_data_of_its_kind(name, key):
    """Mean and spread of the gray levels, pixel by pixel; an untrained network draws noise."""
    model = score_sde.load(name)
    x = model.sample(key, 64).astype(np.float64)
    data = load_source("digits", "train").gather(np.arange(1500)).astype(np.float64)
    assert x.shape == (64, *data.shape[1:])
    assert np.abs(x.mean(axis=0) - data.mean(axis=0)).mean() < 1.0
    assert np.abs(x.std(axis=0) - data.std(axis=0)).mean() < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-classes", "mnist-vdm"])
def test_a_classifier_of_the_data_recognizes_the_class_of_most_samples(name, key):
    """It was trained on the data alone; chance would be right once in ten times."""
    model, labels = score_sde.load(name), np.arange(50) % 10
    classify = make_classifier(model.experiment.settings.data.name)
    logits = classify(model.sample(key, 50, labels=labels, scale=2.0)).logits
    assert logits is not None and np.mean(np.argmax(logits, axis=1) == labels) > 0.85


@pytest.mark.slow
def test_restorations_of_a_network_with_waves_keep_to_the_observation(key):
    """The residual of most is the noise; it was three times as large while waves of the image were not damped."""
    model, noise_std = score_sde.load("mnist-vdm"), 12.8  # of 256 gray levels
    x = model.sample(key, 6, steps=16, labels=np.arange(6)).astype(np.float32)
    y = x[:, :14] + noise_std * np.random.RandomState(0).randn(6, 14, 28, 1).astype(np.float32)
    options = {"noise_std": noise_std, "solver": "sde_dpm_solver_2m", "steps": 25}
    draws = model.restore(jax.random.fold_in(key, 1), y, lambda x: x[:, :14], labels=-1, **options).astype(np.float32)
    residuals = np.sqrt(np.mean((draws[:, :14] - y) ** 2, axis=(1, 2, 3))) / noise_std
    assert 0.9 < np.median(residuals) < 1.15
