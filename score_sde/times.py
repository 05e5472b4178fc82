r"""The times at which a loss is evaluated, and their weights.

A time sampler returns times and weights such that ``mean(weight * f(t))`` estimates the average of ``f`` over uniform
time in ``[t0, t1]``: then the weighting (:mod:`score_sde.weightings`) alone decides what is minimized. Two laws of
recent papers, :class:`LogNormalTimes` and :class:`LogitNormalTimes`, are part of what is minimized there, so their
weights are 1.
"""

import abc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from score_sde.arguments import Checked, not_fulfilled, not_whole
from score_sde.errors import UserError
from score_sde.fields import DEFAULTS
from score_sde.outside.parts import Part, Registry
from score_sde.outside.purity import impure
from score_sde.processes import Process
from score_sde.sdes import SDE
from score_sde.typing import Number, PRNGKey, Scalar, Time, Times, TimeSampler, TimeSamples, component, holds, static
from score_sde.weightings import Weighting


class _Between(Checked):
    """Base of the time samplers: times between two bounds, which are checked."""

    t0: Number
    t1: Number

    def problems(self) -> Iterator[str]:
        """Sentences about bounds with no times between them."""
        yield from not_fulfilled("t0", self.t0, lambda t0: (t0 >= 0.0) & (t0 < 1.0), "a time from 0 to below 1")
        yield from not_fulfilled("t1", self.t1, lambda t1: (t1 > 0.0) & (t1 <= 1.0), "a time above 0, up to 1")
        if not holds(lambda t0, t1: t0 < t1, self.t0, self.t1):
            yield f"t0 is {self.t0} and t1 is {self.t1}; expected the first to be smaller."


@component
class UniformTimes(_Between):
    """Independent uniform times on ``[t0, t1]``; the choice of the original.

    >>> samples = UniformTimes(t0=0.5).sample(jax.random.key(0), 100)
    >>> bool((samples.t >= 0.5).all()), float(samples.weight[0])
    (True, 1.0)
    """

    t0: Number = 1e-5
    t1: Number = 1.0

    def at(self, quantiles: Times) -> TimeSamples:
        """The times below which the given fractions of the draws lie."""
        return TimeSamples(self.t0 + quantiles * (self.t1 - self.t0), jnp.ones_like(quantiles))

    def sample(self, key: PRNGKey, n: int) -> TimeSamples:
        """Draw ``n`` times."""
        return self.at(jax.random.uniform(key, (n,)))


@component
class LowDiscrepancyTimes(_Between):
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
class LevelTimes(_Between):
    """Independent draws from ``num_levels`` equidistant times, the noise levels of a discrete chain.

    With ``t0 = 1 / N`` they are the times of :class:`~score_sde.chains.DDPM`, with ``t0 = 0`` the times of
    :class:`~score_sde.chains.NCSN`.

    >>> sorted({round(float(t), 2) for t in LevelTimes(t0=0.2, num_levels=5).sample(jax.random.key(0), 100).t})
    [0.2, 0.4, 0.6, 0.8, 1.0]
    """

    t0: Number = 1e-3
    t1: Number = 1.0
    num_levels: Number = 1000

    def problems(self) -> Iterator[str]:
        """Sentences about invalid levels."""
        yield from super().problems()
        yield from not_whole("num_levels", self.num_levels, 2)

    def sample(self, key: PRNGKey, n: int) -> TimeSamples:
        """Draw ``n`` times."""
        u = jax.random.randint(key, (n,), 0, self.num_levels) / (self.num_levels - 1)
        return TimeSamples((1.0 - u) * self.t0 + u * self.t1, jnp.ones(n))  # exact at both ends


@component
class ImportanceTimes(_Between):
    r"""Times with density proportional to ``g(t)^2 / s(t)^2``, which tames the variance of likelihood weighting.

    Song et al. 2021b (arXiv 2101.09258, section 5). Because ``m' = f m`` and ``(s^2)' = 2 f s^2 + g^2``, for every
    linear SDE ``d/dt log(m^2 / s^2) = -g^2 / s^2``, so the log-SNR of the times is uniform. The distribution function,
    its normalizer and its inverse are therefore :meth:`~score_sde.processes.Process.log_snr` and its inverse, exactly,
    for any SDE; a new one needs no quadrature. Under the VE SDE the times are uniform.

    With likelihood weighting the factor of the squared error in noise space becomes the constant
    :attr:`normalizer` ``/ (t1 - t0)``.

    Attributes:
        sde: The forward process.
        t0: Smallest time.
        t1: Largest time.
        base: Draws the quantiles in ``[0, 1]``; ``LowDiscrepancyTimes(t0=0.0)`` for one in each stratum.

    >>> from score_sde.sdes import VP
    >>> times = ImportanceTimes(sde=VP(), t0=1e-5)
    >>> round(float(times.normalizer), 4)
    23.8645
    >>> [f"{t:.6f}" for t in times.at(jnp.array([0.1, 0.5, 0.9])).t]  # uniform times would be 0.1, 0.5 and 0.9
    ['0.000108', '0.114421', '0.872628']
    """

    sde: Process
    t0: Number = 1e-5
    t1: Number = 1.0
    base: TimeSampler = UniformTimes(t0=0.0)

    @property
    def normalizer(self) -> Scalar:
        """``Z``, the integral of ``g^2 / s^2`` from ``t0`` to ``t1``: the difference of the log-SNR between them."""
        return self.sde.log_snr(jnp.asarray(self.t0)) - self.sde.log_snr(jnp.asarray(self.t1))

    def at(self, quantiles: Times) -> TimeSamples:
        """The times below which the given fractions of the draws lie, and their weights ``Z s^2 / (g^2 (t1 - t0))``.

        Raises:
            UserError: If the process is a chain, which has no ``g``.
        """
        if not isinstance(self.sde, SDE):
            raise UserError("Importance-sampled times follow the diffusion g of an SDE, and a chain has none.")
        start, end = (self.sde.log_snr(jnp.asarray(t)) for t in (self.t0, self.t1))
        t = self.sde.inverse_log_snr((1.0 - quantiles) * start + quantiles * end)
        t = jnp.clip(t, self.t0, self.t1)  # rounding may pass the ends
        scale = (start - end) / (self.t1 - self.t0)
        return TimeSamples(t, scale * (self.sde.marginal(t).std / self.sde.diffusion(t)) ** 2)

    def sample(self, key: PRNGKey, n: int) -> TimeSamples:
        """Draw ``n`` times.

        Raises:
            UserError: If the process is a chain.
        """
        quantiles, weight = self.base.sample(key, n)
        samples = self.at(quantiles)
        return TimeSamples(samples.t, weight * samples.weight)


@component
class WeightedTimes(_Between):
    r"""Times with density proportional to the weight ``w = lambda / s^2`` of the error in noise space.

    Whatever the weighting, the factor of every error is then one constant: what :class:`ImportanceTimes` is to the
    weighting by likelihood, with a distribution function by the trapezoidal rule on a grid even in log-SNR.

    Attributes:
        sde: The forward process.
        weighting: ``lambda(t)``.
        t0: Smallest time.
        t1: Largest time.
        base: Draws the quantiles in ``[0, 1]``.
        num_points: Points of the grid.

    >>> from score_sde.sdes import VP
    >>> from score_sde.weightings import MinSNRWeighting
    >>> t, weight = WeightedTimes(sde=VP(), weighting=MinSNRWeighting()).at(jnp.linspace(0.0, 1.0, 5))
    >>> w = MinSNRWeighting()(VP(), t) / VP().marginal(t).std ** 2
    >>> bool(jnp.ptp(weight * w) < 1e-3 * jnp.max(weight * w))
    True
    """

    sde: Process
    weighting: Weighting = static()
    t0: Number = 1e-5
    t1: Number = 1.0
    base: TimeSampler = UniformTimes(t0=0.0)
    num_points: int = static(default=2049)

    def _weight(self, t: Times) -> Times:
        return self.weighting(self.sde, t) / self.sde.marginal(t).std ** 2

    def at(self, quantiles: Times) -> TimeSamples:
        """The times below which the given fractions of the draws lie, and their weights."""
        start, end = (self.sde.log_snr(jnp.asarray(t)) for t in (self.t0, self.t1))
        t = self.sde.inverse_log_snr(jnp.linspace(start, end, self.num_points)).at[0].set(self.t0).at[-1].set(self.t1)
        w = self._weight(t)
        steps = 0.5 * (w[1:] + w[:-1]) * jnp.diff(t)
        mass = jnp.concatenate([jnp.zeros(1, steps.dtype), jnp.cumsum(steps)])
        at = jnp.interp(quantiles * mass[-1], mass, t)
        return TimeSamples(at, mass[-1] / ((self.t1 - self.t0) * self._weight(at)))

    def sample(self, key: PRNGKey, n: int) -> TimeSamples:
        """Draw ``n`` times."""
        quantiles, weight = self.base.sample(key, n)
        samples = self.at(quantiles)
        return TimeSamples(samples.t, weight * samples.weight)


class _Normal(_Between):
    """Times of which a function is normal, between two times."""

    mean: Number
    std: Number
    base: TimeSampler

    @abc.abstractmethod
    def value(self, t: Time) -> Time:
        """The function that is normal; increasing."""

    @abc.abstractmethod
    def time(self, value: Time) -> Time:
        """Its inverse."""

    def problems(self) -> Iterator[str]:
        """Sentences about invalid times, and a std that is none."""
        yield from super().problems()
        yield from not_fulfilled("std", self.std, lambda std: std > 0.0, "a number above 0")

    def at(self, quantiles: Times) -> TimeSamples:
        """The times below which the given fractions of the draws lie."""
        low, high = (ndtr((self.value(jnp.asarray(t)) - self.mean) / self.std) for t in (self.t0, self.t1))
        value = self.mean + self.std * ndtri(low + quantiles * (high - low))
        return TimeSamples(jnp.clip(self.time(value), self.t0, self.t1), jnp.ones_like(quantiles))

    def sample(self, key: PRNGKey, n: int) -> TimeSamples:
        """Draw ``n`` times."""
        return self.at(self.base.sample(key, n).t)


@component
class LogNormalTimes(_Normal):
    r"""Times whose noise level ``sigma = s / m`` is lognormal: ``log sigma ~ N(mean, std^2)`` (Karras et al. 2022).

    The law is part of the loss, so the weights are 1. It is cut off at ``t0`` and ``t1``.

    Attributes:
        sde: The forward process.
        mean: Mean of ``log sigma``, -1.2 in the paper.
        std: Its standard deviation, 1.2 there.
        t0: Smallest time.
        t1: Largest time.
        base: Draws the quantiles in ``[0, 1]``.

    >>> from score_sde.sdes import VE
    >>> t = LogNormalTimes(sde=VE()).at(jnp.array([0.5])).t
    >>> round(float(jnp.log(VE().marginal(t).std[0])), 2)  # the median, but for the cut
    -1.2
    """

    sde: Process
    mean: Number = DEFAULTS.objective.time_mean
    std: Number = DEFAULTS.objective.time_std
    t0: Number = 1e-5
    t1: Number = 1.0
    base: TimeSampler = UniformTimes(t0=0.0)

    def value(self, t: Time) -> Time:
        """``log(s / m)``."""
        return -0.5 * self.sde.log_snr(t)

    def time(self, value: Time) -> Time:
        """By the inverse of the log-SNR."""
        return self.sde.inverse_log_snr(-2.0 * value)


@component
class LogitNormalTimes(_Normal):
    r"""Times whose logit is normal, ``log(t / (1 - t)) ~ N(mean, std^2)`` (Esser et al. 2024, arXiv 2403.03206).

    The law is part of the loss, so the weights are 1. It is cut off at ``t0`` and ``t1``.

    Attributes:
        mean: Mean of the logit, 0 in the paper; above 0 there is more noise.
        std: Its standard deviation, 1 there.
        t0: Smallest time.
        t1: Largest time.
        base: Draws the quantiles in ``[0, 1]``.

    >>> [round(float(t), 3) for t in LogitNormalTimes(mean=0.0, std=1.0).at(jnp.array([0.1, 0.5, 0.9])).t]
    [0.217, 0.5, 0.783]
    """

    mean: Number = 0.0
    std: Number = 1.0
    t0: Number = 1e-5
    t1: Number = 1.0
    base: TimeSampler = UniformTimes(t0=0.0)

    def value(self, t: Time) -> Time:
        """``log(t / (1 - t))``."""
        return jnp.log(t) - jnp.log1p(-t)

    def time(self, value: Time) -> Time:
        """The logistic function."""
        return jax.nn.sigmoid(value)


def _check_times(part: Part, sampler: Any) -> None:
    """Check a time sampler of the user's own: as many times as asked for, in [0, 1], with weights above 0."""
    if not isinstance(sampler, TimeSampler):
        raise part.refused(f"makes a {type(sampler).__name__}", "an object with sample(key, n) -> TimeSamples")
    key, n = jax.random.key(0), 64
    drawn = part.calling(sampler.sample, key, n)
    if not isinstance(drawn, TimeSamples) or any(jnp.shape(one) != (n,) for one in drawn):
        shapes = tuple(map(jnp.shape, drawn)) if isinstance(drawn, tuple) else type(drawn).__name__
        raise part.refused(f"draws {shapes} for n = {n}", f"TimeSamples(t, weight), both of shape ({n},)")
    t, weight = (np.asarray(one) for one in drawn)
    if not (np.isfinite(t) & (t >= 0.0) & (t <= 1.0)).all():
        raise part.refused(f"draws times from {t.min():g} to {t.max():g}", "times from 0 to 1")
    if not (np.isfinite(weight) & (weight > 0.0)).all():
        raise part.refused(f"draws weights from {weight.min():g} to {weight.max():g}", "finite weights above 0")
    if part.calling(impure, lambda key: sampler.sample(key, n), key):
        raise part.refused("draws other times from the same key the second time", "random numbers from the key alone")


#: The laws of training times, by the names of configurations.
TIME_SAMPLERS: Mapping[str, Callable[..., TimeSampler]] = Registry(
    "objective.times",
    {
        "uniform": UniformTimes,
        "low_discrepancy": LowDiscrepancyTimes,
        "levels": LevelTimes,
        "importance": ImportanceTimes,
        "weighted": WeightedTimes,
        "lognormal": LogNormalTimes,
        "logit_normal": LogitNormalTimes,
    },
    check=_check_times,
)

#: The laws by log-SNR and its inverse, or by the diffusion, which a chain lacks.
OF_SDE = (ImportanceTimes, WeightedTimes, LogNormalTimes)
