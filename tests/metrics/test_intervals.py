"""Coverage of every interval on distributions whose distance is known, and the bias that extrapolation takes away."""

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.metrics import (
    Moments,
    bootstrap_interval,
    energy_distance,
    extrapolated_frechet,
    frechet_distance,
    frechet_interval,
    inception_score,
    kernel_distance,
    moments,
)
from score_sde.metrics.intervals import jackknife_error, random_groups


def gaussians(dim, scale, shift):
    """A reference N(0, D), the law N(shift, scale^2 D) of samples, and the distance of the two."""
    variances = np.exp(-3.0 * np.arange(dim) / dim)
    reference = Moments(np.zeros(dim), np.diag(variances), 10**9)
    distance = dim * shift**2 + (scale - 1.0) ** 2 * variances.sum()

    def draw(rng, n):
        return rng.normal(size=(n, dim)) * np.sqrt(variances) * scale + shift

    return reference, draw, distance


def binomial_bounds(runs, probability=0.95, errors=3.3):
    """Shares of hits that a right interval keeps to in all but one of a thousand sets of runs."""
    half = errors * np.sqrt(probability * (1 - probability) / runs)
    return probability - half, probability + half


def frechet_coverage(dim, n, scale, shift, runs):
    reference, draw, truth = gaussians(dim, scale, shift)
    rng = np.random.default_rng(dim + n)
    found = [frechet_interval(draw(rng, n), reference) for _ in range(runs)]
    return np.mean([f.low <= truth <= f.high for f in found]), found, truth


@pytest.mark.parametrize("dim, n, scale, shift", [(4, 400, 1.3, 0.1), (24, 500, 1.2, 0.1)])
def test_the_frechet_interval_covers_the_distance_of_the_distributions(dim, n, scale, shift):
    covered, found, truth = frechet_coverage(dim, n, scale, shift, 120)
    low, high = binomial_bounds(120)
    assert low <= covered <= high
    errors = np.array([f.distance for f in found]).std()
    assert abs(np.mean([f.std_error for f in found]) / errors - 1) < 0.25
    # What it is needed for: the plain distance is off by many times the error of its mean, the corrected one is not.
    of_mean = errors / np.sqrt(120)
    assert np.mean([f.distance for f in found]) - truth > 4 * of_mean
    assert abs(np.mean([f.corrected for f in found]) - truth) < 4 * of_mean


def test_the_frechet_interval_covers_a_distance_of_zero():
    covered, _, truth = frechet_coverage(8, 400, 1.0, 0.0, 120)
    assert truth == 0.0
    assert covered >= binomial_bounds(120)[0]


@pytest.mark.long
@pytest.mark.parametrize(
    "dim, n, scale, shift", [(8, 500, 1.3, 0.1), (64, 300, 1.2, 0.1), (64, 1000, 1.05, 0.02), (128, 1000, 1.1, 0.05)]
)
def test_the_frechet_interval_covers_in_many_dimensions(dim, n, scale, shift):
    covered, _, _ = frechet_coverage(dim, n, scale, shift, 300)
    assert covered >= 0.92  # a little conservative where n is a few times the dimension


def test_a_bootstrap_of_the_frechet_distance_would_miss_it():
    reference, draw, truth = gaussians(24, 1.2, 0.1)
    rng = np.random.default_rng(0)
    misses = 0
    for _ in range(10):
        x = draw(rng, 300)
        found = bootstrap_interval(
            lambda z: frechet_distance(reference, moments(z)), x, num_resamples=100, method="percentile"
        )
        misses += truth < found.low
    assert misses >= 9


@pytest.mark.parametrize("dim, n", [(64, 640), (96, 900)])
def test_extrapolation_takes_away_the_bias_of_few_samples(dim, n):
    reference, draw, truth = gaussians(dim, 1.2, 0.1)
    found = extrapolated_frechet(draw(np.random.default_rng(1), n), reference)
    assert found.distances[0] - truth > 2.5 * found.std_error
    assert abs(found.value - truth) < 3 * found.std_error
    assert found.slope > 0 and list(found.distances) == sorted(found.distances)


def test_extrapolation_errors_cover():
    reference, draw, truth = gaussians(12, 1.2, 0.1)
    rng = np.random.default_rng(2)
    found = [extrapolated_frechet(draw(rng, 300), reference) for _ in range(120)]
    covered = np.mean([abs(f.value - truth) < 1.96 * f.std_error for f in found])
    low, high = binomial_bounds(120)
    assert low <= covered <= high
    naive = np.array([f.distances[0] for f in found])
    assert naive.mean() - truth > 10 * naive.std() / np.sqrt(120)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_kernel_and_energy_intervals_cover_for_equal_and_for_unlike_distributions(shift):
    rng = np.random.default_rng(3)
    runs, hits = 150, np.zeros(2)
    # E (x·y/2 + 1)^3 over two independent Gaussians of means a, b: with s = x·y/2, 1 + 3 E s + 3 E s^2 + E s^3.
    mean = np.array([shift, 0.0])

    def expected(a, b):
        s1 = a @ b / 2
        s2 = (2 + a @ a + b @ b) / 4 + s1**2
        s3 = s1**3 + 3 * s1 * (2 + a @ a + b @ b) / 4 + 6 * s1 / 4
        return 1 + 3 * s1 + 3 * s2 + s3

    zero = np.zeros(2)
    kid = expected(mean, mean) + expected(zero, zero) - 2 * expected(mean, zero)
    big = rng.normal(size=(2, 10**6, 2))  # the energy distance, by a large sample: its error is 1e-3 of a run's
    lengths = [np.linalg.norm(big[0] - big[1] + np.array([s, 0.0]), axis=1).mean() for s in (shift, 0.0)]
    truths = (kid, 2 * (lengths[0] - lengths[1]))
    for _ in range(runs):
        x, y = rng.normal(size=(150, 2)) + mean, rng.normal(size=(120, 2))
        for i, found in enumerate((kernel_distance(x, y, num_subsets=1, subset_size=2), energy_distance(x, y))):
            hits[i] += found.low <= truths[i] <= found.high
    assert (hits / runs >= binomial_bounds(runs)[0]).all(), hits / runs


def test_the_error_over_samples_is_the_spread_over_fresh_samples_with_the_reference_held():
    rng = np.random.default_rng(4)
    y = rng.normal(size=(100, 3))
    found = [energy_distance(rng.normal(size=(100, 3)) + 0.5, y) for _ in range(200)]
    spread = np.std([f.value for f in found], ddof=1)
    assert abs(np.mean([f.std_error_samples for f in found]) / spread - 1) < 0.2
    assert np.mean([f.std_error for f in found]) > 1.2 * spread


def test_the_interval_of_the_inception_score_covers_its_mean():
    rng = np.random.default_rng(5)
    found = [inception_score(3.0 * rng.normal(size=(400, 6)), 4) for _ in range(200)]
    truth = np.mean([f.mean for f in found])
    covered = np.mean([f.low <= truth <= f.high for f in found])
    low, high = binomial_bounds(200)
    assert low <= covered <= high


@pytest.mark.parametrize("method", ["percentile", "basic", "bca"])
def test_bootstrap_intervals_cover_a_smooth_function_of_two_means(method):
    rng = np.random.default_rng(6)
    hits = 0
    for seed in range(60):
        x, y = rng.exponential(size=60), rng.exponential(2.0, size=50)
        found = bootstrap_interval(
            lambda a, b: float(a.mean() / b.mean()), x, y, num_resamples=300, method=method, seed=seed
        )
        hits += found.low <= 0.5 <= found.high
    assert hits / 60 >= 0.85


def test_a_constant_has_no_width():
    found = bootstrap_interval(lambda x: float(x.mean()), np.ones(10), num_resamples=20)
    assert (found.value, found.std_error, found.low, found.high) == (1.0, 0.0, 1.0, 1.0)


def test_the_jackknife_of_a_mean_has_its_standard_error():
    x = np.random.default_rng(7).normal(size=200)
    without = np.array([np.delete(x, i).mean() for i in range(200)])
    assert jackknife_error(without) == pytest.approx(x.std(ddof=1) / np.sqrt(200), rel=1e-10)


def test_groups_are_even_and_random():
    groups = random_groups(103, 20, 0)
    assert set(np.bincount(groups)) == {5, 6}
    assert (groups != random_groups(103, 20, 1)).any()


def test_too_little_to_say_an_error_is_refused():
    reference, draw, _ = gaussians(4, 1.0, 0.0)
    x = draw(np.random.default_rng(0), 10)
    for call in (
        lambda: frechet_interval(x, reference),
        lambda: extrapolated_frechet(x, reference, max_parts=6),
        lambda: extrapolated_frechet(x, reference, max_parts=2),
        lambda: bootstrap_interval(lambda z: 0.0, x[:1]),
        lambda: frechet_interval(np.tile(x, (10, 1)), reference, confidence=95.0),
    ):
        with pytest.raises(UserError, match="expected"):
            call()
    with pytest.raises(UserError, match="1 of 100 sample features hold NaN"):
        broken = np.tile(x, (10, 1))
        broken[3, 2] = np.nan
        frechet_interval(broken, reference)
