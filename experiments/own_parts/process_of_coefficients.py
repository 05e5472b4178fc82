"""A process of which one knows drift and diffusion: noise whose rate rises as the square of time."""

import jax.numpy as jnp
from small import small

from score_sde.config import ConfigDict
from score_sde.sdes import LinearSDE


def rising(rate: float = 15.0) -> LinearSDE:
    """``dx = -beta / 2 x dt + sqrt(beta) dw`` with ``beta = 0.1 + rate t^2``."""
    return LinearSDE.from_coefficients(
        lambda t: -0.5 * (0.1 + rate * t**2), lambda t: jnp.sqrt(0.1 + rate * t**2), prior_std=1.0
    )


def get_config() -> ConfigDict:
    """The rate that leaves 0.2 % of the variance of the data."""
    config = small()
    config.sde.name = "process_of_coefficients:rising"
    config.sde.options.rate = 18.0
    return config
