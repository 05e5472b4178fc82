"""The statistics of continuous data of any shape, and the data that have none."""

import json

import numpy as np
import pytest

from score_sde.data import ArraySource, DataRecord, SourceInfo, column_statistics, standardizing
from score_sde.errors import UserError

SHAPES = [(3,), (7, 3), (5, 4, 2), (3, 4, 2, 2)]


def source_of(values, num_grey_levels=None):
    return ArraySource(SourceInfo("given", values.shape[1:], num_grey_levels, None), values)


def drawn(shape, count=200):
    """Columns of very different scales; the last has a mean that is large beside its spread."""
    scales, means = 10.0 ** np.linspace(-3, 3, shape[-1]), np.linspace(0.0, 5000.0, shape[-1])
    values = np.random.RandomState(0).standard_normal((count, *shape)) * scales + scales * means
    return values.astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_standardized_columns_have_mean_0_and_standard_deviation_1(shape):
    values = drawn(shape)
    z = column_statistics(source_of(values)).forward(values.astype(np.float64)).reshape(-1, shape[-1])
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=1e-3)  # a float of 5e6 has steps of 0.5
    np.testing.assert_allclose(z.std(axis=0), 1.0, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 100, 1000])
def test_the_statistics_do_not_depend_on_how_much_is_read_at_once(monkeypatch, chunk):
    source = source_of(drawn((5, 3)))
    whole = column_statistics(source)
    monkeypatch.setattr(standardizing, "_CHUNK", chunk)
    parts = column_statistics(source)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(parts.std, whole.std, rtol=1e-6)


def test_a_constant_column_is_named_with_its_value():
    values = drawn((3,))
    values[:, 1] = 7.5
    with pytest.raises(UserError, match=r"a column of the training split is constant: 1 \(7\.5\).*Leave it out"):
        column_statistics(source_of(values))
    with pytest.raises(UserError, match=r"columns of the training split are constant: 0 \(1\), 1 \(1\), 2 \(1\)"):
        column_statistics(source_of(np.ones((4, 5, 3), np.float32)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    values = drawn((7, 3))
    values[11, 2, 1] = bad
    with pytest.raises(UserError, match="given: example 11 of a batch is not finite"):
        column_statistics(source_of(values))


def test_gray_levels_have_a_scale_of_their_own():
    with pytest.raises(UserError, match=r"256 gray levels.*data\.standardize=none"):
        column_statistics(source_of(np.zeros((3, 4, 4, 1), np.uint8), 256))


def test_a_record_has_every_bit_of_the_statistics():
    source = source_of(drawn((7, 3)))
    record = DataRecord.of(source.info, {"train": source}, standardization=column_statistics(source))
    again = DataRecord.from_json(json.loads(json.dumps(record.to_json())))
    assert again.standardization is not None and not record.differences(again)
    np.testing.assert_array_equal(again.standardization.mean, record.standardization.mean)
    np.testing.assert_array_equal(again.standardization.std, record.standardization.std)
    assert "standardization" not in DataRecord.of(source.info, {"train": source}).to_json()


def test_a_record_with_other_statistics_is_of_other_data():
    source = source_of(drawn((7, 3)))
    ours, theirs = (
        DataRecord.of(source.info, {"train": source}, standardization=column_statistics(source_of(drawn((7, 3), n))))
        for n in (200, 100)
    )
    (said,) = ours.differences(theirs)
    assert said.startswith("standardization: fingerprint ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"std": [1.0, 1.0]}, "has shape"), ({"std": [1.0, 0.0, 1.0]}, "above 0"), ({"std": None}, "one number of each")],
)
def test_a_record_with_broken_statistics_is_not_read(changes, words):
    source = source_of(drawn((7, 3)))
    written = DataRecord.of(source.info, {}, standardization=column_statistics(source)).to_json()
    written["standardization"] |= changes
    with pytest.raises((ValueError, KeyError, TypeError), match=words):
        DataRecord.from_json(written)


def test_a_record_of_another_shape_than_its_statistics_is_not_read():
    source = source_of(drawn((7, 3)))
    written = DataRecord.of(source.info, {}, standardization=column_statistics(source)).to_json()
    with pytest.raises(ValueError, match="3 standardized columns and shape"):
        DataRecord.from_json(written | {"shape": [7, 4]})
