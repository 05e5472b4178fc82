"""Sliced Wasserstein and energy distances against closed forms and SciPy's one-dimensional ones."""

import numpy as np
import pytest
import scipy.stats

from score_sde.errors import UserError
from score_sde.metrics import energy_distance, pairs, sliced_wasserstein


def test_in_one_dimension_it_is_the_transport_of_sorted_examples():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 1)), rng.gamma(2.0, size=(60, 1))
    expected = np.mean((np.sort(x, axis=0) - np.sort(y, axis=0)) ** 2)
    assert sliced_wasserstein(x, y, num_projections=3).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n, m", [(60, 90), (41, 77), (100, 40)])
def test_unequal_sizes_are_those_of_sets_repeated_to_a_common_size(n, m):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(n, 3)), rng.gamma(2.0, size=(m, 3))
    common = np.lcm(n, m)
    repeated = sliced_wasserstein(
        np.repeat(x, common // n, axis=0), np.repeat(y, common // m, axis=0), num_projections=20
    )
    assert sliced_wasserstein(x, y, num_projections=20).value == pytest.approx(repeated.value, rel=1e-12)


def test_a_shift_costs_its_square_over_the_dimension():
    x = np.random.default_rng(2).normal(size=(200, 5))
    shift = np.array([3.0, 0.0, 0.0, 4.0, 0.0])
    found = sliced_wasserstein(x, x + shift, num_projections=4000)
    # (theta·shift)^2 is 25 Beta(1/2, 2): mean 5, variance 625 * 2 (d - 1) / (d^2 (d + 2)).
    assert abs(found.value - 5.0) < 4 * np.sqrt(625 * 8 / 175 / 4000)
    assert found.distance == pytest.approx(np.sqrt(found.value))


def test_the_interval_covers_the_distance_of_shifted_and_scaled_gaussians():
    # In one dimension W_2^2 of N(0.5, 1.5^2) and N(0, 1) is 0.25 + 0.25; a large reference stands for the law.
    rng = np.random.default_rng(3)
    reference = scipy.stats.norm.ppf((np.arange(4000) + 0.5) / 4000)[:, None]
    found = [
        sliced_wasserstein(rng.normal(size=(300, 1)) * 1.5 + 0.5, reference, num_projections=1) for _ in range(100)
    ]
    covered = np.mean([f.low <= 0.5 <= f.high for f in found])
    assert 0.86 <= covered
    values = np.array([f.value for f in found])
    assert abs(np.mean([f.std_error for f in found]) / values.std() - 1) < 0.25
    assert abs(np.mean([f.corrected for f in found]) - 0.5) < 4 * values.std() / 10


@pytest.mark.parametrize("block", [7, 2**23])
def test_the_energy_distance_is_scipys_without_the_pairs_of_an_example_with_itself(block, monkeypatch):
    monkeypatch.setattr(pairs, "_BLOCK", block)
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=40), rng.gamma(2.0, size=55)
    biased = scipy.stats.energy_distance(x, y) ** 2
    within = [np.abs(z[:, None] - z).mean() for z in (x, y)]  # over all pairs; those with itself are zero
    unbiased = biased + within[0] - within[0] * 40 / 39 + within[1] - within[1] * 55 / 54
    assert energy_distance(x[:, None], y[:, None]).value == pytest.approx(unbiased, rel=1e-6)


def test_the_energy_distance_of_equal_distributions_has_mean_zero():
    rng = np.random.default_rng(5)
    values = [energy_distance(rng.normal(size=(30, 4)), rng.normal(size=(20, 4))).value for _ in range(300)]
    assert abs(np.mean(values)) < 3.5 * np.std(values) / np.sqrt(300)
    assert min(values) < 0


def test_images_are_flattened_and_bad_ones_refused():
    rng = np.random.default_rng(6)
    x, y = rng.integers(0, 17, (50, 4, 4, 1), np.uint8), rng.integers(0, 17, (60, 4, 4, 1), np.uint8)
    flat = sliced_wasserstein(x.reshape(50, 16), y.reshape(60, 16))
    assert sliced_wasserstein(x, y) == flat
    for measure in (sliced_wasserstein, energy_distance):
        with pytest.raises(UserError, match="16 and 8 dimensions"):
            measure(x, y[:, :2])
        with pytest.raises(UserError, match="50 of 50 samples hold NaN"):
            measure(np.full((50, 2), np.nan), np.zeros((50, 2)))
    with pytest.raises(UserError, match="directions"):
        sliced_wasserstein(x, y, num_projections=0)
