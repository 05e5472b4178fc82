r"""Forward processes, which turn data into noise, in continuous time or in steps.

Most of the package needs only three properties of a process: its marginal given the data, a Gaussian at every time
``t in [0, 1]``,

    p(x_t | x_0) = N(m(t) x_0, s(t)^2 I),

its prior at ``t = 1``, and its transitions between times. There are two kinds: SDEs (:mod:`score_sde.sdes`), and the
discrete chains that converge to them (:mod:`score_sde.chains`).
"""

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arguments import Checked, score_at
from score_sde.typing import Batch, Number, PRNGKey, ScoreFn, Time, Times, event_sum, expand_like, time_dtype


class Marginal(NamedTuple):
    """Coefficients of ``p(x_t | x_0) = N(mean_coeff x_0, std^2 I)``."""

    mean_coeff: Time
    std: Time


class Transition(NamedTuple):
    """One step of the forward process from ``s`` to ``t > s``: ``x_t = mean_coeff x_s + std z``."""

    mean_coeff: Time
    std: Time


class Posterior(NamedTuple):
    """The law of ``x_s`` given ``x_t`` and the data: ``N((x_t + step_std^2 score) / mean_coeff, std^2 I)``.

    Here ``score = -z / s(t)`` is the score of ``p(x_t | x_0)``; ``mean_coeff`` and ``step_std`` belong to the
    transition.
    """

    mean_coeff: Time
    step_std: Time
    std: Time


class Process(Checked, abc.ABC):
    """The contract of a forward process. Subclasses define the marginal and the prior; the rest follows."""

    @abc.abstractmethod
    def marginal(self, t: Time) -> Marginal:
        """Mean coefficient ``m(t)`` and standard deviation ``s(t)`` of ``x_t`` given ``x_0``."""

    @property
    @abc.abstractmethod
    def prior_std(self) -> Number:
        """Standard deviation of the Gaussian prior that the process is taken to reach at ``t = 1``."""

    def perturb(self, key: PRNGKey, x0: Batch, t: Times) -> tuple[Batch, Batch]:
        """Draw ``x_t = m(t) x_0 + s(t) z`` and return it with the noise ``z``."""
        noise, t = jax.random.normal(key, x0.shape, x0.dtype), t.astype(time_dtype(x0))
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

    def prior_sample(self, key: PRNGKey, shape: tuple[int, ...], dtype: Any = float) -> Array:
        """Draw from the prior ``N(0, prior_std^2 I)``, of the given type."""
        noise = jax.random.normal(key, shape, dtype)
        return jnp.asarray(self.prior_std, noise.dtype) * noise

    def prior_logp(self, x: Batch) -> Times:
        """Log-density of the prior in nats per example, the counterpart of :meth:`prior_sample`."""
        dim, variance = x[0].size, jnp.asarray(self.prior_std, x.dtype) ** 2
        square = event_sum(x**2) / variance
        return -0.5 * (dim * jnp.log(2.0 * jnp.pi * variance) + square)

    def transition(self, s: Time, t: Time) -> Transition:
        """The forward transition from ``s`` to ``t > s``, which follows from the marginals.

        ``a = m(t) / m(s)`` and ``std^2 = s(t)^2 - a^2 s(s)^2``.
        """
        (mean_s, std_s), (mean_t, std_t) = self.marginal(s), self.marginal(t)
        coefficient = mean_t / mean_s
        kept = coefficient * (std_s / std_t)  # of the noise at t, the part that was there at s
        return Transition(coefficient, std_t * jnp.sqrt(jnp.maximum((1.0 - kept) * (1.0 + kept), 0.0)))

    def posterior(self, s: Time, t: Time) -> Posterior:
        """The law of ``x_s`` given ``x_t`` and the data, for ``s < t`` (Ho et al. 2020, eqs. 6 and 7).

        With the transition ``x_t = a x_s + G z`` its std is ``G s(s) / s(t)``.
        """
        mean_coeff, step_std = self.transition(s, t)
        return Posterior(mean_coeff, step_std, step_std * self.marginal(s).std / self.marginal(t).std)

    def discrete_step(self, s: Time, t: Time) -> Transition:
        """One step of the discrete forward chain that belongs to the process; a chain takes its own."""
        return self.transition(s, t)

    def reverse(self, score_fn: ScoreFn, *, noise_scale: Number | None = None) -> "ReverseProcess":
        """The time reversal with noise scale ``eta``; its marginals are the same for every ``eta``.

        With ``None`` the solver chooses ``eta``; see :class:`ReverseProcess`.
        """
        return ReverseProcess(forward=self, score_fn=score_fn, stated_noise_scale=noise_scale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReverseProcess:
    """The time reversal of a process under a score function, which solvers follow from ``t = 1`` to 0.

    Attributes:
        forward: The forward process.
        score_fn: The score of its marginals.
        stated_noise_scale: The requested noise scale. ``None`` leaves the choice to the solver in
            :func:`score_sde.sampling.integrate`, and means 1, the reverse SDE, where it is read directly.
    """

    forward: Process
    score_fn: ScoreFn
    stated_noise_scale: Number | None = None

    @property
    def noise_scale(self) -> Number:
        """The noise scale ``eta``: 1 for the reverse SDE, 0 for the probability flow."""
        return 1.0 if self.stated_noise_scale is None else self.stated_noise_scale

    def score(self, x: Batch, t: Float[Array, ""]) -> Batch:
        """The score at one time shared by the whole batch.

        Raises:
            UserError: If it does not have the shape of ``x``.
        """
        return score_at(self.score_fn, x, jnp.full(x.shape[:1], t))

    def denoised(self, x: Batch, t: Float[Array, ""]) -> Batch:
        """The posterior mean ``E[x_0 | x_t] = (x + s^2 score) / m`` (Tweedie's formula) at one time."""
        mean_coeff, std = self.forward.marginal(t)
        return (x + std**2 * self.score(x, t)) / mean_coeff
