"""Gaussians of independent dimensions, with the closed forms for variational bounds."""

import math
from typing import NamedTuple

import jax.numpy as jnp

from score_sde.typing import Batch, Scalar, Times, event_sum


class Gaussian(NamedTuple):
    """A Gaussian of independent dimensions for every example, ``N(mean, exp(2 log_std))``.

    >>> p = Gaussian(jnp.zeros((1, 2)), jnp.zeros((1, 2)))
    >>> p.divergence(p).tolist()
    [0.0]
    """

    mean: Batch
    log_std: Batch  # of the shape of the mean

    def at(self, noise: Batch) -> Batch:
        """``mean + std noise``, a sample for standard normal noise."""
        return self.mean + jnp.exp(self.log_std) * noise

    def log_density(self, x: Batch) -> Times:
        """The log-density in nats per example."""
        square = ((x - self.mean) * jnp.exp(-self.log_std)) ** 2
        return -0.5 * event_sum(square + 2.0 * self.log_std + math.log(2.0 * math.pi))

    def divergence(self, other: "Gaussian") -> Times:
        """``KL(self || other)`` in nats per example.

        For a single dimension it is ``(r - 1 - log r + (difference of the means / other std)^2) / 2`` with the ratio
        ``r`` of the variances; against N(0, I) this is minus the first term of eq. 10 of Kingma & Welling 2013.
        """
        log_ratio = 2.0 * (self.log_std - other.log_std)
        offset = (self.mean - other.mean) * jnp.exp(-other.log_std)
        return 0.5 * event_sum(jnp.expm1(log_ratio) - log_ratio + offset**2)


def isotropic(mean: Batch, std: Scalar) -> Gaussian:
    """The Gaussian with one standard deviation for all dimensions of all examples."""
    return Gaussian(mean, jnp.full_like(mean, jnp.log(std)))
