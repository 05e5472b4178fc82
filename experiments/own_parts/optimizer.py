"""An optimizer: steps along the sign of an average gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from small import small

from score_sde.config import ConfigDict


def signs(learning_rate: Any, momentum: float = 0.9) -> optax.GradientTransformation:
    """``-learning_rate sign(m)`` for the momentum ``m``; the schedule is the one of the run."""
    signed = optax.stateless(lambda updates, params: jax.tree.map(jnp.sign, updates))
    return optax.chain(optax.trace(momentum), signed, optax.scale_by_learning_rate(learning_rate))


def get_config() -> ConfigDict:
    """With momentum 0.95 and a small rate."""
    config = small()
    config.optim.name = "optimizer:signs"
    config.optim.options.momentum = 0.95
    config.optim.lr = 1e-4
    return config
