"""A process of which one knows the schedule: the cosine schedule of Nichol and Dhariwal 2021 (arXiv 2102.09672)."""

import jax.numpy as jnp
from small import small

from score_sde.config import ConfigDict
from score_sde.sdes import GaussianPath


def cosine(end: float = 0.95) -> GaussianPath:
    """``m = cos(a t)`` and ``s = sin(a t)``, which ends just before noise alone."""
    angle = 0.5 * jnp.pi * end
    return GaussianPath(mean_coeff=lambda t: jnp.cos(angle * t), std=lambda t: jnp.sin(angle * t))


def get_config() -> ConfigDict:
    """The schedule up to 0.98 of a right angle."""
    config = small()
    config.sde.name = "process_of_marginals:cosine"
    config.sde.options.end = 0.98
    return config
