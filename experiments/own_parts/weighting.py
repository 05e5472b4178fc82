"""A weighting of the objective: the truncated signal-to-noise ratio of Hang et al. 2023 (arXiv 2303.09556)."""

import jax
import jax.numpy as jnp
from small import small

from score_sde.config import ConfigDict
from score_sde.processes import Process


def min_snr(process: Process, t: jax.Array, gamma: float = 5.0) -> jax.Array:
    """``lambda = s^2 min(snr, gamma) / snr``, in the place of ``s^2``."""
    snr = jnp.exp(process.log_snr(t))
    return process.marginal(t).std ** 2 * jnp.minimum(snr, gamma) / snr


def get_config() -> ConfigDict:
    """With gamma = 3."""
    config = small()
    config.objective.weighting = "weighting:min_snr"
    config.objective.options.gamma = 3.0
    return config
