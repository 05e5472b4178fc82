"""Results keep their protocol through JSON, and unlike protocols are not compared."""

import dataclasses
import json
import math

import pytest

from score_sde.errors import UserError
from score_sde.metrics import MetricProtocol, MetricResult, compare

PROTOCOL = MetricProtocol(
    metric="kid",
    num_samples=1000,
    reference_count=None,
    seed=0,
    extractor="net",
    extractor_sha256="ab" * 32,
    reference_sha256="cd" * 32,
    shape=(8, 8, 1),
    num_levels=17,
    options=(("degree", 3), ("kernel", "polynomial")),
)
RESULT = MetricResult(value=2.0, std_error=0.3, interval=(1.5, 2.5), protocol=PROTOCOL, details={"warnings": ["few"]})


def test_json_gives_back_an_equal_result():
    assert MetricResult.from_json(RESULT.to_json()) == RESULT
    bare = dataclasses.replace(RESULT, std_error=None, interval=None)
    assert MetricResult.from_json(bare.to_json()) == bare


def test_errors_of_independent_models_add_in_squares():
    other = dataclasses.replace(RESULT, value=1.5, std_error=0.4, protocol=dataclasses.replace(PROTOCOL, seed=5))
    assert compare(RESULT, other) == (0.5, 0.5)
    assert compare(RESULT, dataclasses.replace(other, std_error=None)) == (0.5, None)


@pytest.mark.parametrize(
    "changed",
    [
        {"metric": "frechet"},
        {"num_samples": 2000},
        {"reference_count": 50},
        {"extractor": "other", "extractor_sha256": "00" * 32},
        {"reference_sha256": None},
        {"shape": (32, 32, 3)},
        {"num_levels": 256, "options": (("degree", 2),)},
    ],
)
def test_unlike_protocols_are_refused_by_the_names_of_what_differs(changed):
    other = dataclasses.replace(RESULT, protocol=dataclasses.replace(PROTOCOL, **changed))
    with pytest.raises(UserError) as error:
        compare(RESULT, other)
    for field in dataclasses.fields(MetricProtocol):
        assert (f"{field.name} (" in str(error.value)) == (field.name in changed), field.name


def test_what_json_cannot_hold_and_what_it_lacks_are_refused():
    with pytest.raises(UserError, match="finite"):
        dataclasses.replace(RESULT, value=math.nan).to_json()
    for text in ("{", "[1]", '{"value": NaN}', "[" * 100_000):
        with pytest.raises(UserError, match="not JSON"):
            MetricResult.from_json(text)
    fields = json.loads(RESULT.to_json())
    with pytest.raises(UserError, match=r"lacks \['std_error', 'value'\] and has the unknown \['score'\]"):
        MetricResult.from_json(
            json.dumps({k: v for k, v in fields.items() if k not in ("value", "std_error")} | {"score": 1})
        )
    with pytest.raises(UserError, match="MetricProtocol"):
        MetricResult.from_json(json.dumps(fields | {"protocol": []}))


def test_one_line_says_all_that_differs_between_two_protocols():
    assert "\n" not in PROTOCOL.describe()
    variants = [
        {"metric": "frechet"}, {"num_samples": 9}, {"reference_count": 50}, {"seed": 3}, {"extractor": "b"},
        {"extractor_sha256": "00" * 32}, {"reference_sha256": "11" * 32}, {"shape": (1,)},
        {"num_levels": 2}, {"options": ()},
    ]  # fmt: skip
    lines = {dataclasses.replace(PROTOCOL, **change).describe() for change in [{}, *variants]}
    assert len(lines) == len(variants) + 1
