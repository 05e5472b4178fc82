"""Metrics of a model's samples: closed forms where the score is exact, and the same bits after a kill."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.cli import load_config
from score_sde.data import SourceInfo
from score_sde.data.base import ArraySource
from score_sde.errors import UserError
from score_sde.evaluation.metrics import (
    Points,
    SampleEvaluator,
    SampleFeatures,
    check_protocol,
    data_statistics,
)
from score_sde.evaluation.partial import Partial
from score_sde.evaluation.samples import draw_samples
from score_sde.metrics import PIXELS, Moments, ReferenceStatistics
from score_sde.metrics.extractors.base import NO_WEIGHTS, ImageExtractor
from score_sde.modes.workdir import build_experiment
from score_sde.sdes import VP

VARIANCE = 0.49


class GaussianNetwork:
    """The exact noise prediction for data from N(0, VARIANCE I)."""

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, label=None, key=None):
        m, s = (c.reshape(-1, *(1,) * (x.ndim - 1)) for c in VP().marginal(condition / 999.0))
        return s * x / (m**2 * VARIANCE + s**2)


def _experiment(*overrides):
    settings = ["data.name=toy:gaussians", "model.name=mlp", "model.features=8", "model.num_blocks=1"]
    settings += ["sampling.predictor=dpm_solver_2m", "sampling.grid=log_snr", "sampling.num_steps=24"]
    config = load_config(None, [f"--config.{setting}" for setting in (*settings, *overrides)])
    return dataclasses.replace(build_experiment(config), network=GaussianNetwork())


def _reference(mean, variance, **changes):
    dim = len(mean)
    moments = Moments(np.asarray(mean, float), variance * np.eye(dim), 0)
    fields = {"moments": moments, "features_subset": None, "extractor": PIXELS, "extractor_sha256": PIXELS}
    fields |= {"source": "closed form", "split": "all", "count": None, "shape": (dim,), "num_levels": None}
    return ReferenceStatistics(**fields | changes)


def test_the_frechet_distance_of_an_exact_model_is_the_closed_form():
    """Between N(0, v I) and N(m, w I) it is |m|^2 + d (sqrt v - sqrt w)^2, here in both coordinates."""
    experiment = _experiment("evaluation.num_samples=4000", "sampling.batch_size=1000")
    points = Points(num_features=2)
    found = SampleEvaluator(experiment, points)({})
    reference = _reference([0.3, -0.1], 1.0)
    result = SampleEvaluator(experiment, points).measure(found, reference, ("frechet",))["frechet"]
    exact = 0.3**2 + 0.1**2 + 2 * (VARIANCE**0.5 - 1.0) ** 2
    low, high = result.interval
    assert low < exact < high
    assert high - low < 0.2 * exact  # the interval says something
    own = SampleEvaluator(experiment, points).measure(found, _reference([0.0, 0.0], VARIANCE), ("frechet",))["frechet"]
    assert own.value < 0.01 * exact


def _mean_and_edges(params, x):
    x = x.astype("float32")
    features = jnp.stack([x.mean((1, 2, 3)), x[:, 0].mean((1, 2)), x[:, :, 0].mean((1, 2))], axis=1)
    return features, features[:, :2] * params


@pytest.fixture
def extractor():
    common = {"name": "edges", "sha256": NO_WEIGHTS, "num_features": 3, "num_classes": 2, "batch_size": 32}
    return ImageExtractor(**common, forward=_mean_and_edges, params=1.0, shape=(4, 4, 1), num_levels=17)


def _images(n, seed=0):
    return np.random.default_rng(seed).integers(17, size=(n, 4, 4, 1)).astype(np.uint8)


def _source(images):
    return ArraySource(SourceInfo("noise", (4, 4, 1), 17, None), images)


def _image_experiment(*overrides):
    settings = ["data.name=digits", "data.shape=()", "model.features=8", "model.channel_multipliers=(1,)"]
    settings += ["model.num_blocks=1", "model.attention_resolutions=()", *overrides]
    config = load_config(None, [f"--config.{setting}" for setting in settings])
    experiment = build_experiment(config)
    return dataclasses.replace(experiment, network=GaussianNetwork(), event_shape=(4, 4, 1))


def test_statistics_are_those_of_all_examples_as_they_are_stored(extractor):
    images = _images(1100)  # no multiple of any batch
    done = []
    found, digest = data_statistics(_source(images), extractor, split="train", keep_features=100, progress=done.append)
    features = np.asarray(_mean_and_edges(1.0, images)[0], np.float64)
    np.testing.assert_allclose(found.moments.mean, features.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.moments.covariance, np.cov(features.T), rtol=1e-5)
    assert (found.count, found.moments.num_examples, sum(done)) == (1100, 1100, 1100)
    rows = {tuple(row) for row in np.asarray(features, np.float32)}
    assert len(found.features_subset) == 100
    assert {tuple(row) for row in found.features_subset} <= rows
    assert not np.array_equal(
        found.features_subset, extractor(images[:100]).features
    )  # not the first, which may be sorted
    changed = images.copy()
    changed[1099, 3, 3, 0] ^= 1
    assert data_statistics(_source(changed), extractor, split="train")[1] != digest
    part, of_part = data_statistics(_source(images), extractor, split="train", limit=600)
    assert (part.count, of_part) == (600, data_statistics(_source(images[:600]), extractor, split="test")[1])


def test_samples_that_are_the_data_are_at_no_distance(extractor):
    images = _images(400)
    reference, _ = data_statistics(_source(images), extractor, split="train")
    features, logits = extractor(images)
    found = SampleFeatures(features, logits, 1.0, 1.0)
    experiment = _image_experiment()
    results = SampleEvaluator(experiment, extractor).measure(found, reference, ("frechet", "precision_recall"))
    assert abs(results["frechet"].value) < 1e-9
    assert results["precision"].value == results["recall"].value == 1.0


class Killed(Exception):
    pass


def test_a_killed_measurement_goes_on_with_the_same_bits_and_draws_only_the_rest(tmp_path, extractor):
    """Three batches of 48 for 130 samples; killed after two of them."""
    overrides = ["evaluation.num_samples=130", "sampling.batch_size=48", "sampling.num_steps=6"]
    experiment = _image_experiment(*overrides, "sampling.predictor=euler_maruyama")
    whole = SampleEvaluator(experiment, extractor)({})
    partial, seen = tmp_path / "evaluation.partial", []

    def progress(count):
        seen.append(count)
        if len(seen) == 2:
            raise Killed

    evaluate = SampleEvaluator(experiment, extractor)
    with pytest.raises(Killed):
        evaluate({}, kept=Partial(partial, "this", progress))
    calls = []
    evaluate = SampleEvaluator(experiment, extractor)
    evaluate._draw = lambda *a, draw=evaluate._draw: (calls.append(a[-1]), draw(*a))[1]
    resumed = evaluate({}, kept=Partial(partial, "this"))
    assert calls == [96]
    np.testing.assert_array_equal(resumed.features, whole.features)
    np.testing.assert_array_equal(resumed.logits, whole.logits)
    assert resumed.num_evals == whole.num_evals
    calls.clear()
    evaluate({}, kept=Partial(partial, "another"))
    assert calls == [0, 48, 96]


def test_the_samples_are_those_of_mode_sample_in_levels(extractor):
    overrides = ["evaluation.num_samples=70", "sampling.num_samples=70", "sampling.batch_size=48"]
    experiment = _image_experiment(*overrides, "sampling.num_steps=6")
    found = SampleEvaluator(experiment, extractor)({})
    levels = experiment.quantization.quantize(draw_samples(experiment, {}).x)
    np.testing.assert_array_equal(found.features, extractor(levels.astype(np.uint8)).features)


INFO = SourceInfo("noise", (4, 4, 1), 17, None)


@pytest.mark.parametrize(
    ("changes", "metrics", "message"),
    [
        ({"shape": (8, 8, 1)}, ("frechet",), r"the shape is \(4, 4, 1\) of the samples and \(8, 8, 1\)"),
        ({"extractor": "other"}, ("frechet",), "the extractor is edges of the samples and other"),
        ({"extractor_sha256": "ab" * 32}, ("frechet",), "the SHA-256 of the extractor's weights is e3b0"),
        ({"num_levels": 256}, ("frechet",), "the number of levels is 17 of the samples and 256"),
        ({"features_subset": None}, ("frechet", "kid"), "kid of config.evaluation.metrics compare single examples"),
    ],
)
def test_an_unlike_reference_is_refused_before_anything_is_drawn(extractor, changes, metrics, message):
    reference, _ = data_statistics(_source(_images(60)), extractor, split="train")
    check_protocol(extractor, reference, metrics, INFO)
    with pytest.raises(UserError, match=message):
        check_protocol(extractor, dataclasses.replace(reference, **changes), metrics, INFO)


def test_an_inception_score_needs_classes(extractor):
    reference, _ = data_statistics(_source(_images(60)), extractor, split="train")
    check_protocol(extractor, reference, ("inception_score",), INFO)
    with pytest.raises(UserError, match="the extractor edges has none"):
        check_protocol(dataclasses.replace(extractor, num_classes=None), reference, ("inception_score",), INFO)
