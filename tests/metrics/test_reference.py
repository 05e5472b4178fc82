"""Reference statistics survive their file, those of other systems are read, and broken ones are named."""

import dataclasses

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.metrics import NOT_STATED, ReferenceStatistics, moments, read_statistics, write_statistics

FEATURES = np.random.RandomState(0).randn(40, 6).astype(np.float32)
OURS = ReferenceStatistics(
    moments=moments(FEATURES),
    features_subset=FEATURES[:10],
    extractor="net",
    extractor_sha256="ab" * 32,
    source="digits",
    split="train",
    count=40,
    shape=(8, 8, 1),
    num_levels=17,
)


def test_a_file_gives_back_what_was_written(tmp_path):
    path = tmp_path / "made" / "here.npz"
    write_statistics(path, OURS)
    found = read_statistics(path, extractor="net", count=40, shape=(8, 8, 1))
    assert found.sha256 == OURS.sha256
    np.testing.assert_array_equal(found.moments.covariance, OURS.moments.covariance)
    np.testing.assert_array_equal(found.features_subset, OURS.features_subset)
    for name in ("extractor", "extractor_sha256", "source", "split", "count", "shape", "num_levels"):
        assert getattr(found, name) == getattr(OURS, name)
    assert [p.name for p in path.parent.iterdir()] == ["here.npz"]


def test_the_digest_depends_on_everything(tmp_path):
    changes = [
        {"extractor": "b"}, {"extractor_sha256": "b"}, {"source": "b"}, {"split": "b"}, {"count": 1}, {"shape": None},
        {"num_levels": None}, {"features_subset": None}, {"features_subset": FEATURES[1:11]},
        {"moments": OURS.moments._replace(mean=OURS.moments.mean + 1e-9)},
        {"moments": OURS.moments._replace(covariance=OURS.moments.covariance * 1.1)},
        {"moments": OURS.moments._replace(num_examples=41)},
    ]  # fmt: skip
    digests = {dataclasses.replace(OURS, **change).sha256 for change in [{}, *changes]}
    assert len(digests) == len(changes) + 1


def test_the_originals_features_are_read(tmp_path):
    path = tmp_path / "cifar10_stats.npz"
    np.savez(path, pool_3=FEATURES, logits=FEATURES)
    found = read_statistics(path, extractor="inception", source="cifar10", split="train")
    assert (found.count, found.extractor, found.extractor_sha256, found.shape) == (40, "inception", NOT_STATED, None)
    np.testing.assert_allclose(found.moments.covariance, np.cov(FEATURES.T.astype(np.float64)), rtol=1e-12)
    np.testing.assert_array_equal(found.features_subset, FEATURES)
    with pytest.raises(UserError, match="40 examples, and a count of 50000"):
        read_statistics(path, extractor="inception", count=50000)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_means_and_covariances_of_others_are_read(tmp_path, dtype):
    path = tmp_path / "edm.npz"
    np.savez(path, mu=OURS.moments.mean.astype(dtype), sigma=OURS.moments.covariance.astype(dtype))
    found = read_statistics(path, extractor="inception", count=50000)
    assert (found.count, found.moments.num_examples, found.features_subset) == (50000, 50000, None)
    assert found.moments.mean.dtype == np.float64
    np.testing.assert_allclose(found.moments.mean, OURS.moments.mean, rtol=1e-6)
    assert read_statistics(path, extractor="inception").count is None
    with pytest.raises(UserError, match="does not say which extractor"):
        read_statistics(path)


def nan(array):
    return np.where(np.arange(array.size).reshape(array.shape) == 1, np.nan, array)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"a": np.zeros(3)}, "none of the arrays"),
        ({"mu": np.zeros(3)}, r"found of them: \['mu'\]"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"mean of shape \(3,\) and a covariance of \(4, 4\)"),
        ({"mu": np.zeros((1, 3)), "sigma": np.eye(3)}, r"mean of shape \(1, 3\)"),
        ({"mu": np.zeros(3), "sigma": nan(np.eye(3))}, "1 numbers .* NaN"),
        ({"mu": np.array(["a", "b"]), "sigma": np.eye(2)}, "expected numbers"),
        ({"pool_3": nan(np.zeros((5, 3)))}, "1 of 5 features in .* hold NaN"),
        ({"pool_3": np.zeros(5)}, r"shape \(5,\)"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0.4, 1.0]])}, "not symmetric"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [2.0, 1.0]])}, "negative eigenvalues"),
        ({"mu": np.zeros(2), "sigma": np.diag([1.0, -1e-3])}, "negative eigenvalues"),
        ({"mu": np.zeros(2), "sigma": np.full((2, 2), 1e300)}, "too large"),
    ],
)
def test_arrays_that_are_no_statistics_are_refused(tmp_path, arrays, message):
    path = tmp_path / "file.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=message):
        read_statistics(path, extractor="inception")


def test_a_covariance_of_few_examples_in_single_precision_is_one(tmp_path):
    """It is singular, and rounding makes some of its eigenvalues negative."""
    features = np.random.RandomState(1).randn(20, 64) * np.geomspace(1e-3, 1e3, 64)
    for number, covariance in enumerate((np.cov(features.T), np.zeros((64, 64)))):
        path = tmp_path / f"{number}.npz"
        np.savez(path, mu=np.zeros(64, np.float32), sigma=covariance.astype(np.float32))
        read_statistics(path, extractor="inception")


def test_files_that_are_missing_damaged_pickled_or_not_archives_are_refused(tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        read_statistics(tmp_path / "absent.npz")
    path = tmp_path / "file.npz"
    write_statistics(path, OURS)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not an archive"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot be read \(.*expected reference statistics"):
            read_statistics(path)
    np.savez(path, mu=np.array([{}], dtype=object), sigma=np.eye(1))
    with pytest.raises(UserError, match="objects of Python"):
        read_statistics(path, extractor="inception")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match="a bare array"):
        read_statistics(tmp_path / "one.npy")
    with pytest.raises(UserError, match="file name too long"):
        read_statistics(tmp_path / ("long" * 1000))


def test_a_file_of_ours_that_was_altered_is_refused(tmp_path):
    path = tmp_path / "file.npz"
    write_statistics(path, OURS)
    with np.load(path) as archive:
        arrays = dict(archive)
    for change in ({"mean": arrays["mean"] + 1.0}, {"about": np.array("{}")}, {"about": np.array("[1]")}):
        np.savez(path, **arrays | change)
        with pytest.raises(UserError, match="again"):
            read_statistics(path)
    arrays.pop("covariance")
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="not whole"):
        read_statistics(path)


def test_what_a_caller_says_must_agree_with_the_file(tmp_path):
    path = tmp_path / "file.npz"
    write_statistics(path, OURS)
    for argument in (
        {"extractor": "other"},
        {"shape": (32, 32, 3)},
        {"count": 9},
        {"num_levels": 2},
        {"split": "test"},
    ):
        with pytest.raises(UserError, match=f"has {next(iter(argument))} "):
            read_statistics(path, **argument)


def test_statistics_that_are_not_finite_are_not_written(tmp_path):
    broken = dataclasses.replace(OURS, moments=OURS.moments._replace(mean=nan(OURS.moments.mean)))
    with pytest.raises(UserError, match="NaN"):
        write_statistics(tmp_path / "file.npz", broken)
    assert not list(tmp_path.iterdir())
