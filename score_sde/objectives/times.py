r"""Which times a loss is evaluated at, and how each is weighted.

A time sampler returns times and weights such that ``mean(weight * f(t))`` estimates the average of ``f`` over uniform
time in ``[t0, t1]``. A weighting is the ``lambda(t)`` of the denoising score matching loss
``lambda(t) |score + z / s|^2`` (Song et al. 2021, eq. 7).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import jax
import jax.numpy as jnp

from score_sde.errors import UserError
from score_sde.processes import Process
from score_sde.sdes import SDE
from score_sde.typing import Number, PRNGKey, Time, Times, TimeSampler, TimeSamples, component

Weighting: TypeAlias = Callable[[Process, Times], Times]


def variance_weighting(sde: Process, t: Time) -> Time:
    """``lambda = s^2``: every noise level counts the same in noise space; best for samples."""
    return sde.marginal(t).std ** 2


def likelihood_weighting(sde: Process, t: Time) -> Time:
    """``lambda = g^2``: the loss bounds the negative log-likelihood (Song et al. 2021, arXiv 2101.09258, theorem 1)."""
    if not isinstance(sde, SDE):
        raise UserError("Likelihood weighting is by the diffusion g of an SDE, and a chain has none; use variance.")
    return sde.diffusion(t) ** 2


@component
class UniformTimes:
    """Independent uniform times on ``[t0, t1]``; the choice of the original.

    >>> samples = UniformTimes(t0=0.5).sample(jax.random.key(0), 100)
    >>> bool((samples.t >= 0.5).all()), float(samples.weight[0])
    (True, 1.0)
    """

    t0: Number = 1e-5
    t1: Number = 1.0

    def sample(self, key: PRNGKey, n: int) -> TimeSamples:
        """Draw ``n`` times."""
        u = jax.random.uniform(key, (n,))
        return TimeSamples(self.t0 + u * (self.t1 - self.t0), jnp.ones(n))


@component
class LowDiscrepancyTimes:
    """One shared uniform offset and ``n`` equal strides: uniform marginals, lower variance.

    Kingma et al. 2021 (arXiv 2107.00630, appendix I.1): ``u_i = (u_0 + i / n) mod 1``.
    """

    t0: Number = 1e-5
    t1: Number = 1.0

    def sample(self, key: PRNGKey, n: int) -> TimeSamples:
        """Draw ``n`` times, one in each of ``n`` equal strata."""
        u = (jax.random.uniform(key, ()) + jnp.arange(n) / n) % 1.0
        return TimeSamples(self.t0 + u * (self.t1 - self.t0), jnp.ones(n))


@component
class LevelTimes:
    """Independent draws from ``num_levels`` equidistant times, the noise levels of a discrete chain.

    From ``t0 = 1 / N`` they are the times of :class:`~score_sde.chains.DDPM`, from ``t0 = 0`` those of
    :class:`~score_sde.chains.NCSN`.

    >>> sorted({round(float(t), 2) for t in LevelTimes(t0=0.2, num_levels=5).sample(jax.random.key(0), 100).t})
    [0.2, 0.4, 0.6, 0.8, 1.0]
    """

    t0: Number = 1e-3
    t1: Number = 1.0
    num_levels: Number = 1000

    def sample(self, key: PRNGKey, n: int) -> TimeSamples:
        """Draw ``n`` times."""
        u = jax.random.randint(key, (n,), 0, self.num_levels) / (self.num_levels - 1)
        return TimeSamples((1.0 - u) * self.t0 + u * self.t1, jnp.ones(n))  # exact at both ends


TIME_SAMPLERS: Mapping[str, Callable[..., TimeSampler]] = MappingProxyType(
    {"uniform": UniformTimes, "low_discrepancy": LowDiscrepancyTimes, "levels": LevelTimes}
)
WEIGHTINGS: Mapping[str, Weighting] = MappingProxyType(
    {"variance": variance_weighting, "likelihood": likelihood_weighting}
)
