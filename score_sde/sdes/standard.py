"""The three SDEs of Song et al. 2021 (arXiv 2011.13456): variance exploding, variance preserving, sub-VP.

All formulas are stable in float32: ``1 - exp(-B)`` is written ``-expm1(-B)``.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.arguments import not_whole
from score_sde.chains import DDPM, NCSN, Chain
from score_sde.errors import refuse
from score_sde.fields import DEFAULTS
from score_sde.processes import Marginal, Transition
from score_sde.sdes.base import SDE
from score_sde.typing import Number, Time, component, holds


def _precision() -> "np.finfo[Any]":
    """The limits of JAX's default floating-point numbers."""
    return np.finfo(jax.dtypes.canonicalize_dtype(float))


@component
class VE(SDE):
    r"""Variance exploding: ``dx = g(t) dw``, ``sigma(t) = sigma_min (sigma_max / sigma_min)^t``.

    ``g = sigma sqrt(2 log(sigma_max / sigma_min))`` (Song et al. 2021, eq. 30). By the convention of the original the
    marginal std is ``sigma(t)``, not ``sqrt(sigma(t)^2 - sigma(0)^2)``: data count as smoothed by ``sigma_min``
    already. The prior is ``N(0, sigma_max^2 I)``.

    >>> round(float(VE(sigma_max=50.0).marginal(jnp.array(0.5)).std), 6)
    0.707107
    """

    sigma_min: Number = DEFAULTS.sde.sigma_min
    sigma_max: Number = DEFAULTS.sde.sigma_max

    def problems(self) -> Iterator[str]:
        """Sentences about noise whose square is out of range in the current precision, or that does not grow."""
        low, high = float(np.sqrt(_precision().tiny)), float(np.sqrt(_precision().max))
        for name in ("sigma_min", "sigma_max"):
            value = getattr(self, name)
            if not holds(lambda sigma: (low <= sigma) & (sigma <= high), value):
                yield f"{name} is {value}; expected {low:.2g} to {high:.2g}, whose squares are numbers."
        if not holds(lambda first, last: ~(first >= last), self.sigma_min, self.sigma_max):
            yield f"sigma_min is {self.sigma_min} and sigma_max is {self.sigma_max}; expected the first to be smaller."

    @property
    def _log_ratio(self) -> Array:
        return jnp.log(self.sigma_max) - jnp.log(self.sigma_min)

    def drift_coeff(self, t: Time) -> Time:
        """Zero: the data is never shrunk."""
        return jnp.zeros_like(t)

    def diffusion(self, t: Time) -> Time:
        """``sigma(t) sqrt(2 log(sigma_max / sigma_min))``."""
        return self.marginal(t).std * jnp.sqrt(2.0 * self._log_ratio)

    def marginal(self, t: Time) -> Marginal:
        """``(1, sigma(t))``."""
        return Marginal(jnp.ones_like(t), jnp.exp(jnp.log(self.sigma_min) + t * self._log_ratio))

    @property
    def prior_std(self) -> Number:
        """``sigma_max``; the mean of the data is neglected beside it."""
        return self.sigma_max

    def inverse_log_snr(self, log_snr: Time) -> Time:
        """Invert ``-2 log sigma(t)``."""
        return (-0.5 * log_snr - jnp.log(self.sigma_min)) / self._log_ratio

    def transition(self, s: Time, t: Time) -> Transition:
        """``(1, sqrt(sigma(t)^2 - sigma(s)^2))``."""
        ratio = jnp.expm1(2.0 * (s - t) * self._log_ratio)
        return Transition(jnp.ones_like(t), self.marginal(t).std * jnp.sqrt(-ratio))

    def discrete_step(self, s: Time, t: Time) -> Transition:
        """The chain of score matching with Langevin dynamics, which is exact."""
        return self.transition(s, t)

    def discretize(self, n: int) -> Chain:
        """The NCSN chain with ``n`` geometric noise levels, which are the marginals at its times."""
        refuse(not_whole("n", n, 1))
        return NCSN(sigmas=self.marginal(jnp.linspace(0.0, 1.0, n)).std)


@component
class VP(SDE):
    r"""Variance preserving: ``dx = -beta/2 x dt + sqrt(beta) dw``, ``beta(t) = beta_min + t (beta_max - beta_min)``.

    With ``B(t) = beta_min t + (beta_max - beta_min) t^2 / 2``: ``m = exp(-B/2)``, ``s^2 = 1 - exp(-B)``
    (Song et al. 2021, eq. 33). The prior is ``N(0, I)``.

    >>> float(VP().marginal(jnp.array(1e-5)).std)  # 0.001000497 in exact arithmetic
    0.0010004...
    """

    beta_min: Number = DEFAULTS.sde.beta_min
    beta_max: Number = DEFAULTS.sde.beta_max

    def problems(self) -> Iterator[str]:
        """Sentences about invalid or falling rates, and noise that erases the data: the weight ``exp(-B(1) / 2)``."""
        first, last, most = self.beta_min, self.beta_max, -4.0 * float(np.log(_precision().tiny))
        for name, value in {"beta_min": first, "beta_max": last}.items():
            if not holds(lambda rate: rate >= 0.0, value):
                yield f"{name} is {value}; expected a rate of noise, 0 or more."
        if not holds(lambda first, last: ~(first > last), first, last):
            yield f"beta_min is {first} and beta_max is {last}; expected the first to be no larger."
        elif not holds(lambda first, last: ~(first + last == 0.0), first, last):
            yield "beta_min and beta_max are 0, and no noise is ever added; expected one of them above 0."
        elif not holds(lambda first, last: ~(first + last >= most), first, last):
            yield (
                f"beta_min is {first} and beta_max is {last}: at t = 1 the weight of the data, "
                f"exp(-(beta_min + beta_max) / 4), is 0 in {_precision().dtype}. Expected a sum below {int(most)}; "
                "20 leaves 0.7 % of the data."
            )

    def beta(self, t: Time) -> Time:
        """The noise rate ``beta(t)``."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integrated_beta(self, t: Time) -> Time:
        """``B(t)``, the integral of beta from 0 to ``t``."""
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def _inverse_integrated_beta(self, value: Time) -> Time:
        # The root of the quadratic in the form without cancellation.
        slope = self.beta_max - self.beta_min
        return 2.0 * value / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2.0 * slope * value))

    def drift_coeff(self, t: Time) -> Time:
        """``-beta(t) / 2``."""
        return -0.5 * self.beta(t)

    def diffusion(self, t: Time) -> Time:
        """``sqrt(beta(t))``."""
        return jnp.sqrt(self.beta(t))

    def marginal(self, t: Time) -> Marginal:
        """``(exp(-B/2), sqrt(1 - exp(-B)))``."""
        integral = self.integrated_beta(t)
        return Marginal(jnp.exp(-0.5 * integral), jnp.sqrt(-jnp.expm1(-integral)))

    @property
    def prior_std(self) -> Number:
        """One."""
        return 1.0

    def log_snr(self, t: Time) -> Time:
        """``-log(exp(B) - 1)``, written so that neither a small nor a large ``B`` loses digits."""
        integral = self.integrated_beta(t)
        return -integral - jnp.log(-jnp.expm1(-integral))

    def inverse_log_snr(self, log_snr: Time) -> Time:
        """``B = log(1 + exp(-log_snr))``, then the quadratic for ``t``."""
        return self._inverse_integrated_beta(jax.nn.softplus(-log_snr))

    def _beta_between(self, s: Time, t: Time) -> Time:
        """``B(t) - B(s)``."""
        return (t - s) * (self.beta_min + 0.5 * (t + s) * (self.beta_max - self.beta_min))

    def transition(self, s: Time, t: Time) -> Transition:
        """``(exp(-b/2), sqrt(1 - exp(-b)))`` with ``b = B(t) - B(s)``."""
        between = self._beta_between(s, t)
        return Transition(jnp.exp(-0.5 * between), jnp.sqrt(-jnp.expm1(-between)))

    def discrete_step(self, s: Time, t: Time) -> Transition:
        """The chain of denoising diffusion models: ``sqrt(1 - b) x + sqrt(b) z`` with ``b = beta(t) (t - s)``."""
        step = self.beta(t) * (t - s)
        return Transition(jnp.sqrt(1.0 - step), jnp.sqrt(step))

    def discretize(self, n: int) -> Chain:
        """The DDPM chain with ``b_i = beta((i - 1) / (n - 1)) / n`` (Song et al. 2021, appendix C).

        Raises:
            UserError: If the levels are so few that a step would have a variance of 1 or more.
        """
        refuse(not_whole("n", n, 1))
        return DDPM(betas=self.beta(jnp.linspace(0.0, 1.0, n)) / n)


@component
class SubVP(VP):
    r"""Sub-variance preserving: the drift of :class:`VP` with ``g^2 = beta(t) (1 - exp(-2 B(t)))``.

    Its marginal std ``1 - exp(-B)`` never exceeds the VP SDE's (Song et al. 2021, eqs. 28 and 29).

    >>> float(SubVP().marginal(jnp.array(1.0)).std) <= float(VP().marginal(jnp.array(1.0)).std)
    True
    """

    def diffusion(self, t: Time) -> Time:
        """``sqrt(beta(t) (1 - exp(-2 B(t))))``."""
        # 1 - exp(-2B) = (1 - exp(-B)) (1 + exp(-B)), with the one expm1 that the marginal has: jaxlib 0.10.2 on a CPU
        # takes two of different arguments for one where it fuses them with a sum over the event.
        integral = self.integrated_beta(t)
        return jnp.sqrt(-self.beta(t) * jnp.expm1(-integral) * (1.0 + jnp.exp(-integral)))

    def marginal(self, t: Time) -> Marginal:
        """``(exp(-B/2), 1 - exp(-B))``."""
        integral = self.integrated_beta(t)
        return Marginal(jnp.exp(-0.5 * integral), -jnp.expm1(-integral))

    def log_snr(self, t: Time) -> Time:
        """``-2 log(2 sinh(B/2))``, written so that neither end of time loses digits."""
        integral = self.integrated_beta(t)
        return -integral - 2.0 * jnp.log(-jnp.expm1(-integral))

    def inverse_log_snr(self, log_snr: Time) -> Time:
        """``B = 2 arcsinh(exp(-log_snr / 2) / 2)``, then the quadratic for ``t``."""
        early = 2.0 * jnp.arcsinh(0.5 * jnp.exp(-0.5 * jnp.maximum(log_snr, 0.0)))
        # The exponential of half the noise-to-signal ratio would overflow: the same with exp(log_snr) instead.
        late = jnp.minimum(log_snr, 0.0)
        late = 2.0 * jnp.log1p(0.5 * (jnp.sqrt(1.0 + 4.0 * jnp.exp(late)) - 1.0)) - late
        return self._inverse_integrated_beta(jnp.where(log_snr > 0.0, early, late))

    def transition(self, s: Time, t: Time) -> Transition:
        """``(exp(-b/2), sqrt((1 - exp(-b)) (1 - exp(-B(t) - B(s)))))`` with ``b = B(t) - B(s)``."""
        between, total = self._beta_between(s, t), self.integrated_beta(t) + self.integrated_beta(s)
        return Transition(jnp.exp(-0.5 * between), jnp.sqrt(jnp.expm1(-between) * jnp.expm1(-total)))

    def discrete_step(self, s: Time, t: Time) -> Transition:
        """Euler-Maruyama: this process is the limit of no named chain."""
        return SDE.discrete_step(self, s, t)

    def discretize(self, n: int) -> Chain:
        """The chain that visits the marginals."""
        return SDE.discretize(self, n)


@component
class VDM(SDE):
    r"""Variance preserving with a log-SNR that falls linearly: the fixed schedule of variational diffusion models.

    ``log(m^2 / s^2) = log_snr_max + t (log_snr_min - log_snr_max)`` and ``m^2 + s^2 = 1`` (Kingma et al. 2021, arXiv
    2107.00630, section 3.1 and appendix H), so that ``dx = -r s^2 / 2 x dt + sqrt(r) s dw`` with the range ``r`` of the
    log-SNR. Uniform times are importance-sampled ones. As under the VE SDE, data count as having a little noise at
    ``t = 0`` already. The prior is ``N(0, I)``.

    >>> [round(float(VDM().log_snr(jnp.array(t))), 3) for t in (0.0, 1.0)]
    [13.3, -5.0]
    """

    log_snr_max: Number = DEFAULTS.sde.log_snr_max
    log_snr_min: Number = DEFAULTS.sde.log_snr_min

    def problems(self) -> Iterator[str]:
        """Sentences about ratios out of range in the current precision, or a log-SNR that does not fall."""
        most = -float(np.log(_precision().tiny))
        for name in ("log_snr_max", "log_snr_min"):
            value = getattr(self, name)
            if not holds(lambda log_snr: (-most <= log_snr) & (log_snr <= most), value):
                yield f"{name} is {value}; expected {-most:.3g} to {most:.3g}, where neither m nor s is 0."
        if not holds(lambda first, last: ~(first <= last), self.log_snr_max, self.log_snr_min):
            yield (
                f"log_snr_max is {self.log_snr_max} and log_snr_min is {self.log_snr_min}; expected the first to be "
                "larger."
            )

    @property
    def _range(self) -> Number:
        return self.log_snr_max - self.log_snr_min

    def drift_coeff(self, t: Time) -> Time:
        """``-r s^2 / 2``."""
        return -0.5 * self._range * jax.nn.sigmoid(-self.log_snr(t))

    def diffusion(self, t: Time) -> Time:
        """``sqrt(r) s``."""
        return jnp.sqrt(self._range) * self.marginal(t).std

    def marginal(self, t: Time) -> Marginal:
        """``(sqrt(sigmoid(log_snr)), sqrt(sigmoid(-log_snr)))``."""
        log_snr = self.log_snr(t)
        return Marginal(*(jnp.exp(0.5 * jax.nn.log_sigmoid(value)) for value in (log_snr, -log_snr)))

    @property
    def prior_std(self) -> Number:
        """One."""
        return 1.0

    def log_snr(self, t: Time) -> Time:
        """``log_snr_max - r t``."""
        return self.log_snr_max - t * self._range

    def inverse_log_snr(self, log_snr: Time) -> Time:
        """``(log_snr_max - log_snr) / r``."""
        return (self.log_snr_max - log_snr) / self._range

    def transition(self, s: Time, t: Time) -> Transition:
        """``(m(t) / m(s), s(t) sqrt(1 - exp(-r (t - s))))``."""
        (mean_s, _), (mean_t, std_t) = self.marginal(s), self.marginal(t)
        return Transition(mean_t / mean_s, std_t * jnp.sqrt(-jnp.expm1(-(t - s) * self._range)))

    def discrete_step(self, s: Time, t: Time) -> Transition:
        """The transition, which is exact."""
        return self.transition(s, t)
