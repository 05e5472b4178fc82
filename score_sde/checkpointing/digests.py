"""Digests that prove a checkpoint intact: one of every array, computed on its devices, and one of everything else.

The digest of an array is a pair of sums, modulo 2^32, of its words after a mixing that depends on their position. A sum
of integers does not depend on its order, so the digest is independent of the sharding, and no process needs more than
its own shard. At a fixed position the mixing is one to one, so a change of a single word always changes the digest;
other damage escapes with a probability of about 2^-64.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array

from score_sde.distributed import jit, replicated

_KEYS = (0x9E3779B9, 0x7F4A7C15)


class Examined(NamedTuple):
    """The findings about the arrays of a tree."""

    digests: dict[str, str]  # dtype, shape and digest by name of the array
    not_finite: list[str]  # names of arrays with infinite or NaN values


def examine(tree: Any) -> Examined:
    """The digests of all arrays of a tree, and the names of non-finite ones, in one pass over the arrays.

    All processes that hold shards of the arrays call it together and get the same result.

    >>> examine({"a": jnp.float32([1.0, 2.0])}).digests["['a']"]
    'float32 (2,) 780b4bf6fa90426e'
    >>> examine({"a": jnp.arange(3), "b": jnp.array([0.0, jnp.inf])}).not_finite
    ["['b']"]
    """
    named = _named(tree)
    found = jax.device_get([_examiner(leaf)(leaf) for _, leaf in named])
    digests, not_finite = {}, []
    for (name, leaf), (words, finite) in zip(named, found, strict=True):
        digests[name] = f"{described(leaf)} " + "".join(f"{int(word):08x}" for word in words)
        if not finite:
            not_finite.append(name)
    return Examined(digests, not_finite)


def described(leaf: Any) -> str:
    """The type and shape of an array, the prefix of its digest."""
    return f"{leaf.dtype} {tuple(leaf.shape)}"


def descriptions(tree: Any) -> dict[str, str]:
    """Types and shapes of arrays, or of array descriptions, under the names of :func:`examine`."""
    return {name: described(leaf) for name, leaf in _named(tree)}


def json_digest(value: Any) -> str:
    """A digest of a JSON value, invariant under writing and reading.

    >>> json_digest({"b": (1, 2.5), "a": None}) == json_digest(json.loads('{"a": null, "b": [1, 2.5]}'))
    True
    """
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def _named(tree: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def _examiner(leaf: Any) -> Callable[[Any], tuple[Any, Any]]:
    """The pass over one array: compiled for its devices, or NumPy for an array in host memory."""
    leaf = jnp.asarray(leaf)
    if leaf.is_fully_addressable and all(device.platform == "cpu" for device in leaf.devices()):
        return _examine_on_host
    return _compiled(leaf.sharding.mesh if isinstance(leaf.sharding, NamedSharding) else None)


@functools.cache
def _compiled(mesh: Any) -> Callable[[Any], tuple[Array, Array]]:
    """The compiled pass over one array, with results replicated over the mesh."""
    return jit(_examine_on_device) if mesh is None else jit(_examine_on_device, out_shardings=replicated(mesh))


def _examine_on_host(leaf: Any) -> tuple[np.ndarray, bool]:
    array = np.asarray(_plain(leaf), order="C").reshape(-1)
    if array.dtype == np.bool_:
        words = array.astype(np.uint32)
    else:
        words = array.view(f"u{min(array.dtype.itemsize, 4)}").astype(np.uint32)
    finite = bool(np.isfinite(array).all()) if jnp.issubdtype(array.dtype, jnp.inexact) else True
    return _digest(np, words, np.arange(words.size, dtype=np.uint32)), finite


def _examine_on_device(leaf: Array) -> tuple[Array, Array]:
    leaf = _plain(leaf)
    finite = jnp.isfinite(leaf).all() if jnp.issubdtype(leaf.dtype, jnp.inexact) else jnp.bool_(True)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    if leaf.dtype == jnp.bool_:
        words = leaf.astype(jnp.uint32)
    else:  # numbers of more than 32 bits get one more axis
        unsigned = jnp.dtype(f"uint{min(8 * leaf.dtype.itemsize, 32)}")
        words = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):  # without reshaping, which would move shards between devices
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    return _digest(jnp, words, place), finite


def _plain(leaf: Any) -> Any:
    """An array of plain numbers: the key data of a typed key, any other array unchanged."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _digest(xp: Any, words: Any, place: Any) -> Any:
    """Two sums of words mixed with their positions, in NumPy or JAX."""
    sums = [xp.sum(mix(words ^ mix(place + xp.uint32(key))), dtype=xp.uint32) for key in _KEYS]
    return xp.stack(sums)


def mix(words: Any) -> Any:
    """The finalizer of MurmurHash3 (Appleby), which is one to one."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        words = (words ^ (words >> shift)) * words.dtype.type(factor)
    return words ^ (words >> 16)
