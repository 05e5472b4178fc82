r"""Learned uncertainty: the loss at each noise level in units of the error that is left there.

    L = E [ w |D - x_0|^2 / e^u + u ]

per dimension, with a weight ``w`` and a function ``u(log sigma)`` of the noise-to-signal ratio that is trained together
with the network (Karras et al. 2024, arXiv 2312.02696, after Kendall et al. 2018, arXiv 1705.07115). The best ``u`` is
the logarithm of the mean of ``w |D - x_0|^2`` at the level, with which all levels have gradients of one size, whatever
``w``. It is 0 for data N(0, d^2) under EDM's weighting.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from score_sde.errors import UserError
from score_sde.typing import Batch, Network, Output, Params, PRNGKey, Times

Uncertainty: TypeAlias = Callable[[Params, Times], Times]  #: ``u`` of the parameters at ``log(s / m)``

_NAME = "uncertainty"  # of its parameters beside those of the network
_FREQUENCIES = 64
_BANDWIDTH = 0.25  # standard deviation of the frequencies, in periods per unit of log(s / m)


@dataclasses.dataclass(frozen=True)
class Uncertain:
    """A network with an uncertainty beside it, which is 0 at first: the loss begins as the one without.

    The parameters of the network, a dictionary, get one entry more.

    Attributes:
        network: The network.
    """

    network: Network

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """The parameters of both.

        Raises:
            UserError: If the parameters of the network are no dictionary.
        """
        params = self.network.init(key, shape)
        if not isinstance(params, Mapping):
            raise UserError(
                f"The parameters of the network are a {type(params).__name__}, and an uncertainty is one more entry of "
                "them; expected a dictionary, or config.objective.uncertainty=False."
            )
        return {**params, _NAME: jnp.zeros(2 * _FREQUENCIES)}

    def apply(self, params: Params, x: Batch, condition: Times, **given: Any) -> Output:
        """The output of the network."""
        own = {name: value for name, value in params.items() if name != _NAME}
        return self.network.apply(own, x, condition, **given)

    def uncertainty(self, params: Params, log_noise: Times) -> Times:
        """``u``: a sum of waves, with frequencies at the quantiles of a normal law."""
        return _waves(log_noise) @ params[_NAME]


def _waves(log_noise: Times) -> Float[Array, "batch waves"]:
    """Waves of magnitude 1 in all: their sum with weights of 1 has the magnitude 1 / sqrt of their number."""
    quantiles = 0.5 + (jnp.arange(_FREQUENCIES) + 0.5) / (2 * _FREQUENCIES)
    frequencies = norm.ppf(quantiles).astype(log_noise.dtype) * (2.0 * math.pi * _BANDWIDTH)
    angles = log_noise[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1) / math.sqrt(_FREQUENCIES)
