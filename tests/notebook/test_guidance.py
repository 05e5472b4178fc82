"""Guidance by classes is refused where it would do nothing, or go by a score that nothing was trained to be."""

import pytest

from score_sde.errors import UserError
from tests.notebook.test_programs import untrained

POINTS = {"shape": (3,), "model.name": "mlp"}


@pytest.mark.parametrize(
    ("options", "asked", "message"),
    [
        ({}, {"scale": 2.0}, "scale is 2.0, and the network knows no classes"),
        (
            {"num_classes": 2, "conditioning.null_probability": 0.0},
            {"scale": 2.0},
            "null_probability=0 training never drops a label",
        ),
        (
            {"num_classes": 2, "conditioning.null_probability": 0.0},
            {"labels": [0, -1]},
            r"expected classes from 0 to 1: one, or 2\.",
        ),
    ],
    ids=["no classes", "no score without", "no label without"],
)
def test_guidance_that_means_nothing_is_told(key, options, asked, message):
    with pytest.raises(UserError, match=message):
        untrained(**POINTS, **options).sample(key, 2, **asked)
