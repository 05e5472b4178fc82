"""A page subtracts numbers if and only if the metrics do."""

import json

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.metrics import compare
from score_sde.metrics.protocol import MetricResult
from score_sde.report.quantities import unlike
from tests.report.runs import some_metrics


def test_what_is_comparable_is_what_the_metrics_call_so():
    rng = np.random.default_rng(3)
    base = some_metrics(0)["frechet"]
    for _ in range(20):
        other = json.loads(json.dumps(base))
        for name in rng.choice(["seed", "num_samples", "extractor_sha256", "reference_count"], 2, replace=False):
            value = other["protocol"][name]
            other["protocol"][name] = (
                (value + 1 if isinstance(value, int) else value + "0") if rng.random() < 0.5 else value
            )
        differing = [line.split()[0] for line in unlike(base["protocol"], other["protocol"])]
        pair = [MetricResult.from_json(json.dumps(each)) for each in (base, other)]
        if not differing:
            compare(*pair)
            continue
        with pytest.raises(UserError) as caught:
            compare(*pair)
        assert all(name in str(caught.value) for name in differing)


def test_a_protocol_is_the_same_in_the_spelling_of_older_files():
    old, new = ({"protocol": f"flow, uniform dequanti{letter}ation x1, 17 levels"} for letter in "sz")
    assert not unlike(old, new)
    other = {"protocol": "flow, variational dequantization x1, 17 levels"}
    assert unlike(old, other) == ["protocol (uniform dequantization x1 and variational dequantization x1)"]
