r"""Linear SDEs with scalar coefficients, their marginals, and their reversals.

Every process is ``dx = f(t) x dt + g(t) dw`` on ``t in [0, 1]``, so that the marginal given the data is Gaussian,

    p(x_t | x_0) = N(m(t) x_0, s(t)^2 I),      m' = f m,      (s^2)' = 2 f s^2 + g^2

(Song et al. 2021, "Score-Based Generative Modeling through SDEs", arXiv 2011.13456, eqs. 5 and 29). Its time reversal,
with ``eta = 1`` the reverse SDE (eq. 6) and ``eta = 0`` the probability-flow ODE (eq. 13), has

    drift  f x - (1 + eta^2)/2 g^2 score,      diffusion  eta g.

All formulas are stable in float32: ``1 - exp(-B)`` is written ``-expm1(-B)``.
"""

import abc
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.typing import Batch, Number, PRNGKey, ScoreFn, Time, Times, component, expand_like


class Marginal(NamedTuple):
    """Coefficients of ``p(x_t | x_0) = N(mean_coeff x_0, std^2 I)``."""

    mean_coeff: Time
    std: Time


class Transition(NamedTuple):
    """One step of a discrete forward chain: ``x_t = mean_coeff x_s + std z``."""

    mean_coeff: Time
    std: Time


class SDE(abc.ABC):
    """The contract of a forward process: four things to write, the rest follows."""

    @abc.abstractmethod
    def drift_coeff(self, t: Time) -> Time:
        """The scalar ``f(t)`` of the drift ``f(t) x``."""

    @abc.abstractmethod
    def diffusion(self, t: Time) -> Time:
        """The diffusion coefficient ``g(t)``."""

    @abc.abstractmethod
    def marginal(self, t: Time) -> Marginal:
        """Mean coefficient ``m(t)`` and standard deviation ``s(t)`` of ``x_t`` given ``x_0``."""

    @property
    @abc.abstractmethod
    def prior_std(self) -> Number:
        """Standard deviation of the Gaussian prior that the process is taken to reach at ``t = 1``."""

    def drift(self, x: Batch, t: Time) -> Batch:
        """The drift ``f(t) x``."""
        return expand_like(self.drift_coeff(t), x) * x

    def perturb(self, key: PRNGKey, x0: Batch, t: Times) -> tuple[Batch, Batch]:
        """Draw ``x_t = m(t) x_0 + s(t) z`` and return it with the noise ``z``."""
        noise = jax.random.normal(key, x0.shape, x0.dtype)
        mean_coeff, std = self.marginal(t)
        return expand_like(mean_coeff, x0) * x0 + expand_like(std, x0) * noise, noise

    def log_snr(self, t: Time) -> Time:
        """The log signal-to-noise ratio ``log m(t)^2 / s(t)^2``, strictly decreasing in ``t``."""
        mean_coeff, std = self.marginal(t)
        return 2.0 * (jnp.log(mean_coeff) - jnp.log(std))

    def inverse_log_snr(self, log_snr: Time) -> Time:
        """The time at which :meth:`log_snr` takes the given value; by bisection unless overridden."""

        def halve(_: Array, bounds: tuple[Time, Time]) -> tuple[Time, Time]:
            low, high = bounds
            # The geometric mean resolves the small times where the log-SNR changes fastest.
            middle = jnp.sqrt(low * high)
            early = self.log_snr(middle) > log_snr
            return jnp.where(early, middle, low), jnp.where(early, high, middle)

        low, high = jax.lax.fori_loop(0, 60, halve, (jnp.full_like(log_snr, 1e-8), jnp.ones_like(log_snr)))
        return jnp.sqrt(low * high)

    def prior_sample(self, key: PRNGKey, shape: tuple[int, ...]) -> Array:
        """Draw from the prior ``N(0, prior_std^2 I)``."""
        return self.prior_std * jax.random.normal(key, shape)

    def prior_logp(self, x: Batch) -> Times:
        """Log-density of the prior in nats per example, the pair of :meth:`prior_sample`."""
        dim = x[0].size
        square = jnp.sum(x**2, axis=tuple(range(1, x.ndim))) / self.prior_std**2
        return -0.5 * (dim * jnp.log(2.0 * jnp.pi * self.prior_std**2) + square)

    def transition(self, s: Time, t: Time) -> Transition:
        """One step of the discrete forward chain from ``s`` to ``t > s``; Euler-Maruyama unless overridden."""
        return Transition(1.0 + self.drift_coeff(t) * (t - s), self.diffusion(t) * jnp.sqrt(t - s))

    def reverse(self, score_fn: ScoreFn, *, noise_scale: Number = 1.0) -> "ReverseSDE":
        """The time reversal with noise scale ``eta``; its marginals are the same for every ``eta``."""
        return ReverseSDE(sde=self, score_fn=score_fn, noise_scale=noise_scale)

    def probability_flow(self, score_fn: ScoreFn) -> "ReverseSDE":
        """The deterministic reversal, ``noise_scale = 0`` (Song et al. 2021, eq. 13)."""
        return self.reverse(score_fn, noise_scale=0.0)


@component
class VE(SDE):
    r"""Variance exploding: ``dx = g(t) dw``, ``sigma(t) = sigma_min (sigma_max / sigma_min)^t``.

    ``g = sigma sqrt(2 log(sigma_max / sigma_min))`` (Song et al. 2021, eq. 30). By the convention of the original the
    marginal std is ``sigma(t)``, not ``sqrt(sigma(t)^2 - sigma(0)^2)``: data count as smoothed
    by ``sigma_min`` already.
    The prior is ``N(0, sigma_max^2 I)``.

    >>> round(float(VE(sigma_max=50.0).marginal(jnp.array(0.5)).std), 6)
    0.707107
    """

    sigma_min: Number = 0.01
    sigma_max: Number = 50.0

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
        """The exact chain of score matching with Langevin dynamics: ``std^2 = sigma(t)^2 - sigma(s)^2``."""
        ratio = jnp.exp(2.0 * (s - t) * self._log_ratio)
        return Transition(jnp.ones_like(t), self.marginal(t).std * jnp.sqrt(1.0 - ratio))


@component
class VP(SDE):
    r"""Variance preserving: ``dx = -beta/2 x dt + sqrt(beta) dw``, ``beta(t) = beta_min + t (beta_max - beta_min)``.

    With ``B(t) = beta_min t + (beta_max - beta_min) t^2 / 2``: ``m = exp(-B/2)``, ``s^2 = 1 - exp(-B)``
    (Song et al. 2021, eq. 33). The prior is ``N(0, I)``.

    >>> float(VP().marginal(jnp.array(1e-5)).std)  # 0.001000497 in exact arithmetic
    0.0010004...
    """

    beta_min: Number = 0.1
    beta_max: Number = 20.0

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
        """``-log(exp(B) - 1)``."""
        return -jnp.log(jnp.expm1(self.integrated_beta(t)))

    def inverse_log_snr(self, log_snr: Time) -> Time:
        """``B = log(1 + exp(-log_snr))``, then the quadratic for ``t``."""
        return self._inverse_integrated_beta(jax.nn.softplus(-log_snr))

    def transition(self, s: Time, t: Time) -> Transition:
        """The chain of denoising diffusion models: ``sqrt(1 - b) x + sqrt(b) z`` with ``b = beta(t) (t - s)``."""
        step = self.beta(t) * (t - s)
        return Transition(jnp.sqrt(1.0 - step), jnp.sqrt(step))


@component
class SubVP(VP):
    r"""Sub-variance preserving: the drift of :class:`VP` with ``g^2 = beta(t) (1 - exp(-2 B(t)))``.

    Its marginal std ``1 - exp(-B)`` never exceeds that of the VP SDE (Song et al. 2021, eqs. 28 and 29).

    >>> float(SubVP().marginal(jnp.array(1.0)).std) <= float(VP().marginal(jnp.array(1.0)).std)
    True
    """

    def diffusion(self, t: Time) -> Time:
        """``sqrt(beta(t) (1 - exp(-2 B(t))))``."""
        return jnp.sqrt(-self.beta(t) * jnp.expm1(-2.0 * self.integrated_beta(t)))

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
        return self._inverse_integrated_beta(2.0 * jnp.arcsinh(0.5 * jnp.exp(-0.5 * log_snr)))

    def transition(self, s: Time, t: Time) -> Transition:
        """Euler-Maruyama: this process is the limit of no named chain."""
        return SDE.transition(self, s, t)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReverseSDE:
    """The time reversal of ``sde`` under a score function: what a solver integrates from ``t = 1`` to 0."""

    sde: SDE
    score_fn: ScoreFn
    noise_scale: Number = 1.0

    def score(self, x: Batch, t: Float[Array, ""]) -> Batch:
        """The score at one time shared by the whole batch."""
        return self.score_fn(x, jnp.full(x.shape[:1], t))

    def drift(self, x: Batch, t: Float[Array, ""]) -> Batch:
        """``f x - (1 + eta^2)/2 g^2 score``: the right-hand side in forward time, to be integrated backwards."""
        weight = 0.5 * (1.0 + self.noise_scale**2) * self.sde.diffusion(t) ** 2
        return self.sde.drift(x, t) - weight * self.score(x, t)

    def diffusion(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """``eta g``."""
        return self.noise_scale * self.sde.diffusion(t)
