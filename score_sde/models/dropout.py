"""Dropout with the masks of :class:`flax.linen.Dropout`, bit for bit, drawn in one pass over memory on a CPU.

There JAX writes its generator, Threefry 2x32 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), as a
loop over groups of rounds that passes all words through memory each time. Written out, the rounds are one computation
per number, three to four times faster.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from score_sde.models.storing import stored
from score_sde.typing import PRNGKey

Words = UInt32[Array, "*shape"]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_THREEFRY = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32")).dtype


def threefry(key: UInt32[Array, "2"], high: Words, low: Words) -> tuple[Words, Words]:
    """The 20 rounds of Threefry 2x32 for counters of two words."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    a, b = high + keys[0], low + keys[1]
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            a = a + b
            b = a ^ ((b << distance) | (b >> (32 - distance)))
        a, b = a + keys[(group + 1) % 3], b + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return a, b


def _in_one_pass(key: PRNGKey, probability: float, shape: tuple[int, ...]) -> Bool[Array, "*shape"]:
    words = jax.random.key_data(key)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    # A sum over axes, not a reshaped range, so that a split batch draws its numbers where they are used.
    iotas = (jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride for axis, stride in enumerate(strides))
    index = sum(iotas, jnp.zeros(shape, jnp.uint32))
    high, low = threefry(words, jnp.zeros_like(index), index)
    uniform = ((high ^ low) >> 9).astype(jnp.float32) * 2.0**-23
    return stored(uniform < probability, words[0].astype(jnp.float32))


def bernoulli(key: PRNGKey, probability: float, shape: tuple[int, ...]) -> Bool[Array, "*shape"]:
    """The numbers of ``jax.random.bernoulli``: true with a probability, independently for every element.

    >>> key = jax.random.key(0)
    >>> bool(jnp.array_equal(bernoulli(key, 0.9, (3, 5)), jax.random.bernoulli(key, 0.9, (3, 5))))
    True
    """

    def usual(key: PRNGKey) -> Bool[Array, "*shape"]:
        return jax.random.bernoulli(key, probability, shape)

    by_index = key.dtype == _THREEFRY and jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
    if not by_index or jnp.result_type(float) == jnp.float64 or math.prod(shape) >= 2**32:
        return usual(key)
    return jax.lax.platform_dependent(key, cpu=lambda key: _in_one_pass(key, probability, shape), default=usual)


class Dropout(nn.Module):
    """Set a share of the values to zero, and divide the others by the probability to be kept (Srivastava et al. 2014).

    Attributes:
        rate: Probability of a zero, below 1.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], train: bool) -> Float[Array, "*shape"]:
        """The values with zeros if ``train``, the values themselves otherwise."""
        if not train or self.rate == 0.0:
            return x
        keep = bernoulli(self.make_rng("dropout"), 1.0 - self.rate, x.shape)
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros_like(x))
