"""An interval stands beside the estimate that it belongs to, on the terminal as on the page; warnings are said."""

import json
import re

import numpy as np
import pytest

from score_sde.metrics import ReferenceStatistics, measure_features, moments
from score_sde.modes import evaluating
from score_sde.report.quantities import metric_quantities

METRICS = ("frechet", "frechet_infinity", "kid", "precision_recall", "sliced_wasserstein", "energy")


@pytest.fixture(scope="module")
def results():
    """Of too few samples in many dimensions, where the plain Fréchet distance is far from what it estimates."""
    rng = np.random.default_rng(0)
    data, samples = rng.normal(size=(400, 64)), rng.normal(size=(60, 64)) + 0.1
    reference = ReferenceStatistics(
        moments=moments(data), features_subset=data[:200].astype(np.float32), extractor="net",
        extractor_sha256="ab" * 32, source="toy", split="train", count=400, shape=(8, 8, 1), num_levels=None,
    )  # fmt: skip
    options = {"extractor": "net", "extractor_sha256": "ab" * 32, "shape": (8, 8, 1), "num_levels": None}
    found = measure_features(samples.astype(np.float32), None, reference, metrics=METRICS, **options)
    return {name: json.loads(result.to_json()) for name, result in found.items()}


def test_every_line_has_one_estimator(results):
    low, high = results["frechet"]["interval"]
    assert not low <= results["frechet"]["value"] <= high  # which is why
    numbers = r"(-?[\d.]+)(?: \+- [\d.]+)?(?: \((-?[\d.]+) to (-?[\d.]+)\))?$"
    shown = [re.search(numbers, each.line).groups() for each in metric_quantities(results)]
    intervals = [tuple(map(float, found)) for found in shown if found[1] is not None]
    assert len(intervals) == len(results)
    assert all(low <= value <= high for value, low, high in intervals)


def test_every_row_of_the_page_has_one_estimator(results):
    rows = metric_quantities(results)
    intervals = [row.found for row in rows if row.found.interval is not None]
    assert len(intervals) == len(results)
    assert all(found.interval[0] <= found.value <= found.interval[1] for found in intervals)
    assert {row.key: row.found.value for row in rows}["metric.frechet"] == results["frechet"]["value"]
    assert len({row.key for row in rows}) == len(rows)


def test_warnings_are_said_once_where_the_numbers_are(results, caplog):
    caplog.set_level("INFO")
    evaluating._tell({"loss": 0.5, "loss_std_error": 0.1, "step": 3, "metrics": results})
    said = [line for line in caplog.messages if "singular covariance" in line]
    assert len(said) == 1 and "60 samples" in said[0]


def test_one_example_has_no_error_that_could_be_said(caplog):
    caplog.set_level("INFO")
    evaluating._tell({"loss": 0.5, "loss_std_error": float("nan"), "step": 3})
    assert caplog.messages == ["Test loss 0.50000 (of one example, without an error) at step 3."]
