"""A digest tells arrays that differ, and does not depend on who computes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.checkpointing import digests
from score_sde.checkpointing.digests import examine

ARRAYS = {
    "float32": np.linspace(-1.0, 1.0, 60, dtype=np.float32).reshape(3, 4, 5),
    "bfloat16": np.linspace(-1.0, 1.0, 6).astype(jnp.bfloat16).reshape(2, 3),
    "float64": np.linspace(-1.0, 1.0, 6).reshape(2, 3),
    "complex64": (np.arange(6) + 1j).astype(np.complex64).reshape(3, 2),
    "int32": np.arange(-3, 3, dtype=np.int32),
    "uint8": np.arange(7, dtype=np.uint8),
    "bool": np.array([True, False, True]),
    "scalar": np.float32(3.0),
    "empty": np.zeros((0, 3), np.float32),
}


def _digest(array):
    return examine({"": array}).digests["['']"]


@pytest.mark.parametrize("name", ARRAYS)
def test_a_device_and_the_host_find_the_same(name):
    with jax.enable_x64():
        array = jnp.asarray(ARRAYS[name])
        assert str(array.dtype) in (name, "float32")
        on_device = jax.jit(digests._examine_on_device)(array)
        on_host = digests._examine_on_host(array)
        np.testing.assert_array_equal(on_device[0], on_host[0])
        assert bool(on_device[1]) == on_host[1]


def test_a_device_and_the_host_find_the_same_of_a_key():
    key = jax.random.key(3)
    np.testing.assert_array_equal(jax.jit(digests._examine_on_device)(key)[0], digests._examine_on_host(key)[0])


def test_no_two_arrays_that_differ_in_one_bit_have_the_same_digest():
    words = np.arange(9, dtype=np.uint32)
    found = {_digest(words.view(np.float32))}
    for bit in range(32 * words.size):
        other = words.copy()
        other[bit // 32] ^= np.uint32(1) << np.uint32(bit % 32)
        found.add(_digest(other.view(np.float32)))
    assert len(found) == 32 * words.size + 1


def test_order_shape_and_type_count():
    array = np.arange(6, dtype=np.int32)
    others = [array[::-1], array.reshape(2, 3), array.reshape(3, 2), array.astype(np.float32), array.view(np.float32)]
    assert len({_digest(other) for other in (array, *others)}) == 6
    # The words of arrays whose numbers are exchanged are the same, and so is the sum of the words.
    assert len({_digest(np.roll(array, shift)).split()[-1] for shift in range(6)}) == 6


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_arrays_that_are_not_finite_are_named(value):
    tree = {
        "a": jnp.ones(3),
        "b": {"c": jnp.ones((2, 2)).at[1, 0].set(value)},
        "n": jnp.arange(3),
        "k": jax.random.key(0),
    }
    assert examine(tree).not_finite == ["['b']['c']"]
    assert not bool(jax.jit(digests._examine_on_device)(tree["b"]["c"])[1])
