"""A grid of times to sample at: even steps of a root of time, shorter towards the data."""

import jax
import jax.numpy as jnp
from small import small

from score_sde.config import ConfigDict
from score_sde.processes import Process


def even_roots(process: Process, num_steps: int, t_end: float, root: float = 2.0) -> jax.Array:
    """``num_steps + 1`` times from 1 to ``t_end``; with the root 1 they are uniform."""
    return jnp.linspace(1.0, t_end ** (1.0 / root), num_steps + 1) ** root


def get_config() -> ConfigDict:
    """Cube roots."""
    config = small()
    config.sampling.grid = "grid:even_roots"
    config.sampling.options.root = 3.0
    config.sampling.num_steps = 25
    return config
