"""Dropout against Flax and its masks against JAX, bit for bit, wherever they are drawn."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from score_sde.models.dropout import Dropout, bernoulli
from tests.laws import float64

SHAPES = [(2, 8, 8, 16), (3, 5, 7, 3), (1,), (5, 1), (4, 1, 1, 6)]


@pytest.mark.sweep(5)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.99])
def test_the_masks_are_those_of_flax(shape, rate):
    x = jnp.asarray(np.random.RandomState(0).standard_normal(shape), jnp.float32)
    for seed in range(3):
        rngs = {"dropout": jax.random.key(seed)}
        ours = jax.jit(lambda x, rngs: Dropout(rate).apply({}, x, True, rngs=rngs))(x, rngs)
        theirs = jax.jit(lambda x, rngs: nn.Dropout(rate, deterministic=False).apply({}, x, rngs=rngs))(x, rngs)
        np.testing.assert_array_equal(ours, theirs)


def test_one_in_ten_values_is_lost_and_the_mean_stays():
    ones = jnp.ones((64, 32, 32, 16))
    dropped = np.asarray(Dropout(0.1).apply({}, ones, True, rngs={"dropout": jax.random.key(0)}), np.float64)
    kept = dropped[dropped != 0.0]
    np.testing.assert_allclose(kept, 1.0 / 0.9, rtol=1e-6)
    error = np.sqrt(0.1 / 0.9 / ones.size)
    assert abs(dropped.mean() - 1.0) < 4.0 * error
    # Neighbors do not depend on one another, along any axis.
    for axis in range(4):
        product = (dropped - 1.0) * (np.roll(dropped, 1, axis) - 1.0)
        assert abs(product.mean()) < 4.0 * 0.1 / 0.9 / np.sqrt(ones.size)


@pytest.mark.parametrize("key", [jax.random.key(0, impl="rbg"), jax.random.key(1)], ids=["rbg", "threefry"])
def test_other_generators_and_types_are_left_to_jax(key):
    for probability in (0.3, 0.9):
        np.testing.assert_array_equal(
            bernoulli(key, probability, (7, 9)), jax.random.bernoulli(key, probability, (7, 9))
        )
        with float64():
            np.testing.assert_array_equal(
                bernoulli(key, probability, (7, 9)), jax.random.bernoulli(key, probability, (7, 9))
            )


def test_a_mask_does_not_depend_on_devices_and_is_drawn_where_it_is_used():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    x, key = jnp.ones((4, 8, 8, 16)), jax.random.key(0)

    def dropped(x, key):
        return Dropout(0.5).apply({}, x, True, rngs={"dropout": key})

    program = jax.jit(dropped, in_shardings=(split, None), out_shardings=split).lower(x, key).compile()
    np.testing.assert_array_equal(program(jax.device_put(x, split), key), jax.jit(dropped)(x, key))
    assert "all-gather" not in program.as_text()
    assert "u32[2,8,8,16]" in program.as_text() and "u32[4,8,8,16]" not in program.as_text()


def test_a_batch_of_keys_draws_a_batch_of_masks():
    keys = jax.random.split(jax.random.key(0), 3)
    masks = jax.vmap(lambda key: bernoulli(key, 0.9, (5, 6)))(keys)
    for key, mask in zip(keys, masks, strict=True):
        np.testing.assert_array_equal(mask, jax.random.bernoulli(key, 0.9, (5, 6)))
