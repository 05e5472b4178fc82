r"""Linear SDEs with scalar coefficients, their marginals, and their reversals.

Every process is ``dx = f(t) x dt + g(t) dw`` on ``t in [0, 1]``, so that the marginal given the data is Gaussian,

    p(x_t | x_0) = N(m(t) x_0, s(t)^2 I),      m' = f m,      (s^2)' = 2 f s^2 + g^2

(Song et al. 2021, "Score-Based Generative Modeling through SDEs", arXiv 2011.13456, eqs. 5 and 29). Its time reversal,
with ``eta = 1`` the reverse SDE (eq. 6) and ``eta = 0`` the probability-flow ODE (eq. 13), has

    drift  f x - (1 + eta^2)/2 g^2 score,      diffusion  eta g.
"""

import abc
import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arguments import not_whole
from score_sde.chains import Chain, Tabulated
from score_sde.errors import refuse
from score_sde.processes import Process, ReverseProcess, Transition
from score_sde.typing import Batch, Number, ScoreFn, Time, expand_like


class SDE(Process):
    """The contract of a linear SDE: drift, diffusion, marginal and prior to define; the rest follows."""

    @abc.abstractmethod
    def drift_coeff(self, t: Time) -> Time:
        """The scalar ``f(t)`` of the drift ``f(t) x``."""

    @abc.abstractmethod
    def diffusion(self, t: Time) -> Time:
        """The diffusion coefficient ``g(t)``."""

    def drift(self, x: Batch, t: Time) -> Batch:
        """The drift ``f(t) x``."""
        return expand_like(self.drift_coeff(t), x) * x

    def discrete_step(self, s: Time, t: Time) -> Transition:
        """Euler-Maruyama, unless the SDE is the limit of a named chain."""
        return Transition(1.0 + self.drift_coeff(t) * (t - s), self.diffusion(t) * jnp.sqrt(t - s))

    def discretize(self, n: int) -> Chain:
        """The chain of ``n`` levels that converges to the SDE; by default the one that visits its marginals."""
        refuse(not_whole("n", n, 1))
        mean_coeffs, stds = self.marginal((1.0 + jnp.arange(n)) / n)
        return Tabulated(mean_coeffs=mean_coeffs, stds=stds, prior_std=self.prior_std)

    def reverse(self, score_fn: ScoreFn, *, noise_scale: Number | None = None) -> "ReverseSDE":
        """The time reversal with noise scale ``eta``, by default the solver's choice."""
        return ReverseSDE(forward=self, score_fn=score_fn, stated_noise_scale=noise_scale)

    def probability_flow(self, score_fn: ScoreFn) -> "ReverseSDE":
        """The deterministic reversal, ``noise_scale = 0`` (Song et al. 2021, eq. 13)."""
        return self.reverse(score_fn, noise_scale=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReverseSDE(ReverseProcess):
    """The reverse SDE, or with ``noise_scale = 0`` the probability flow, which SDE solvers integrate."""

    forward: SDE

    def drift(self, x: Batch, t: Float[Array, ""]) -> Batch:
        """``f x - (1 + eta^2)/2 g^2 score``: the right-hand side in forward time, to be integrated backwards."""
        weight = 0.5 * (1.0 + self.noise_scale**2) * self.forward.diffusion(t) ** 2
        return self.forward.drift(x, t) - weight * self.score(x, t)

    def diffusion(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """``eta g``."""
        return self.noise_scale * self.forward.diffusion(t)
