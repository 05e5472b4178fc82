"""Resampling against slow filters in float64, and its limits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.models.resampling import (
    Downsample,
    Upsample,
    downsample,
    fir_downsample,
    fir_filter,
    fir_upsample,
    upsample,
)

KERNELS = [(1, 3, 3, 1), (1, 2, 1), (1, 1), (1,), (1, 4, 6, 4, 1), (1, 2, 3), (0.5, -1, 4, 2, 0, 1)]


def _images(seed, *shape):
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), jnp.float32)


def _slow(signal, taps, up, down, pad):
    """One line of pixels, straight from the definition: stuff, pad or crop, convolve, subsample."""
    stuffed = np.zeros(len(signal) * up)
    stuffed[::up] = signal
    padded = np.concatenate([np.zeros(max(pad[0], 0)), stuffed, np.zeros(max(pad[1], 0))])
    padded = padded[max(-pad[0], 0) : len(padded) - max(-pad[1], 0)]
    return np.convolve(padded, taps, mode="valid")[::down]


def _slow_images(x, *args):
    x = np.apply_along_axis(_slow, 1, np.asarray(x, np.float64), *args)
    return np.apply_along_axis(_slow, 2, x, *args)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("taps", KERNELS, ids=str)
@pytest.mark.parametrize(("up", "down", "pad"), [(1, 1, (2, 3)), (2, 1, (3, 2)), (1, 2, (4, 3)), (3, 2, (5, -1))])
def test_the_filter_equals_its_definition(taps, up, down, pad):
    x = _images(0, 2, 7, 6, 3)
    expected = _slow_images(x, np.asarray(taps, np.float64), up, down, pad)
    np.testing.assert_allclose(fir_filter(x, taps, up=up, down=down, pad=pad), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.sweep
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_resampling_is_the_published_filter(kernel):
    # StyleGAN2: p = taps - 2 zeros in all, after the stuffing; gain 4 when doubling.
    x, taps, p = _images(0, 2, 6, 8, 3), np.asarray(kernel, np.float64) / np.sum(kernel), len(kernel) - 2
    down = _slow_images(x, taps, 1, 2, ((p + 1) // 2, p // 2))
    up = _slow_images(x, 2.0 * taps, 2, 1, ((p + 1) // 2 + 1, p // 2))
    assert down.shape == (2, 3, 4, 3) and up.shape == (2, 12, 16, 3)
    np.testing.assert_allclose(fir_downsample(x, kernel), down, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fir_upsample(x, kernel), up, rtol=1e-4, atol=1e-5)


def test_a_constant_image_stays_constant_away_from_the_border():
    x = jnp.ones((1, 16, 16, 1))
    np.testing.assert_allclose(fir_upsample(x, (1, 3, 3, 1))[:, 2:-2, 2:-2], 1.0, rtol=1e-6)
    np.testing.assert_allclose(fir_downsample(x, (1, 3, 3, 1))[:, 1:-1, 1:-1], 1.0, rtol=1e-6)


def test_doubling_and_halving_are_transposes_of_one_another_up_to_the_gain():
    x, y = _images(0, 1, 8, 8, 2), _images(1, 1, 16, 16, 2)
    direct = np.vdot(fir_upsample(x, (1, 3, 3, 1)), y)
    np.testing.assert_allclose(np.vdot(x, fir_downsample(y, (1, 3, 3, 1))), direct / 4.0, rtol=1e-4)


@pytest.mark.sweep
@pytest.mark.parametrize("kernel", [(1, 3, 3, 1), (1, 2, 1), (1, 1), (1, 4, 6, 4, 1)], ids=str)
@pytest.mark.parametrize("module", [Upsample, Downsample])
def test_with_the_identity_as_convolution_only_the_filter_is_left(module, kernel):
    # Both have the same gain, but the fused form pads for a 3x3 kernel too: its centre tap does the rest.
    x = _images(0, 2, 8, 6, 3)
    net = module(with_conv=True, kernel=kernel)
    identity = np.zeros((3, 3, 3, 3), np.float32)
    identity[1, 1] = np.eye(3)
    params = net.init(jax.random.key(0), x)["params"]
    bias = np.float32([1.0, -2.0, 3.0])
    params = (
        {"Conv_0": {**params["Conv_0"], "kernel": identity}, "bias": bias}
        if module is Upsample
        else {"Conv_0": {"kernel": identity, "bias": bias}}
    )
    plain = np.asarray((fir_upsample if module is Upsample else fir_downsample)(x, kernel)) + bias
    np.testing.assert_allclose(net.apply({"params": params}, x), plain, rtol=1e-4, atol=1e-5)


def test_the_fused_doubling_convolves_before_it_filters():
    # A delta in the image must come out as the kernel of the convolution, filtered.
    x = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2].set(1.0)
    net = Upsample(with_conv=True, kernel=(1, 3, 3, 1))
    kernel = _images(0, 3, 3, 1, 1)
    out = net.apply({"params": {"Conv_0": {"kernel": kernel}, "bias": np.zeros(1, np.float32)}}, x)[0, :, :, 0]
    taps = np.float64([1, 3, 3, 1]) / 4.0
    expected = np.zeros((10, 10))
    for (i, a), (j, b) in itertools.product(enumerate(taps), repeat=2):
        # Rows 3 to 8: the turned kernel at the stuffed pixel 4, spread by the four taps.
        expected[2 + i : 5 + i, 2 + j : 5 + j] += a * b * kernel[::-1, ::-1, 0, 0]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_plain_upsampling_repeats_every_pixel_and_downsampling_undoes_it():
    x = _images(0, 2, 4, 6, 3)
    np.testing.assert_array_equal(upsample(x), np.repeat(np.repeat(x, 2, axis=1), 2, axis=2))
    np.testing.assert_array_equal(downsample(upsample(x)), x)


def test_plain_downsampling_is_the_mean_of_two_by_two_pixels():
    x = jnp.arange(8.0).reshape(1, 2, 4, 1)
    np.testing.assert_allclose(downsample(x)[0, :, :, 0], [[2.5, 4.5]])
