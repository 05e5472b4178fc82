"""The Fréchet distance against its closed form, another square root, and the identity of indiscernibles."""

import numpy as np
import pytest
import scipy.linalg

from score_sde.metrics import Moments, frechet_distance, moments


def random_moments(seed, dim=6, rank=None):
    rng = np.random.RandomState(seed)
    factor = rng.randn(dim, rank or 2 * dim)
    return Moments(rng.randn(dim), factor @ factor.T / factor.shape[1], 100)


@pytest.mark.parametrize("rank", [None, 3])
def test_it_is_that_of_the_general_matrix_square_root(rank):
    a, b = random_moments(0), random_moments(1, rank=rank)
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root.real)
    assert abs(frechet_distance(a, b) / expected - 1) < 1e-6
    assert abs(frechet_distance(b, a) / expected - 1) < 1e-6


def test_a_set_has_no_distance_from_itself_even_with_fewer_examples_than_dimensions():
    x = np.random.RandomState(0).randn(5, 20) * 100.0
    assert abs(frechet_distance(moments(x), moments(x))) < 1e-6 * np.var(x)


def test_a_shift_adds_its_square_and_a_scale_the_square_of_the_standard_deviations():
    x = np.random.RandomState(0).randn(500, 3)
    assert abs(frechet_distance(moments(x), moments(x + 2.0)) - 12.0) < 1e-9
    spread = np.trace(moments(x).covariance)
    assert abs(frechet_distance(moments(x), moments(3.0 * x - 2.0 * x.mean(axis=0))) - 4.0 * spread) < 1e-9


def test_moments_are_those_of_the_flattened_examples():
    x = np.random.RandomState(0).randn(50, 2, 3).astype(np.float32)
    found = moments(x)
    np.testing.assert_allclose(found.covariance, np.cov(x.reshape(50, 6).T.astype(np.float64)), rtol=1e-10)
    assert found.num_examples == 50
