"""Streamed and merged moments against one pass, and the Fréchet distance where covariances are singular."""

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.metrics import FrechetTarget, Moments, MomentsAccumulator, frechet_distance, moments
from score_sde.metrics.frechet import distances_without


@pytest.mark.parametrize("sizes", [(1, 1, 98), (50, 50), (7, 0, 93)])
def test_merging_hosts_gives_the_moments_of_one_pass(sizes):
    x = np.random.RandomState(0).randn(100, 5) * 3.0 + 1e4  # a mean that would drown E[x^2] - E[x]^2
    whole = MomentsAccumulator()
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        host = MomentsAccumulator()
        for batch in np.array_split(part, 2):
            host.add(batch)
        whole.merge(host)
    found = whole.moments()
    assert found.num_examples == 100
    np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-10, atol=1e-12 * 9.0)


def test_merging_is_commutative_and_leaves_the_other_alone():
    rng = np.random.RandomState(1)
    x, y = rng.randn(30, 4), rng.randn(20, 4) + 1.0
    a, b, c, d = (MomentsAccumulator() for _ in range(4))
    a.add(x), b.add(y), c.add(x), d.add(y)
    before = b.moments()
    a.merge(b)
    d.merge(c)
    np.testing.assert_allclose(a.moments().covariance, d.moments().covariance, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(before.covariance, b.moments().covariance)


def test_single_precision_is_accumulated_in_double():
    x = np.full((20_000, 1), 0.1, np.float32)
    assert moments(x).mean[0] == np.float64(np.float32(0.1))


def test_examples_of_another_dimension_and_no_examples_are_refused():
    accumulator = MomentsAccumulator()
    with pytest.raises(UserError, match="no examples"):
        accumulator.moments()
    accumulator.add(np.zeros((2, 3)))
    with pytest.raises(UserError, match="4 dimensions were given to moments of 3"):
        accumulator.add(np.zeros((2, 4)))
    with pytest.raises(UserError, match="between 4 and 3"):
        frechet_distance(moments(np.zeros((2, 3))), moments(np.zeros((2, 4))))


@pytest.mark.parametrize("rank_a, rank_b", [(3, 3), (3, 60), (60, 3), (2, 5)])
def test_singular_covariances_that_commute_have_the_distance_of_their_spectra(rank_a, rank_b):
    # C = U diag(v) U^T on one basis: the distance is sum (sqrt(v_a) - sqrt(v_b))^2, in exact arithmetic.
    rng = np.random.RandomState(2)
    basis, _ = np.linalg.qr(rng.randn(60, 60))
    spectra = [np.where(np.arange(60) < rank, rng.gamma(1.0, 3.0, 60), 0.0) for rank in (rank_a, rank_b)]
    a, b = (Moments(np.zeros(60), (basis * values) @ basis.T, 4) for values in spectra)
    exact = np.sum((np.sqrt(spectra[0]) - np.sqrt(spectra[1])) ** 2)
    assert abs(frechet_distance(a, b) / exact - 1) < 1e-12
    assert abs(frechet_distance(b, a) / exact - 1) < 1e-12


def test_fewer_examples_than_dimensions_have_the_distance_of_their_singular_values():
    # tr (A^{1/2} B A^{1/2})^{1/2} is the nuclear norm of the product of any factors, here the centered examples.
    rng = np.random.RandomState(3)
    x, y = rng.randn(10, 80), rng.randn(15, 80) * 2.0 + 0.5
    factors = [(z - z.mean(axis=0)).T / np.sqrt(len(z) - 1) for z in (x, y)]
    nuclear = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    gap = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    exact = gap + sum(np.sum(factor**2) for factor in factors) - 2 * nuclear
    found = frechet_distance(moments(x), moments(y))
    assert isinstance(found, float)
    assert abs(found / exact - 1) < 1e-10


def test_the_influence_is_the_derivative_of_the_distance_in_the_weight_of_an_example():
    rng = np.random.RandomState(4)
    x, target = rng.randn(200, 4) * 1.3, FrechetTarget(Moments(np.full(4, 0.2), np.diag([1.0, 2.0, 3.0, 4.0]), 9))

    def weighted(weights):
        mean = weights @ x
        centered = x - mean
        return target.distance(Moments(mean, (centered * weights[:, None]).T @ centered, 200))

    uniform, step = np.full(200, 1 / 200), 1e-5
    covariance = np.cov(x.T, bias=True)
    influence = target.influence(x, Moments(x.mean(axis=0), covariance, 200))
    for i in (0, 17, 150):
        shifted = [weighted((1 - e) * uniform + e * np.eye(200)[i]) for e in (step, -step)]
        assert abs((shifted[0] - shifted[1]) / (2 * step) - influence[i]) < 1e-5 * np.abs(influence).max()


def test_leaving_out_groups_is_computing_without_them():
    rng = np.random.RandomState(5)
    x, groups = rng.randn(60, 3), np.arange(60) % 4
    target = FrechetTarget(Moments(np.ones(3), np.eye(3), 1))
    found = list(distances_without(x, groups, moments(x), target.distance))
    expected = [target.distance(moments(x[groups != group])) for group in range(4)]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
