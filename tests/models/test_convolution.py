"""Convolutions against those of Flax: the same parameters from the same key, and the same values."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.models.layers import Conv, Dense, ddpm_init

PAIRS = {
    "plain": (Conv(5), nn.Conv(5, (3, 3))),
    "pointwise": (Conv(5, 1), nn.Conv(5, (1, 1))),
    "strided": (Conv(5, strides=2, padding=(0, 1)), nn.Conv(5, (3, 3), 2, padding=((0, 1), (0, 1)))),
    "valid": (Conv(5, strides=2, padding="VALID"), nn.Conv(5, (3, 3), 2, padding="VALID")),
    "dilated": (Conv(5, kernel_dilation=2), nn.Conv(5, (3, 3), kernel_dilation=2)),
    "transposed": (
        Conv(5, input_dilation=2, padding=(2, 2), use_bias=False),
        nn.Conv(5, (3, 3), input_dilation=2, padding=((2, 2), (2, 2)), use_bias=False),
    ),
    "bfloat16": (Conv(5, dtype=jnp.bfloat16), nn.Conv(5, (3, 3), dtype=jnp.bfloat16)),
    "dense": (Dense(5, kernel_init=ddpm_init()), nn.Dense(5, kernel_init=ddpm_init())),
}
OF_ANY_RANK = {
    "plain": (lambda n: Conv(5), lambda n: nn.Conv(5, (3,) * n)),
    "halving": (lambda n: Conv(5, strides=2, padding=(0, 1)), lambda n: nn.Conv(5, (3,) * n, 2, padding=((0, 1),) * n)),
    "transposed": (
        lambda n: Conv(5, input_dilation=2, padding=(2, 2), use_bias=False),
        lambda n: nn.Conv(5, (3,) * n, input_dilation=2, padding=((2, 2),) * n, use_bias=False),
    ),
    "dense": (lambda n: Dense(5, kernel_init=ddpm_init()), lambda n: nn.Dense(5, kernel_init=ddpm_init())),
}
SHAPES = [(2, 7, 6, 3), (3, 4, 5, 1), (1, 3, 3, 4), (5, 8, 8, 2)]


@pytest.mark.sweep(5)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_a_layer_equals_that_of_flax(name, shape):
    same_as_flax(*PAIRS[name], shape, exact="bfloat16" not in name)


@pytest.mark.parametrize("shape", [(2, 7, 3), (2, 4, 3, 5, 2)], ids=str)
@pytest.mark.parametrize("name", OF_ANY_RANK)
def test_a_layer_of_series_and_of_volumes_equals_that_of_flax(name, shape):
    same_as_flax(*(make(len(shape) - 2) for make in OF_ANY_RANK[name]), shape)


def same_as_flax(ours, theirs, shape, *, exact=True):
    """The same parameters from the same key, and the same values and gradients."""
    x = jnp.asarray(np.random.RandomState(0).standard_normal(shape), jnp.float32)
    params = theirs.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(0), x), params)
    params = jax.tree.map(lambda p: p + 0.5, params)

    def losses(p, x, module):
        return jnp.sum(jnp.sin(module.apply(p, x).astype(jnp.float32)))

    tolerance = {"rtol": 1e-5, "atol": 2e-5} if exact else {"rtol": 0.05, "atol": 0.5}
    found = [jax.jit(jax.value_and_grad(losses, (0, 1)), static_argnums=2)(params, x, m) for m in (ours, theirs)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), *found)
