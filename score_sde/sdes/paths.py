r"""Gaussian paths from data to noise of recent papers, as linear SDEs.

A path ``x_t = m(t) x_0 + s(t) z`` fixes the coefficients of its SDE, ``f = m' / m`` and ``g^2 = 2 s (s' - f s)``. Where
the papers let the data vanish at ``t = 1`` these are infinite there. Here a small weight of the data is left, ``end``:
the prior differs from the marginal by ``end^2 |x_0|^2 / 2`` nats.
"""

from collections.abc import Iterator

import jax.numpy as jnp
from jax.nn import sigmoid

from score_sde.arguments import not_fulfilled
from score_sde.fields import DEFAULTS
from score_sde.processes import Marginal, Transition
from score_sde.sdes.base import SDE
from score_sde.typing import Number, Time, component, holds


class _Ends(SDE):
    """A path that leaves a small weight of the data at ``t = 1``, under the prior ``N(0, I)``."""

    end: Number

    def problems(self) -> Iterator[str]:
        """The sentence about a weight that no float32 resolves, or that hides the noise."""
        yield from not_fulfilled("end", self.end, lambda end: (end >= 1e-6) & (end <= 0.5), "a weight from 1e-6 to 0.5")

    @property
    def prior_std(self) -> Number:
        """One."""
        return 1.0

    def discrete_step(self, s: Time, t: Time) -> Transition:
        """The transition, which is exact."""
        return self.transition(s, t)


def _transition(mean_coeff: Time, std: Time, less: Time) -> Transition:
    """The transition whose share of kept noise is ``1 - less``, of a step with these ``m(t) / m(s)`` and ``s(t)``."""
    return Transition(mean_coeff, std * jnp.sqrt(less * (2.0 - less)))


@component
class RectifiedFlow(_Ends):
    r"""The straight path ``m = 1 - (1 - end) t``, ``s = t`` of rectified flow and flow matching.

    Liu et al. 2022 (arXiv 2209.03003) and Lipman et al. 2022 (arXiv 2210.02747), with time from data to noise. Here
    ``f = -(1 - end) / m`` and ``g^2 = 2 t / m``.

    >>> path = RectifiedFlow()
    >>> [round(float(value), 4) for value in path.marginal(jnp.array(0.25))]
    [0.7502, 0.25]
    """

    end: Number = DEFAULTS.sde.end

    def _mean(self, t: Time) -> Time:
        return 1.0 - (1.0 - self.end) * t

    def marginal(self, t: Time) -> Marginal:
        """``(1 - (1 - end) t, t)``."""
        return Marginal(self._mean(t), t)

    def drift_coeff(self, t: Time) -> Time:
        """``-(1 - end) / m``."""
        return -(1.0 - self.end) / self._mean(t)

    def diffusion(self, t: Time) -> Time:
        """``sqrt(2 t / m)``."""
        return jnp.sqrt(2.0 * t / self._mean(t))

    def inverse_log_snr(self, log_snr: Time) -> Time:
        """``1 / (exp(log_snr / 2) + 1 - end)``."""
        return 1.0 / (jnp.exp(0.5 * log_snr) + (1.0 - self.end))

    def transition(self, s: Time, t: Time) -> Transition:
        """The share of the noise at ``t`` that is new is ``(t - s) / (m(s) t)``."""
        return _transition(self._mean(t) / self._mean(s), t, (t - s) / (self._mean(s) * t))


@component
class Cosine(_Ends):
    r"""The trigonometric path ``m = cos(a t)``, ``s = sin(a t)`` with ``cos a = end``, which keeps unit variance.

    In continuous time the cosine schedule of Nichol & Dhariwal 2021 (arXiv 2102.09672) without its offset; as TrigFlow
    in Lu & Song 2024 (arXiv 2410.11081). ``f = -a tan(a t)`` and ``g^2 = 2 a tan(a t)``.

    >>> m, s = Cosine().marginal(jnp.array(0.5))
    >>> round(float(m**2 + s**2), 5)
    1.0
    """

    end: Number = DEFAULTS.sde.end

    @property
    def _speed(self) -> Number:
        return jnp.arccos(self.end)

    def marginal(self, t: Time) -> Marginal:
        """``(cos(a t), sin(a t))``."""
        # The cosine as the sine of the rest of the right angle, which keeps its digits near the end.
        rest = jnp.arcsin(self.end) + (1.0 - t) * self._speed
        return Marginal(jnp.sin(rest), jnp.sin(self._speed * t))

    def drift_coeff(self, t: Time) -> Time:
        """``-a tan(a t)``."""
        mean_coeff, std = self.marginal(t)
        return -self._speed * std / mean_coeff

    def diffusion(self, t: Time) -> Time:
        """``sqrt(2 a tan(a t))``."""
        return jnp.sqrt(-2.0 * self.drift_coeff(t))

    def inverse_log_snr(self, log_snr: Time) -> Time:
        """``arctan(exp(-log_snr / 2)) / a``."""
        return jnp.arctan(jnp.exp(-0.5 * log_snr)) / self._speed

    def transition(self, s: Time, t: Time) -> Transition:
        """The share of the noise at ``t`` that is new is ``sin(a (t - s)) / (cos(a s) sin(a t))``."""
        (mean_s, _), (mean_t, std_t) = self.marginal(s), self.marginal(t)
        return _transition(mean_t / mean_s, std_t, jnp.sin(self._speed * (t - s)) / (mean_s * std_t))


@component
class Sigmoid(_Ends):
    r"""The variance-preserving path with ``s^2 = (1 - end^2) q(t)``, ``q`` a piece of a logistic curve from 0 to 1.

    The sigmoid schedule of Jabri et al. 2022 (arXiv 2212.11972) with its usual start, end and temperature, -3, 3 and 1:
    ``q = (sigmoid(6 t - 3) - sigmoid(-3)) / (sigmoid(3) - sigmoid(-3))``.

    >>> m, s = Sigmoid().marginal(jnp.array(0.5))
    >>> round(float(m**2), 3), round(float(s**2), 3)
    (0.5, 0.5)
    """

    end: Number = DEFAULTS.sde.end

    def _share(self, t: Time) -> Time:
        """``q``, without a difference of close numbers."""
        return _less(t) / _less(jnp.ones_like(t))

    def _rate(self, t: Time) -> Time:
        """``q'``."""
        slope = sigmoid(6.0 * t - 3.0) * sigmoid(3.0 - 6.0 * t)
        return 6.0 * slope / _less(jnp.ones_like(t))

    @property
    def _whole(self) -> Number:
        return 1.0 - self.end**2

    def marginal(self, t: Time) -> Marginal:
        """``(sqrt(1 - s^2), sqrt((1 - end^2) q))``."""
        # Of the mirrored time, so that m keeps its digits near the end too: 1 - q(t) = q(1 - t).
        mean_square = self._whole * self._share(1.0 - t) + self.end**2
        return Marginal(jnp.sqrt(mean_square), jnp.sqrt(self._whole * self._share(t)))

    def drift_coeff(self, t: Time) -> Time:
        """``-(s^2)' / (2 m^2)``."""
        return -0.5 * self._whole * self._rate(t) / self.marginal(t).mean_coeff ** 2

    def diffusion(self, t: Time) -> Time:
        """``sqrt((s^2)') / m``."""
        return jnp.sqrt(self._whole * self._rate(t)) / self.marginal(t).mean_coeff


def _less(t: Time) -> Time:
    """``sigmoid(6 t - 3) - sigmoid(-3)``."""
    return -sigmoid(6.0 * t - 3.0) * sigmoid(3.0) * jnp.expm1(-6.0 * t)


@component
class EDM(SDE):
    r"""The path of Karras et al. 2022 (arXiv 2206.00364): data as they are, noise of std ``sigma_max t``.

    ``f = 0`` and ``g^2 = 2 sigma_max^2 t``. The prior is ``N(0, sigma_max^2 I)``.

    >>> float(EDM(sigma_max=80.0).marginal(jnp.array(0.1)).std)
    8.0
    """

    sigma_max: Number = DEFAULTS.sde.sigma_max

    def problems(self) -> Iterator[str]:
        """The sentence about noise out of range."""
        if not holds(lambda sigma: (sigma >= 1e-6) & (sigma <= 1e18), self.sigma_max):
            yield f"sigma_max is {self.sigma_max}; expected 1e-06 to 1e+18, whose squares are numbers."

    @property
    def prior_std(self) -> Number:
        """``sigma_max``; the mean of the data is neglected beside it."""
        return self.sigma_max

    def marginal(self, t: Time) -> Marginal:
        """``(1, sigma_max t)``."""
        return Marginal(jnp.ones_like(t), self.sigma_max * t)

    def drift_coeff(self, t: Time) -> Time:
        """Zero: the data is never shrunk."""
        return jnp.zeros_like(t)

    def diffusion(self, t: Time) -> Time:
        """``sigma_max sqrt(2 t)``."""
        return self.sigma_max * jnp.sqrt(2.0 * t)

    def inverse_log_snr(self, log_snr: Time) -> Time:
        """``exp(-log_snr / 2) / sigma_max``."""
        return jnp.exp(-0.5 * log_snr) / self.sigma_max

    def transition(self, s: Time, t: Time) -> Transition:
        """``(1, sigma_max sqrt(t^2 - s^2))``."""
        return Transition(jnp.ones_like(t), self.sigma_max * jnp.sqrt((t - s) * (t + s)))

    def discrete_step(self, s: Time, t: Time) -> Transition:
        """The transition, which is exact."""
        return self.transition(s, t)
