"""One network for series, images and volumes: a series is an image of one column, an image a volume of one slice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.models.adapters import LinenNetwork
from score_sde.models.edm2 import EDM2
from score_sde.models.layers import Conv
from score_sde.models.ncsnpp import DDPM, NCSNpp, cropped, padded
from score_sde.models.resampling import Downsample, Upsample, downsample, fir_downsample, fir_upsample, upsample
from tests.models.test_models import _init, _jit, _normal, _trained

SMALL = {"features": 8, "num_blocks": 1, "attention_resolutions": (4,), "dropout": 0.0}
SKIPS = {"progressive": "output_skip", "progressive_input": "input_skip", "fir": True, "embedding": "fourier"}
RESIDUALS = {"progressive": "residual", "progressive_input": "residual", "fir": True, "resblock_type": "ddpm"}
NETWORKS = {
    "series": (NCSNpp(**SMALL, channel_multipliers=(1, 2, 1)), (13, 2)),
    "series with skips": (NCSNpp(**SMALL, **SKIPS, channel_multipliers=(1, 2)), (8, 1)),
    "series with residuals": (NCSNpp(**SMALL, **RESIDUALS, channel_multipliers=(1, 2)), (7, 1)),
    "magnitudes": (EDM2(**SMALL, channel_multipliers=(1, 2, 1)), (13, 2)),
    "odd images": (NCSNpp(**SMALL, channel_multipliers=(1, 2)), (5, 7, 1)),
    "volumes": (DDPM(**SMALL, channel_multipliers=(1, 1), min_group_channels=4), (3, 4, 2, 1)),
}
CONDITION = jnp.array([2.0, 0.3])


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_takes_data_of_any_shape_and_every_weight_reaches_the_output(name):
    module, shape = NETWORKS[name]
    net = LinenNetwork(module)
    params, x = _trained(net, shape), _normal(1, 2, *shape)
    output, grads = _jit(jax.value_and_grad(lambda p: jnp.sum(net.apply(p, x, CONDITION) ** 2)))(params)
    paths = [(jax.tree_util.keystr(path), g) for path, g in jax.tree.leaves_with_path(grads)]
    assert np.isfinite(output) and all(np.all(np.isfinite(g)) for _, g in paths)
    assert not [path for path, g in paths if not np.any(g) and "Fourier" not in path]
    assert jax.eval_shape(lambda: net.apply(params, x, CONDITION)).shape == x.shape


def _widened(params):
    """The parameters of a network with one more axis: the old kernels in the middle of new ones of zeros."""

    def widen(path, p):
        if jax.tree_util.keystr(path).endswith("['kernel']") and p.ndim > 2:
            middle = [(0, 0)] * p.ndim
            middle.insert(p.ndim - 2, (1, 1))
            return jnp.pad(jnp.expand_dims(p, p.ndim - 2), middle)
        return p

    return jax.tree_util.tree_map_with_path(widen, params)


@pytest.mark.parametrize("shape", [(9, 2), pytest.param((4, 3, 1), marks=pytest.mark.slow)], ids=["series", "images"])
def test_data_with_one_more_axis_of_one_place_are_the_same_data(shape):
    net = LinenNetwork(NCSNpp(**SMALL, channel_multipliers=(1,)))
    params, x = _trained(net, shape), _normal(1, 2, *shape)
    more = jnp.expand_dims(x, -2)
    given = _jit(net.apply)(params, x, CONDITION)
    found = _jit(net.apply)(_widened(params), more, CONDITION)
    np.testing.assert_allclose(found[..., 0, :], given, rtol=1e-4, atol=1e-5)


def test_a_size_that_cannot_be_halved_is_padded_with_zeros_and_cropped_again():
    net = LinenNetwork(NCSNpp(**SMALL, channel_multipliers=(1, 1, 1)))
    params, x = _trained(net, (12, 1)), _normal(1, 2, 10, 1)
    by_hand = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    apply = _jit(net.apply)
    np.testing.assert_allclose(apply(params, x, CONDITION), apply(params, by_hand, CONDITION)[:, 1:-1], rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 3), (2, 5, 7, 1), (1, 3, 6, 1, 2)])
def test_cropping_undoes_padding(shape):
    x = _normal(0, *shape)
    more = padded(x, 4)
    assert all(length % 4 == 0 for length in more.shape[1:-1])
    np.testing.assert_array_equal(cropped(more, shape[1:-1]), x)
    np.testing.assert_allclose(more.sum(), x.sum(), rtol=1e-5)
    assert padded(more, 4) is more


def _product(*factors):
    """A volume that is a product of one function of every axis."""
    return jnp.einsum("a,b,c->abc", *factors)[None, ..., None]


@pytest.mark.parametrize(
    "resample",
    [upsample, downsample, lambda x: fir_upsample(x, (1, 3, 3, 1)), lambda x: fir_downsample(x, (1, 3, 3, 1))],
    ids=["repeated", "averaged", "filtered up", "filtered down"],
)
def test_a_volume_is_resampled_axis_by_axis(resample):
    factors = [_normal(seed, length) for seed, length in enumerate((4, 6, 2))]
    one_by_one = [resample(f[None, :, None])[0, :, 0] for f in factors]
    np.testing.assert_allclose(resample(_product(*factors)), _product(*one_by_one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [None, (1, 3, 3, 1)], ids=["plain", "filtered"])
@pytest.mark.parametrize("module", [Upsample, Downsample])
def test_resampling_with_a_convolution_doubles_and_halves_series_and_volumes(module, kernel):
    net = module(with_conv=True, kernel=kernel)
    for shape in ((1, 8, 2), (1, 4, 2, 6, 2)):
        x = _normal(0, *shape)
        output = jax.eval_shape(lambda x=x: net.init_with_output(jax.random.key(0), x)[0])
        factor = 2.0 if module is Upsample else 0.5
        assert output.shape == (1, *(int(factor * length) for length in shape[1:-1]), 2)


@pytest.mark.slow
def test_an_untrained_network_of_series_predicts_almost_zero():
    net = LinenNetwork(NCSNpp(**SMALL, channel_multipliers=(1, 2)))
    params = _init(net, (6, 1))
    assert float(jnp.abs(_jit(net.apply)(params, _normal(0, 2, 6, 1), CONDITION)).max()) < 1e-3
    (kernel,) = {p.shape[:1] for p in jax.tree.leaves(params) if p.ndim == 3}
    assert kernel == (Conv.kernel_size,)
