"""Convolutions and all their derivatives against those of JAX, and the programs that CPUs get for them."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.models.convolution import convolved

#: Sizes of images and kernels, strides, padding, dilations of the input and of the kernel.
CASES = [
    ((5,), (3,), (1,), "SAME", (1,), (1,)),
    ((8, 7), (3, 3), (1, 1), "SAME", (1, 1), (1, 1)),
    ((8, 7), (4, 3), (1, 1), "VALID", (1, 1), (2, 1)),
    ((8, 7), (3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1), (1, 1)),
    ((8, 7), (3, 2), (2, 3), "SAME", (1, 1), (1, 2)),
    ((4, 5), (3, 3), (1, 1), ((1, 2), (2, 1)), (2, 2), (1, 1)),
    ((4, 5), (1, 1), (1, 1), "SAME", (1, 1), (1, 1)),
    ((4, 3, 5), (3, 3, 3), (1, 2, 1), "SAME", (1, 1, 1), (1, 1, 1)),
]


def pair(case, seed=0):
    size, extent, *window = case
    grid = "DHW"[-len(size) :]
    layout = (f"N{grid}C", f"{grid}IO", f"N{grid}C")

    def plain(x, kernel):
        strides, padding, *dilations = window
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, *dilations, dimension_numbers=layout)

    rng = np.random.RandomState(seed)
    x, kernel = rng.randn(2, *size, 3), rng.randn(*extent, 3, 4)
    return (lambda x, kernel: convolved(x, kernel, *window)), plain, jnp.asarray(x), jnp.asarray(kernel)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_derivatives_of_all_orders_are_those_of_jax(case):
    own, plain, x, kernel = pair(case)
    dx, dkernel = pair(case, 1)[2:]

    def derivatives(convolve):
        def energy(x, kernel):
            return jnp.sum(jnp.sin(convolve(x, kernel)))

        yield convolve(x, kernel)
        yield jax.jvp(convolve, (x, kernel), (dx, dkernel))[1]
        yield from jax.grad(energy, argnums=(0, 1))(x, kernel)
        # Forward over reverse, and reverse over reverse.
        yield from jax.jvp(jax.grad(energy, argnums=(0, 1)), (x, kernel), (dx, dkernel))[1]
        yield from jax.grad(lambda x, k: jnp.sum(jax.grad(energy)(x, k) * dx), argnums=(0, 1))(x, kernel)

    for found, expected in itertools.zip_longest(derivatives(own), derivatives(plain)):
        np.testing.assert_allclose(found, expected, atol=2e-4 * float(jnp.abs(expected).max() + 1.0))


@pytest.mark.parametrize("axes", [(0, None), (3, None), (None, 0), (0, 1)])
def test_a_batch_of_batches_or_of_kernels_is_the_convolutions_one_by_one(axes):
    own, plain, x, kernel = pair(CASES[1])
    rng = np.random.RandomState(2)
    x, kernel = (
        part if axis is None else jnp.asarray(rng.randn(*part.shape[:axis], 2, *part.shape[axis:]), jnp.float32)
        for part, axis in zip((x, kernel), axes, strict=True)
    )

    def gradient(convolve):
        return jax.vmap(jax.grad(lambda x, kernel: jnp.sum(convolve(x, kernel) ** 2), argnums=(0, 1)), axes)(x, kernel)

    for found, expected in zip(gradient(own), gradient(plain), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of programs for CPUs")
@pytest.mark.parametrize("case", [CASES[1], CASES[3]], ids=["whole", "strided"])  # XLA has no fast code for dilation
def test_gradients_have_their_axes_in_the_order_of_fast_code_also_in_loops(case):
    own, _, x, kernel = pair(case)

    def step(_, carry):
        gradients = jax.grad(lambda x, kernel: jnp.sum(own(x, kernel) ** 2), argnums=(0, 1))(*carry)
        return jax.tree.map(lambda part, gradient: part - 0.01 * gradient, carry, gradients)

    loop = jax.jit(lambda carry, count: jax.lax.fori_loop(0, count, step, carry))
    labels = re.findall(r"dim_labels=(\w+)->(\w+)", loop.lower((x, kernel), 3).compile().as_text())
    assert len(labels) == 3 and set(labels) == {("b01f_01io", "b01f")}
    expected = (x, kernel)
    for index in range(3):
        expected = step(index, expected)
    for found, one_by_one in zip(loop((x, kernel), 3), expected, strict=True):
        np.testing.assert_allclose(found, one_by_one, rtol=1e-3, atol=1e-3)
