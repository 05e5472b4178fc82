"""A network in Flax Linen: `python -m score_sde --config=experiments/own_parts/linen_network.py --mode=demo ...`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from small import small

from score_sde.config import ConfigDict


class Net(nn.Module):
    """Two dense layers; what it needs beside data and noise are fields, which the configuration sets."""

    width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """The predicted noise of a batch."""
        h = jnp.concatenate([x, condition[:, None]], axis=-1)
        for _ in range(2):
            h = nn.swish(nn.Dense(self.width)(h))
        return nn.Dense(x.shape[-1])(h)


def get_config() -> ConfigDict:
    """The network with 32 units."""
    config = small()
    config.model.name = "linen_network:Net"
    config.model.options.width = 32
    return config
