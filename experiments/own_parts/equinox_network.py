"""A network in Equinox: a module of one example, as its layers are; `key` draws its parameters."""

import equinox as eqx
import jax
import jax.numpy as jnp
from small import small

from score_sde.config import ConfigDict


class Net(eqx.Module):
    """A perceptron of data and noise."""

    mlp: eqx.nn.MLP

    def __init__(self, event_shape: tuple[int, ...], key: jax.Array, width: int = 64) -> None:
        """Draw the parameters."""
        (size,) = event_shape
        self.mlp = eqx.nn.MLP(size + 1, size, width, depth=2, activation=jax.nn.swish, key=key)

    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """The predicted noise of one example."""
        return self.mlp(jnp.concatenate([x, condition[None]]))


def get_config() -> ConfigDict:
    """The network with 32 units."""
    config = small()
    config.model.name = "equinox_network:Net"
    config.model.options.width = 32
    return config
