"""Gray levels under a Gaussian: probabilities that sum to one, from the narrowest Gaussian to the widest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from score_sde.errors import UserError
from score_sde.quantization import Quantization
from score_sde.variational.bins import log_bin_probability

STDS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
each_scale = pytest.mark.parametrize("centered", [True, False])
each_count = pytest.mark.parametrize("num_grey_levels", [2, 17, 256])


log_probability = jax.jit(log_bin_probability)


@jax.jit
def table(quantization, means, std):
    """Log-probabilities of all levels under every mean."""
    x = quantization.midpoints(jnp.arange(quantization.num_grey_levels))
    return jax.vmap(lambda mean: log_bin_probability(x, mean - x, std, quantization))(means)


@each_scale
@each_count
@pytest.mark.parametrize("std", STDS)
def test_probabilities_sum_to_one_and_hold_in_the_tails(num_grey_levels, centered, std):
    """Also where the mean lies outside all bins, against differences in double precision."""
    quantization = Quantization(num_grey_levels=num_grey_levels, centered=centered)
    means = jnp.linspace(-1.5, 1.5, 301)
    logs = np.asarray(table(quantization, means, std), np.float64)
    # Values and means are rounded to single precision, so the edges of neighboring bins differ a little.
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1.0, atol=1e-6 + 6e-8 / std)
    assert np.isfinite(logs).all() and (logs <= 1e-6).all()
    edges = np.linspace(-1.0 if centered else 0.0, 1.0, num_grey_levels + 1)
    edges[[0, -1]] = -np.inf, np.inf
    scaled = (edges[None] - np.asarray(means, np.float64)[:, None]) / std
    low, high = scaled[:, :-1], scaled[:, 1:]
    upper_tail = low + high > 0  # where the distribution function is close to one, turn the line around
    low, high = np.where(upper_tail, -high, low), np.where(upper_tail, -low, high)
    exact = special.log_ndtr(high) + np.log(-np.expm1(special.log_ndtr(low) - special.log_ndtr(high)))
    # In the tail the logarithm changes by the distance from the top times that.
    rounding = 1.5e-7 / std * (1.0 + np.sqrt(-2.0 * exact))
    assert (np.abs(logs - exact) < 1e-6 * (1.0 - exact) + rounding).all()


@each_scale
def test_of_fine_bins_it_is_the_density_times_the_width(centered):
    """The next term is of second order in the width over the std."""
    gaps = []
    for num_grey_levels in (32, 64, 128):
        quantization = Quantization(num_grey_levels=num_grey_levels, centered=centered)
        x = np.asarray(quantization.midpoints(jnp.arange(num_grey_levels)), np.float64)
        mean, std = 0.3, 0.2
        density = np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2.0 * np.pi))
        probability = np.exp(np.asarray(table(quantization, jnp.full(1, mean), std)[0], np.float64))
        inner = slice(1, -1)
        gaps.append(np.abs(probability * num_grey_levels / quantization.width - density)[inner].max())
    assert 3.5 < gaps[0] / gaps[1] < 4.5 and 3.5 < gaps[1] / gaps[2] < 4.5, gaps


def test_where_in_the_bin_a_value_lies_makes_no_difference():
    quantization = Quantization(num_grey_levels=17)
    levels = jnp.arange(17)[None]
    middle, other = quantization.midpoints(levels), quantization.dequantize(jax.random.key(0), levels)
    logs = [log_probability(x, 0.1 - x, 0.05, quantization) for x in (middle, other)]
    np.testing.assert_allclose(*logs, rtol=1e-4, atol=1e-5)


def test_the_shift_keeps_its_digits_beside_a_small_std():
    """At a std of 1e-4 a mean near 1 would be off by its own rounding."""
    quantization = Quantization(num_grey_levels=2**15)
    x = quantization.midpoints(jnp.array([2**15 - 2]))
    std, half = 1e-5, 1.0 / 2**15
    for shift in (0.0, 1e-6, -4e-5):
        ours = log_probability(x, jnp.full(1, shift), std, quantization)
        scaled = (np.array([-half, half]) - np.float32(shift)) / std
        exact = np.log(np.diff(special.ndtr(scaled)))
        np.testing.assert_allclose(ours, exact, rtol=2e-4, atol=2e-5)


def test_data_without_levels_are_refused():
    with pytest.raises(UserError, match="no partition"):
        log_bin_probability(jnp.zeros(1), jnp.zeros(1), 1.0, Quantization(num_grey_levels=None))
