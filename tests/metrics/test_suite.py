"""The front door gives the numbers of the parts, with their protocols, and refuses what does not belong together."""

import dataclasses

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.metrics import (
    NOT_STATED,
    PIXELS,
    MetricResult,
    ReferenceStatistics,
    compare,
    density_coverage,
    energy_distance,
    extrapolated_frechet,
    frechet_interval,
    inception_score,
    kernel_distance,
    measure_features,
    measure_pixels,
    moments,
    precision_recall,
    sliced_wasserstein,
)
from score_sde.metrics.suite import METRICS

_RNG = np.random.RandomState(0)
REFERENCE, SAMPLES, LOGITS = _RNG.randn(150, 5), _RNG.randn(120, 5) * 1.2, _RNG.randn(120, 4)
STATISTICS = ReferenceStatistics(
    moments=moments(REFERENCE),
    features_subset=REFERENCE,
    extractor="net",
    extractor_sha256="ab" * 32,
    source="digits",
    split="train",
    count=150,
    shape=(8, 8, 1),
    num_levels=17,
)
OWN = {"extractor": "net", "extractor_sha256": "ab" * 32, "shape": (8, 8, 1), "num_levels": 17}


def measured(statistics=STATISTICS, samples=SAMPLES, logits=LOGITS, metrics=tuple(METRICS), **changed):
    return measure_features(samples, logits, statistics, **OWN | {"metrics": metrics} | changed)


def test_every_metric_is_that_of_its_function_with_its_interval_and_protocol():
    found = measured()
    kid = kernel_distance(SAMPLES, REFERENCE, subset_size=120)
    score = inception_score(LOGITS)
    frechet = frechet_interval(SAMPLES, STATISTICS.moments)
    infinity = extrapolated_frechet(SAMPLES, STATISTICS.moments)
    sliced, energy = sliced_wasserstein(SAMPLES, REFERENCE), energy_distance(SAMPLES, REFERENCE)
    shares = precision_recall(SAMPLES, REFERENCE)._asdict() | density_coverage(SAMPLES, REFERENCE)._asdict()
    expected = {name: (share.value, share.std_error) for name, share in shares.items()} | {
        "frechet": (frechet.distance, frechet.std_error),
        "frechet_infinity": (infinity.value, infinity.std_error),
        "kid": (kid.value, kid.std_error_samples),
        "inception_score": (score.mean, score.std_error),
        "sliced_wasserstein": (sliced.value, sliced.std_error),
        "energy": (energy.value, energy.std_error_samples),
    }
    assert {name: (result.value, result.std_error) for name, result in found.items()} == expected
    for name, result in found.items():
        assert result.protocol.metric == name and result.protocol.num_samples == 120
        assert result.interval[0] < result.interval[1]
        assert MetricResult.from_json(result.to_json()) == result
    assert found["frechet"].interval == (frechet.low, frechet.high)
    assert found["frechet"].protocol.reference_sha256 == STATISTICS.sha256


def test_two_models_are_compared_and_the_inception_score_whatever_the_reference():
    a, b = measured(sample_seed=1), measured(samples=SAMPLES + 0.5, sample_seed=2)
    difference, error = compare(b["frechet"], a["frechet"])
    assert difference > 3 * error > 0
    other = dataclasses.replace(STATISTICS, split="test")
    c = measured(other)
    compare(a["inception_score"], c["inception_score"])
    with pytest.raises(UserError, match="reference_sha256"):
        compare(a["frechet"], c["frechet"])


def test_images_are_measured_without_an_extractor():
    images = np.random.RandomState(1).randint(0, 17, (60, 4, 4, 1)).astype(np.uint8)
    flat = images.reshape(60, 16)
    statistics = dataclasses.replace(
        STATISTICS,
        moments=moments(flat),
        features_subset=flat,
        extractor=PIXELS,
        extractor_sha256=PIXELS,
        shape=(4, 4, 1),
    )
    found = measure_pixels(
        images, statistics, shape=(4, 4, 1), num_levels=17, metrics=("frechet", "sliced_wasserstein")
    )
    assert found["frechet"].value == pytest.approx(0.0, abs=1e-9)
    assert found["sliced_wasserstein"].value == 0.0
    with pytest.raises(UserError, match="the extractor is pixels"):
        measure_pixels(images, STATISTICS, shape=(8, 8, 1), num_levels=17)


def test_fewer_samples_than_dimensions_are_measured_with_a_warning():
    wide = np.random.RandomState(2).randn(90, 60)
    statistics = dataclasses.replace(STATISTICS, moments=moments(wide), features_subset=None)
    few = measured(statistics, samples=wide[:50], metrics=("frechet", "frechet_infinity"))
    for result in few.values():
        assert np.isfinite(result.value)
        assert "frechet_infinity" in result.details["warnings"][0]
    for result in measured(statistics, samples=wide[:70], metrics=("frechet", "frechet_infinity")).values():
        assert "70 samples are at most twice the 60 dimensions" in result.details["warnings"][0]
    assert measured(metrics=("frechet",))["frechet"].details["warnings"] == []


def test_what_a_foreign_reference_does_not_say_is_said():
    foreign = dataclasses.replace(STATISTICS, extractor_sha256=NOT_STATED, shape=None, num_levels=None, count=None)
    warnings = measured(foreign, metrics=("frechet",))["frechet"].details["warnings"]
    assert len(warnings) == 2 and all(NOT_STATED in line for line in warnings)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"metrics": ("frechett",)}, "Did you mean 'frechet'"),
        ({"extractor": "other"}, "the extractor is other of the samples and net"),
        ({"extractor_sha256": "cd" * 32}, "weights is cdcd.* of the samples and abab"),
        ({"samples": SAMPLES[:, :4]}, "the number of features is 4 of the samples and 5"),
        ({"samples": np.where(SAMPLES > 2.5, np.nan, SAMPLES)}, "of 120 sample features hold NaN"),
        ({"shape": (32, 32, 3)}, r"the shape is \(32, 32, 3\) of the samples and \(8, 8, 1\)"),
        ({"num_levels": 256}, "the number of levels is 256"),
        ({"logits": None}, "none were given"),
        ({"logits": LOGITS[:7]}, "those of 7 were given"),
    ],
)
def test_what_does_not_belong_together_is_refused(changed, message):
    with pytest.raises(UserError, match=message):
        measured(**changed)


@pytest.mark.parametrize("metric", ["kid", "precision_recall", "density_coverage", "sliced_wasserstein", "energy"])
def test_metrics_of_single_examples_ask_for_the_references(metric):
    with pytest.raises(UserError, match=f"{metric} compares single examples"):
        measured(dataclasses.replace(STATISTICS, features_subset=None), metrics=(metric,))
