"""A network as two pure functions, without a library."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from small import small

from score_sde.config import ConfigDict


def network(width: int = 64) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``init(key, shape) -> params`` and ``apply(params, x, condition) -> output``."""

    def init(key: jax.Array, shape: tuple[int, ...]) -> dict[str, jax.Array]:
        inner, size = jax.random.normal(key, (shape[-1] + 1, width)), shape[-1]
        return {"in": inner, "bias": jnp.zeros(width), "out": jnp.zeros((width, size))}

    def apply(params: dict[str, jax.Array], x: jax.Array, condition: jax.Array) -> jax.Array:
        h = jnp.concatenate([x, condition[:, None]], axis=-1) @ params["in"] + params["bias"][None]
        return jnp.tanh(h) @ params["out"]

    return init, apply


def get_config() -> ConfigDict:
    """The network with 128 units."""
    config = small()
    config.model.name = "function_network:network"
    config.model.options.width = 128
    return config
