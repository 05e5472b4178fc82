"""Random numbers drawn separately for each example of a batch, so that no example depends on its neighbors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer

from score_sde.arguments import check_key, not_whole
from score_sde.errors import UserError, refuse
from score_sde.typing import Batch, PRNGKey, SampleKeys, is_known


def sample_keys(key: PRNGKey, first: Array | int, count: int) -> SampleKeys:
    """One key per sample index, ``first`` to ``first + count - 1``.

    Raises:
        UserError: If the key is not a single key, or the indices are not whole numbers from 0 to ``2^32 - 1``.
    """
    check_key(key)
    refuse([*not_whole("first", first, 0, 2**32 - 1), *not_whole("count", count, 0)])
    if is_known(first) and int(first) + count > 2**32:
        raise UserError(f"The last sample is {int(first) + count - 1}; expected an index of at most 2^32 - 1.")
    return _derived(key, sample_indices(first, count))


def sample_indices(first: Array | int, count: int) -> Integer[Array, " batch"]:
    """The indices ``first`` to ``first + count - 1``.

    >>> sample_indices(3, 2).tolist()
    [3, 4]
    """
    return jnp.asarray(first, jnp.uint32) + jnp.arange(count, dtype=jnp.uint32)


def example_keys(key: PRNGKey, x: Array) -> SampleKeys:
    """One key per example of a batch: the keys of the first samples.

    Raises:
        UserError: If the key is not a key, or an array of several.
    """
    check_key(key)
    return _derived(key, sample_indices(0, x.shape[0]))  # of a batch of any size, where it is a symbol


def _derived(key: PRNGKey, indices: Integer[Array, " batch"]) -> SampleKeys:
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)


def fold_in(keys: SampleKeys, data: Array | int) -> SampleKeys:
    """Derive one new key per example."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def sample_noise(keys: SampleKeys, x: Batch) -> Batch:
    """Standard normal noise of the shape and type of a batch, drawn example by example."""
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)
