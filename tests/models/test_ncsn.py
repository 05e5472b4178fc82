"""NCSN and NCSNv2: their blocks against slow float64 definitions, and the whole against the original's outputs."""

import zlib
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from score_sde.errors import UserError
from score_sde.models.adapters import LinenNetwork
from score_sde.models.ncsn import NCSN, NCSNv2
from score_sde.models.refinenet import (
    CondCRPBlock,
    CondMSFBlock,
    ConvMeanPool,
    CRPBlock,
    MSFBlock,
    RCUBlock,
    RefineBlock,
    ResidualBlock,
    conv3x3,
    identity,
    max_pool,
    mean_pool,
    resize,
)

# Not among the published activations: it tells apart what is activated once, twice and not at all.
SQUASH, SQUASH64 = jnp.tanh, np.tanh


def _jit(function):
    """Compiled in a hurry: these programs run once or twice."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def _images(seed, *shape):
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), jnp.float32)


def _shapes(module, *inputs):
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"]


def _drawn(shapes):
    """Weights that depend on the names alone, so that an output computed elsewhere can be compared."""

    def draw(path, shape):
        random = np.random.RandomState(zlib.crc32("/".join(path).encode()) & 0x7FFFFFFF)
        if path[-1] == "kernel":
            return random.uniform(-1, 1, shape) * np.sqrt(3.0 / np.prod(shape[:-1]))
        weights = random.standard_normal(shape)
        return 1.0 + 0.2 * weights if path[-1] in ("alpha", "gamma", "embedding") else 0.1 * weights

    weights = {path: jnp.asarray(draw(path, leaf.shape), jnp.float32) for path, leaf in flatten_dict(shapes).items()}
    return unflatten_dict(weights)


def _apply(module, *inputs):
    """The output of a module with drawn weights, and these weights in float64 by name."""
    params = _drawn(_shapes(module, *inputs))
    output = _jit(lambda *inputs: module.apply({"params": params}, *inputs))(*inputs)
    return output, {"/".join(k): np.asarray(v, np.float64) for k, v in flatten_dict(params).items()}


def _conv(x, kernel, bias=0.0, dilation=1):
    """A convolution with zeros beyond the border, tap by tap, in float64."""
    x, reach = np.asarray(x, np.float64), dilation * (kernel.shape[0] // 2)
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    taps = [
        padded[:, dilation * i : dilation * i + x.shape[1], dilation * j : dilation * j + x.shape[2]] @ kernel[i, j]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]
    return np.sum(taps, axis=0) + bias


def _pool(x, reduce, outside):
    """The 5x5 windows of every pixel, reduced one by one."""
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=outside)
    output = np.empty(x.shape)
    for i, j in np.ndindex(x.shape[1:3]):
        output[:, i, j] = reduce(padded[:, i : i + 5, j : j + 5], axis=(1, 2))
    return output


def _mean_of_four(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4.0


def _interpolated(x, shape, source):
    """Bilinear interpolation at the places that ``source`` gives in the old image, the border held beyond it."""
    x = np.asarray(x, np.float64)
    for axis, size in ((1, shape[0]), (2, shape[1])):
        old = x.shape[axis]
        places = np.clip([source(i, old, size) for i in range(size)], 0, old - 1)
        below = np.floor(places).astype(int)
        weight = (places - below).reshape([-1 if a == axis else 1 for a in range(4)])
        x = np.take(x, below, axis) * (1 - weight) + np.take(x, np.minimum(below + 1, old - 1), axis) * weight
    return x


SOURCES = {
    "bilinear": lambda i, old, new: (i + 0.5) * old / new - 0.5,
    "bilinear_aligned": lambda i, old, new: i * (old - 1) / (new - 1),
    "nearest_neighbor": lambda i, old, new: i * old // new,
}


def _close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


class Convolution(nn.Module):
    """A module that owns one convolution."""

    dilation: int

    @nn.compact
    def __call__(self, x):
        return conv3x3(x, 40, dilation=self.dilation)


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_a_dilated_convolution_takes_pixels_that_far_apart(dilation):
    x = _images(0, 2, 7, 9, 3)
    output, w = _apply(Convolution(dilation), x)
    _close(output, _conv(x, w["Conv_0/kernel"], w["Conv_0/bias"], dilation))


@pytest.mark.parametrize("size", [(3, 4), (8, 9)])
def test_pools_reduce_the_window_around_every_pixel(size):
    x = _images(0, 2, *size, 3) - 3.0  # negative: zeros beyond the border would win
    _close(max_pool(x), _pool(x, np.max, -np.inf))
    _close(mean_pool(x), _pool(x, np.mean, 0.0))


@pytest.mark.parametrize("interpolation", SOURCES)
@pytest.mark.parametrize("shape", [(8, 12), (16, 24), (4, 6)])
def test_resizing_interpolates_between_the_nearest_pixels(interpolation, shape):
    x = _images(0, 2, 4, 6, 3)
    _close(resize(x, shape, interpolation), _interpolated(x, shape, SOURCES[interpolation]))


def test_a_convolution_with_pooling_is_the_mean_of_four_convolved_pixels():
    for kernel_size in (1, 3):
        x = _images(0, 2, 6, 8, 3)
        output, w = _apply(ConvMeanPool(5, kernel_size), x)
        _close(output, _mean_of_four(_conv(x, w["Conv_0/kernel"], w["Conv_0/bias"])))


@pytest.mark.parametrize(("down", "dilation"), [(False, 1), (False, 2), (True, 1), (True, 2)])
def test_a_residual_block_is_its_definition(down, dilation):
    x = _images(0, 2, 6, 8, 4)
    halves = down and dilation == 1

    def norm(h):
        return 0.5 * h + 0.1

    block = ResidualBlock(6 if down else 4, SQUASH, down, dilation)
    params = _drawn(_shapes_of_block(block, x, norm))
    output = block.apply({"params": params}, x, norm)
    w = {"/".join(k): np.asarray(v, np.float64) for k, v in flatten_dict(params).items()}
    x64 = np.asarray(x, np.float64)
    first = _conv(SQUASH64(norm(x64)), w["Conv_0/kernel"], w["Conv_0/bias"], dilation)
    second, skip = ("ConvMeanPool_0/Conv_0", "ConvMeanPool_1/Conv_0") if halves else ("Conv_1", "Conv_2")
    pool, step = (_mean_of_four, 1) if halves else (np.asarray, dilation)
    h = pool(_conv(SQUASH64(norm(first)), w[f"{second}/kernel"], w[f"{second}/bias"], step))
    shortcut = pool(_conv(x64, w[f"{skip}/kernel"], w[f"{skip}/bias"], step)) if down else x64
    _close(output, h + shortcut)


def _shapes_of_block(block, x, normalize):
    return jax.eval_shape(lambda: block.init(jax.random.key(0), x, normalize))["params"]


def _with_norm(block, norm):
    """The block as a module of its first input alone."""

    class Closed:
        init = staticmethod(lambda key, *xs: block.init(key, *xs, norm))
        apply = staticmethod(lambda params, *xs: block.apply(params, *xs, norm))

    return Closed


def test_residual_units_add_two_activated_convolutions_each():
    x = _images(0, 2, 5, 6, 4)
    output, w = _apply(_with_norm(RCUBlock(SQUASH, num_units=2), lambda h: 2.0 * h), x)
    assert set(w) == {f"Conv_{i}/kernel" for i in range(4)}
    h = np.asarray(x, np.float64)
    for i in (0, 2):
        r = _conv(SQUASH64(2.0 * h), w[f"Conv_{i}/kernel"])
        h = h + _conv(SQUASH64(2.0 * r), w[f"Conv_{i + 1}/kernel"])
    _close(output, h)


@pytest.mark.parametrize(("block", "reduce", "outside"), [(CRPBlock, np.max, -np.inf), (CondCRPBlock, np.mean, 0.0)])
def test_chained_pooling_sums_the_chain(block, reduce, outside):
    x = _images(0, 2, 7, 6, 4)
    output, w = _apply(_with_norm(block(SQUASH), lambda h: 2.0 * h), x)
    h = SQUASH64(np.asarray(x, np.float64))
    first = _conv(_pool(2.0 * h, reduce, outside), w["Conv_0/kernel"])
    second = _conv(_pool(2.0 * first, reduce, outside), w["Conv_1/kernel"])
    _close(output, h + first + second)


@pytest.mark.parametrize("interpolation", SOURCES)
@pytest.mark.parametrize("block", [MSFBlock, CondMSFBlock])
def test_fusion_enlarges_what_is_convolved_and_sums(block, interpolation):
    xs = [_images(0, 2, 8, 12, 3), _images(1, 2, 4, 6, 5)]
    output, w = _apply(_with_norm(block(4, interpolation), lambda h: 2.0 * h), xs)
    maps = [_conv(2.0 * x, w[f"Conv_{i}/kernel"], w[f"Conv_{i}/bias"]) for i, x in enumerate(xs)]
    _close(output, maps[0] + _interpolated(maps[1], (8, 12), SOURCES[interpolation]))


def test_a_refinement_chains_its_blocks():
    xs = [_images(0, 2, 8, 12, 3), _images(1, 2, 4, 6, 5)]
    block = RefineBlock(4, SQUASH, "bilinear", end=True)
    params = _drawn(_shapes_of_block(block, xs, identity))

    def part(module, name, *inputs):
        return module.apply({"params": params[name]}, *inputs, identity)

    hs = [part(RCUBlock(SQUASH, num_units=2), f"RCUBlock_{i}", x) for i, x in enumerate(xs)]
    h = part(CRPBlock(SQUASH), "CRPBlock_0", part(MSFBlock(4), "MSFBlock_0", hs))
    _close(block.apply({"params": params}, xs, identity), part(RCUBlock(SQUASH, num_units=3), "RCUBlock_2", h))


def test_weights_start_as_in_pytorch():
    params = Convolution(dilation=1).init(jax.random.key(0), jnp.zeros((1, 3, 3, 64)))["params"]["Conv_0"]
    bound = 1.0 / np.sqrt(9 * 64)
    for weights in (params["kernel"], params["bias"]):
        assert float(jnp.abs(weights).max()) <= bound
        assert float(jnp.abs(weights).max()) > 0.9 * bound
    np.testing.assert_allclose(params["kernel"].std(), bound / np.sqrt(3.0), rtol=0.02)


COUNTS = {
    "NCSN, 10 levels": (NCSN(num_classes=10), 34_428_675),
    "NCSN, 232 levels": (NCSN(num_classes=232), 44_828_931),
    "NCSN, 500 levels": (NCSN(num_classes=500), 57_384_195),
    "NCSNv2, 64": (NCSNv2(), 33_970_563),
    "NCSNv2, 128": (NCSNv2(resolution=128), 83_445_379),
    "NCSNv2, 256": (NCSNv2(resolution=256), 94_132_611),
    "NCSNv2, 64, PyTorch": (NCSNv2(pytorch=True), 29_694_083),
    "NCSNv2, 128, PyTorch": (NCSNv2(resolution=128, pytorch=True), 83_445_379),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", COUNTS)
def test_a_network_has_as_many_parameters_as_the_original(name):
    module, count = COUNTS[name]
    shapes = _shapes(module, jnp.zeros((1, 32, 32, 3)), jnp.zeros(1))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.sweep
@pytest.mark.parametrize("resolution", [64, 256])
def test_a_network_with_the_weights_of_the_original_gives_its_output(resolution):
    # The original divides by the noise of its level, one of 232 from 50 down to 0.01. Names and weights agree with its.
    data = np.load(Path(__file__).parent / "data" / "ncsnv2.npz")
    x, level, expected = (data[f"{name}_{resolution}"] for name in ("x", "level", "output"))
    module = NCSNv2(features=8, resolution=resolution, rescale_input=True)
    output, _ = _apply(module, jnp.asarray(x), jnp.asarray(level, jnp.float32))
    sigma = 50.0 * (0.01 / 50.0) ** (level / 231.0)
    output = np.asarray(output)[:, ::4, ::4] / sigma[:, None, None, None]
    assert np.abs(output - expected).max() < 2e-5 * np.abs(expected).max()


NETWORKS = {
    "NCSN": NCSN(features=8, num_classes=5),
    "NCSNv2": NCSNv2(features=8, normalization="VarianceNorm", interpolation="nearest_neighbor", pytorch=True),
}
LEVELS = jnp.array([3.0, 0.0, 3.0])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_in_use_reaches_the_output(name):
    module, x = NETWORKS[name], _images(0, 3, 8, 8, 1)
    params = _drawn(_shapes(module, x, LEVELS))
    grads = _jit(jax.grad(lambda p: jnp.sum(module.apply({"params": p}, x, LEVELS) ** 2)))(params)
    for path, grad in flatten_dict(grads).items():
        if path[-1] == "embedding":
            used = np.any(np.asarray(grad), axis=1)
            np.testing.assert_array_equal(used, [True, False, False, True, False], str(path))
        else:
            assert np.any(grad), path


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_first_network_sees_the_noise_level(name):
    module, x = NETWORKS[name], _images(0, 2, 8, 8, 1).at[1].set(_images(0, 2, 8, 8, 1)[0])
    params = _drawn(_shapes(module, x, jnp.zeros(2)))
    apply = _jit(lambda levels: LinenNetwork(module).apply(params, x, levels))
    output = apply(jnp.array([1.0, 4.0]))
    assert (float(jnp.abs(output[0] - output[1]).max()) > 1e-2) == (name == "NCSN")
    # Each example by its own level, and levels as rounded floats.
    np.testing.assert_allclose(apply(jnp.array([4.2, 0.8])), output[::-1], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_level_out_of_range_shows():
    module, x = NETWORKS["NCSN"], _images(0, 2, 8, 8, 1)
    output, _ = _apply(module, x, jnp.array([4.0, 5.0]))
    assert bool(jnp.isfinite(output[0]).all())
    assert bool(jnp.isnan(output[1]).all())


@pytest.mark.slow
def test_rescaling_maps_zero_and_one_to_minus_one_and_one():
    x = _images(0, 2, 8, 8, 1)
    plain, _ = _apply(NCSNv2(features=4), 2.0 * x - 1.0, jnp.zeros(2))
    rescaled, _ = _apply(NCSNv2(features=4, rescale_input=True), x, jnp.zeros(2))
    np.testing.assert_allclose(rescaled, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "module",
    [
        NCSNv2(normalization="InstanceNorm+"),
        NCSN(normalization="InstanceNorm"),
        NCSNv2(interpolation="cubic"),
        NCSNv2(resolution=512),
    ],
)
def test_an_unknown_choice_is_refused(module):
    with pytest.raises(UserError, match="Unknown"):
        _shapes(module, jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
