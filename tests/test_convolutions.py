"""JAX's convolutions in any layout against their definition, and the programs that CPUs get for them."""

import re

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import mlir
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from score_sde.convolutions import order_axes
from score_sde.models.layers import Conv

on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="of programs for CPUs")
ORDERED = {"b0f_0io->b0f", "b01f_01io->b01f", "b012f_012io->b012f"}


def labels(function, *arguments):
    """The axes of all convolutions in the compiled program."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return re.findall(r"dim_labels=(\w+->\w+)", text)


def by_definition(x, kernel, strides, padding, dilation, kernel_dilation, groups=1, batch_groups=1):
    """The convolution of ``(batch, *size, channels)`` with ``(*extent, channels, features)`` in NumPy."""
    if batch_groups > 1:
        parts = zip(np.split(x, batch_groups), np.split(kernel, batch_groups, -1), strict=True)
    else:
        parts = zip(np.split(x, groups, -1), np.split(kernel, groups, -1), strict=True)
    return np.concatenate([_of_group(*part, strides, padding, dilation, kernel_dilation) for part in parts], -1)


def _of_group(x, kernel, strides, padding, dilation, kernel_dilation):
    def spread(array, steps, first):
        shape = list(array.shape)
        place = [slice(None)] * array.ndim
        for axis, step in enumerate(steps, first):
            shape[axis] = step * (shape[axis] - 1) + 1
            place[axis] = slice(None, None, step)
        new = np.zeros(shape)
        new[tuple(place)] = array
        return new

    axes = tuple(range(1, x.ndim - 1))
    x = np.pad(spread(x, dilation, 1), [(0, 0), *padding, (0, 0)])
    kernel = spread(kernel, kernel_dilation, 0)
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:-2], axes)
    windows = windows[(slice(None), *(slice(None, None, step) for step in strides))]
    return np.tensordot(np.moveaxis(windows, len(axes) + 1, -1), kernel, len(axes) + 1)


#: Sizes of images and kernels, strides, padding, dilations of the input and of the kernel.
WINDOWS = [
    ((5,), (3,), (1,), ((1, 1),), (1,), (1,)),
    ((8, 7), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1)),
    ((8, 7), (4, 3), (2, 1), ((0, 1), (2, 0)), (1, 1), (1, 2)),
    ((4, 5), (3, 2), (1, 2), ((1, 2), (2, 1)), (2, 1), (1, 1)),
    ((4, 3, 5), (3, 2, 3), (1, 2, 1), ((1, 1), (0, 1), (1, 1)), (1, 1, 1), (1, 1, 1)),
]
#: Where batch (of a kernel features), channels and pixels are: in images, kernels and results.
LAYOUTS = [
    ("last", "last", "last"),
    ("first", "first", "first"),
    ("turned", "mixed", "mixed"),
    ("mixed", "last", "turned"),
]
_ORDERS = {"first": "ab{}", "last": "a{}b", "turned": "b{}a", "mixed": "{}ab"}


def _moved(array, kind, is_kernel=False):
    """The array with its axes as the layout wants them, and their names, as JAX has them."""
    grid = "DHW"[-(array.ndim - 2) :]
    names = f"{grid}IO" if is_kernel else f"N{grid}C"
    wanted = _ORDERS[kind].format(grid).translate(str.maketrans("ab", "OI" if is_kernel else "NC"))
    return np.transpose(array, [names.index(name) for name in wanted]), wanted


@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (1, 2)], ids=["plain", "grouped", "batches"])
def test_any_layout_is_the_convolution_by_its_definition(window, layout, groups):
    size, extent, *moves = window
    rng = np.random.RandomState(0)
    x, kernel = rng.randn(4, *size, 6), rng.randn(*extent, 6 // groups[0], 8)
    expected = by_definition(x, kernel, *moves, *groups)
    (x, of_x), (kernel, of_kernel) = _moved(x, layout[0]), _moved(kernel, layout[1], is_kernel=True)
    expected, of_result = _moved(expected, layout[2])

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, *moves, (of_x, of_kernel, of_result), *groups)

    np.testing.assert_allclose(jax.jit(convolve)(x, kernel), expected, atol=1e-4)


def plain(channels_first):
    layout = ("NCHW", "OIHW", "NCHW") if channels_first else ("NHWC", "HWIO", "NHWC")

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    shapes = ((2, 3, 8, 7), (3, 3, 3, 3)) if channels_first else ((2, 8, 7, 3), (3, 3, 3, 3))
    return convolve, tuple(jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))


@on_cpu
@pytest.mark.parametrize("channels_first", [False, True])
def test_convolutions_in_loops_and_their_gradients_have_the_order_of_fast_code(channels_first):
    convolve, start = plain(channels_first)

    def step(_, carry):
        gradients = jax.grad(lambda x, kernel: jnp.sum(convolve(x, kernel) ** 2), argnums=(0, 1))(*carry)
        return jax.tree.map(lambda part, gradient: part - 0.01 * gradient, carry, gradients)

    def loop(carry, count):
        return jax.lax.fori_loop(0, count, step, carry)

    found = labels(loop, start, 3)
    assert len(found) == 3 and set(found) <= ORDERED
    expected = start
    for index in range(3):
        expected = step(index, expected)
    for together, one_by_one in zip(jax.jit(loop)(start, 3), expected, strict=True):
        np.testing.assert_allclose(together, one_by_one, rtol=1e-3, atol=1e-3)


def of_equinox(x):
    conv = eqx.nn.Conv2d(3, 3, 3, padding=1, key=jax.random.key(0))
    return jax.vmap(lambda image: jnp.moveaxis(conv(jnp.moveaxis(image, -1, 0)), 0, -1))(x)


def of_flax(x):
    return nn.Conv(3, (3, 3)).bind(nn.Conv(3, (3, 3)).init(jax.random.key(0), x))(x)


def of_the_package(x):
    return Conv(3).bind(Conv(3).init(jax.random.key(0), x))(x)


@on_cpu
@pytest.mark.parametrize("network", [of_equinox, of_flax, of_the_package], ids=lambda network: network.__name__)
def test_networks_of_all_libraries_have_it_in_the_loops_of_solvers(network):
    def restored(x):
        def towards(_, x):
            return x - 0.1 * jax.grad(lambda y: jnp.sum(network(y) ** 2))(x)

        return jax.lax.fori_loop(0, 5, towards, x)

    found = labels(restored, jnp.ones((2, 8, 8, 3)))
    assert len(found) >= 2 and set(found) <= ORDERED


def test_axes_that_a_user_has_split_stay_split():
    mesh = jax.make_mesh((1,), ("images",), axis_types=(AxisType.Explicit,))
    convolve, (x, kernel) = plain(channels_first=True)
    expected = convolve(x, kernel)
    with jax.set_mesh(mesh):
        x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("images")))
        found = jax.jit(convolve)(x, kernel)
    assert found.sharding.spec[0] == "images"
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "rules",
    [{}, {"cpu": {}}, {"cpu": {jax.lax.conv_general_dilated_p: object()}}],
    ids=["no platform", "no rule", "other rule"],
)
def test_a_jax_with_its_rules_elsewhere_is_left_alone(monkeypatch, rules):
    monkeypatch.setattr(mlir, "_platform_specific_lowerings", rules)
    monkeypatch.setattr(mlir, "register_lowering", lambda *_, **__: pytest.fail("a rule was replaced"))
    assert not order_axes.__wrapped__()
