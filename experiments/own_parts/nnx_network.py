"""A network in Flax NNX: `rngs` draws its parameters from the seed of the run, and its dropout."""

import jax
import jax.numpy as jnp
from flax import nnx
from small import small

from score_sde.config import ConfigDict


class Net(nnx.Module):
    """Two dense layers and dropout, which is on in training alone."""

    def __init__(self, event_shape: tuple[int, ...], rngs: nnx.Rngs, width: int = 64) -> None:
        """Draw the parameters."""
        (size,) = event_shape
        self.first = nnx.Linear(size + 1, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.last = nnx.Linear(width, size, rngs=rngs)

    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """The predicted noise of a batch."""
        h = nnx.swish(self.first(jnp.concatenate([x, condition[:, None]], axis=-1)))
        return self.last(self.dropout(h))


def get_config() -> ConfigDict:
    """The network with 32 units."""
    config = small()
    config.model.name = "nnx_network:Net"
    config.model.options.width = 32
    return config
