"""A law of training times: powers of a uniform number, with the weights that leave the loss what it is."""

import dataclasses

import jax
from small import small

from score_sde.config import ConfigDict
from score_sde.typing import PRNGKey, TimeSamples


@dataclasses.dataclass(frozen=True)
class Powers:
    """``t = t0 + (1 - t0) u^power``, whose inverse density is the weight; power 1 is uniform."""

    t0: float
    power: float = 2.0

    def sample(self, key: PRNGKey, n: int) -> TimeSamples:
        """``n`` times, more of them near the data with a larger power."""
        u = jax.random.uniform(key, (n,), minval=1e-6)
        return TimeSamples(self.t0 + (1.0 - self.t0) * u**self.power, self.power * u ** (self.power - 1.0))


def get_config() -> ConfigDict:
    """With power 1.5."""
    config = small()
    config.objective.times = "times:Powers"
    config.objective.options.power = 1.5
    return config
