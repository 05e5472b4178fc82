"""Discrete and continuous: round trips, and what bits per dimension mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.keys import example_keys
from score_sde.likelihood import Quantization, UniformDequantizer, dequantize_with, importance_weighted


@pytest.mark.parametrize("num_grey_levels", [2, 17, 256])
@pytest.mark.parametrize("centered", [True, False])
def test_every_level_survives_the_round_trip(num_grey_levels, centered, key):
    quantization = Quantization(num_grey_levels=num_grey_levels, centered=centered)
    levels = np.tile(np.arange(num_grey_levels), (50, 1))
    np.testing.assert_array_equal(quantization.quantize(quantization.midpoints(jnp.asarray(levels))), levels)
    x = quantization.dequantize(key, jnp.asarray(levels))
    assert float(x.min()) >= (-1.0 if centered else 0.0) and float(x.max()) <= 1.0
    assert np.mean(quantization.quantize(x) == levels) > 0.999  # but for rounding at the edge of a bin


@pytest.mark.parametrize("num_grey_levels", [17, 256])
@pytest.mark.parametrize("centered", [True, False])
def test_uniform_density_costs_log2_levels_bits(num_grey_levels, centered):
    """A model that knows nothing has the uniform density, and needs log2 K bits for K levels."""
    quantization = Quantization(num_grey_levels=num_grey_levels, centered=centered)
    dim = 6
    logp = -dim * jnp.log(jnp.full((1,), quantization.width))
    np.testing.assert_allclose(quantization.bits_per_dim(logp, dim), np.log2(num_grey_levels), rtol=1e-6)


def test_dequantized_density_bounds_the_discrete_likelihood(key):
    """Jensen: -E log p(x + u) >= -log of the probability of the bin, for a density that varies within it."""
    quantization = Quantization(num_grey_levels=4)
    levels = jnp.zeros((200_000, 1), jnp.int32)
    x = quantization.dequantize(key, levels)  # uniform on [-1, -1/2]
    logp = jnp.log(jnp.where(x[:, 0] < -0.75, 1.6, 0.1))  # of mass 0.4 + 0.025 in this bin
    bits = float(quantization.bits_per_dim(logp, 1).mean())
    assert bits > -np.log2(0.425)
    np.testing.assert_allclose(bits, -(np.log2(1.6) + np.log2(0.1)) / 2 + 1.0, rtol=1e-2)


def test_continuous_data_pass_unchanged(key):
    quantization = Quantization(num_grey_levels=None)
    x = jax.random.normal(key, (3, 2))
    np.testing.assert_array_equal(quantization.dequantize(key, x), x)
    np.testing.assert_array_equal(quantization.quantize(x), x)
    assert quantization.offset == 0.0


def test_a_place_in_the_bin_is_kept_by_scaling():
    quantization = Quantization(num_grey_levels=8)
    levels, u = jnp.array([[0, 3, 7]]), jnp.array([[0.25, 0.5, 0.75]])
    x = quantization.place(levels, u)
    np.testing.assert_allclose((x + 1.0) * 4.0, levels + u, rtol=1e-6)
    np.testing.assert_array_equal(quantization.place(levels, jnp.full((1, 3), 0.5)), quantization.midpoints(levels))


def test_continuous_data_have_no_bins():
    with pytest.raises(UserError, match="continuous and have no bins"):
        Quantization(num_grey_levels=None).place(jnp.zeros((1, 2)), jnp.zeros((1, 2)))


def _half_normal_log_weights(key, draws, examples):
    """Under uniform noise the log-weights of the upper of two bins of a model N(0, 0.3^2), and its log-probability."""
    quantization = Quantization(num_grey_levels=2)
    levels = jnp.ones((draws * examples, 1), jnp.int32)
    x, log_q = dequantize_with(quantization, UniformDequantizer(), {}, example_keys(key, levels), levels)
    log_weights = jax.scipy.stats.norm.logpdf(x[:, 0], scale=0.3) - log_q  # bins have length 1: |dx/du| = 1
    return log_weights.reshape(draws, examples), np.log(0.5)


def test_more_draws_bring_the_bound_closer_and_many_close_it(key):
    log_weights, exact = _half_normal_log_weights(key, 256, 2000)
    bounds = []
    for count in (1, 2, 4, 16, 64, 256):
        values = importance_weighted(log_weights[:count])
        bounds.append(float(values.mean()))
        assert float(values.std()) / np.sqrt(2000) < 0.04
    assert np.all(np.diff(bounds) > 0.0)
    assert bounds[0] < exact - 0.8  # what uniform noise costs is 0.87 nats
    assert exact - 0.02 < bounds[-1] < exact + 0.005


def test_weights_that_are_all_equal_are_the_bound_itself():
    np.testing.assert_allclose(importance_weighted(jnp.full((7, 3), -400.0)), -400.0)
    np.testing.assert_allclose(importance_weighted(jnp.full((3, 7), 400.0), axis=1), 400.0)
