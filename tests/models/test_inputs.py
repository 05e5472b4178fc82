"""The forms in which an image enters and leaves a U-Net: with waves beside it, and in patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.fields import DEFAULTS
from score_sde.models.layers import from_patches, to_patches, with_waves
from score_sde.models.ncsnpp import NCSNpp
from score_sde.models.registry import make_network
from score_sde.quantization import Quantization

SMALL = {"features": 8, "channel_multipliers": (1,), "num_blocks": 1, "attention_resolutions": (), "dropout": 0.0}


def test_the_shortest_wave_of_256_levels_is_the_same_at_all_middles_and_tells_places_in_a_bin():
    quantization = Quantization(num_grey_levels=256)
    levels = jnp.arange(256).reshape(1, 16, 16, 1)
    middles = with_waves(quantization.midpoints(levels), (7,))
    assert float(jnp.ptp(middles[..., 1:], axis=(0, 1, 2)).max()) < 1e-3
    beside = with_waves(quantization.place(levels, jnp.full(levels.shape, 0.75)), (7,))
    np.testing.assert_allclose(jnp.abs(beside - middles)[..., 1:].max(), 1.0, atol=1e-3)  # a quarter of the wave


def test_waves_twice_as_long_tell_even_levels_from_odd_ones():
    quantization = Quantization(num_grey_levels=256)
    rows = [with_waves(quantization.midpoints(jnp.arange(k, 256, 2).reshape(1, 8, 16, 1)), (6,)) for k in (0, 1)]
    assert float(jnp.ptp(rows[0][..., 1:], axis=(0, 1, 2)).max()) < 1e-3
    np.testing.assert_allclose(rows[1][..., 1:], -rows[0][..., 1:], atol=1e-3)  # half a wave


@pytest.mark.parametrize("sigma", [0.003, 0.03, 0.3])
def test_a_damped_wave_is_the_mean_of_the_wave_over_noise(sigma):
    nodes = np.linspace(-7.0, 7.0, 1001)  # the trapezoidal rule of N(0, 1), to all digits
    weights = np.exp(-0.5 * nodes**2)
    x, n = jnp.linspace(-1.0, 1.0, 9).reshape(1, 3, 3, 1), (0, 1, 2, 3)
    noisy = jnp.stack([with_waves(x + sigma * z, n) for z in nodes])
    mean = jnp.tensordot(jnp.asarray(weights / weights.sum(), jnp.float32), noisy, axes=1)
    np.testing.assert_allclose(with_waves(x, n, jnp.log(jnp.array([sigma]))), mean, atol=1e-5)


def test_a_damped_wave_never_grows_by_more_than_the_noise_allows():
    x, n = jnp.linspace(-1.0, 1.0, 400).reshape(1, 20, 20, 1), tuple(range(-4, 13))
    for log_noise in np.linspace(-8.0, 3.0, 23):
        _, slope = jax.jvp(lambda x: with_waves(x, n, jnp.full(1, log_noise)), (x,), (jnp.ones_like(x),))  # noqa: B023
        # w exp(-(w sigma)^2 / 2) is greatest at w = 1 / sigma.
        assert float(jnp.abs(slope[..., 1:]).max()) * np.exp(log_noise) <= np.exp(-0.5) + 1e-5


def test_a_network_damps_by_the_noise_of_the_images_as_it_sees_them():
    waves = {**SMALL, "input_frequencies": (0, 2), "damped_waves": True, "embedding": "none"}
    centered, unit = NCSNpp(**waves), NCSNpp(**waves, rescale_input=True)
    x, log_noise = jnp.asarray(np.random.RandomState(0).rand(1, 8, 8, 1), jnp.float32), jnp.array([-2.0])
    shapes = jax.eval_shape(lambda: unit.init(jax.random.key(0), x, log_noise))
    rng = np.random.RandomState(1)
    params = jax.tree.map(lambda p: jnp.asarray(0.3 * rng.randn(*p.shape), jnp.float32), shapes)
    twice = centered.apply(params, 2.0 * x - 1.0, log_noise + jnp.log(2.0))
    np.testing.assert_allclose(unit.apply(params, x, log_noise), twice, atol=1e-5)
    assert float(jnp.abs(centered.apply(params, 2.0 * x - 1.0, log_noise) - twice).max()) > 1e-3


def test_a_patch_holds_its_own_pixels_and_nothing_else():
    x = jnp.arange(2 * 6 * 4 * 3.0).reshape(2, 6, 4, 3)
    patches = to_patches(x, 2)
    for row in range(3):
        for column in range(2):
            square = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_array_equal(patches[:, row, column], square.reshape(2, -1))
    np.testing.assert_array_equal(from_patches(patches, 2), x)


def test_a_network_on_patches_sees_all_of_them_and_gives_images():
    module = NCSNpp(**SMALL, patch_size=2, input_frequencies=(1,))
    x, t = jnp.asarray(np.random.RandomState(0).randn(1, 8, 8, 1), jnp.float32), jnp.ones(1)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, t))
    rng = np.random.RandomState(1)
    params = jax.tree.map(lambda p: jnp.asarray(0.3 * rng.randn(*p.shape), jnp.float32), shapes)
    # Every pixel has a say, and one that is shifted by its wave's length enters as another value still.
    grads = jax.jit(jax.grad(lambda x: jnp.sum(module.apply(params, x, t)[0, 3, 3])))(x)
    assert grads.shape == x.shape and bool((grads != 0.0).all())


def test_images_that_hold_no_whole_number_of_patches_are_padded():
    fields = {**DEFAULTS.model, "name": "ncsnpp", **SMALL, "patch_size": 4}
    network = make_network(fields, (6, 6, 1), num_scales=10, centered=True)

    def output(key, x):
        return network.apply(network.init(key, x.shape), x, jnp.ones(1))

    assert jax.eval_shape(output, jax.random.key(0), jnp.zeros((1, 6, 6, 1))).shape == (1, 6, 6, 1)


@pytest.mark.parametrize("shape", [(2, 6, 3), (2, 4, 2, 6, 2)])
def test_pieces_of_series_and_volumes_are_patches_too(shape):
    x = jnp.arange(float(np.prod(shape))).reshape(shape)
    patches = to_patches(x, 2)
    first = x[tuple([slice(None), *(slice(0, 2) for _ in shape[1:-1])])]
    np.testing.assert_array_equal(patches[(slice(None), *(0 for _ in shape[1:-1]))], first.reshape(2, -1))
    np.testing.assert_array_equal(from_patches(patches, 2), x)
