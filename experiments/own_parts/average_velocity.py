"""A network that is told two times, for average velocities, with which one evaluation makes a sample."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from small import small

from score_sde.config import ConfigDict


class Net(nn.Module):
    """Two dense layers; ``span`` is the time between the two times, and ``None`` stands for 0."""

    width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array, span: jax.Array | None = None) -> jax.Array:
        """The average velocity of a batch."""
        span = jnp.zeros_like(condition) if span is None else span
        h = jnp.concatenate([x, condition[:, None], span[:, None]], axis=-1)
        for _ in range(2):
            h = nn.swish(nn.Dense(self.width)(h))
        return nn.Dense(x.shape[-1])(h)


def get_config() -> ConfigDict:
    """Mean flows of Geng et al. 2025 (arXiv 2505.13447) along a straight path."""
    config = small()
    config.model.name = "average_velocity:Net"
    config.sde.name = "rectified_flow"
    config.parameterization.output = "velocity"
    config.objective.kind = "mean_flow"
    config.objective.times = "logit_normal"
    config.sampling.predictor = "mean_flow"
    return config
