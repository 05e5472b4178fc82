r"""Predictors: one step back in time, with noise.

Each returns ``x`` and ``x_mean``, the sample before the last noise. With ``noise_scale = 0`` the first two are
discretizations of the probability flow. The last three need only the marginals of the process, so they follow chains
too.
"""

from collections.abc import Iterator
from typing import ClassVar

import jax.numpy as jnp

from score_sde.arguments import not_fulfilled
from score_sde.fields import DEFAULTS
from score_sde.keys import sample_noise
from score_sde.processes import ReverseProcess
from score_sde.solvers.base import SolverState, StatelessSolver, continuous
from score_sde.solvers.pairing import Follows, Learned
from score_sde.typing import Number, SampleKeys, Scalar, component, static


@component
class EulerMaruyama(StatelessSolver):
    """Euler-Maruyama on the reverse SDE: ``x + drift (s - t) + diffusion sqrt(t - s) z``."""

    follows: ClassVar[Follows] = "any"
    needs_drift: ClassVar[bool] = True

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """One step of weak order 1."""
        process = continuous(process)
        x_mean = state.x + process.drift(state.x, t) * (s - t)
        noise = process.diffusion(t) * jnp.sqrt(t - s) * sample_noise(keys, state.x)
        return state.moved(x_mean + noise, x_mean)


@component
class ReverseDiffusion(StatelessSolver):
    r"""The reversal of the process's own forward chain (Song et al. 2021, eq. 46).

    With the forward step ``x_t = a x_s + G z`` of :meth:`score_sde.processes.Process.discrete_step`:
    ``x_mean = (2 - a) x + (1 + eta^2)/2 G^2 score``, then noise ``eta G z``.
    """

    follows: ClassVar[Follows] = "any"
    reverses_chain: ClassVar[bool] = True

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """One step of weak order 1."""
        mean_coeff, std = process.forward.discrete_step(s, t)
        weight = 0.5 * (1.0 + process.noise_scale**2) * std**2
        x_mean = (2.0 - mean_coeff) * state.x + weight * process.score(state.x, t)
        noise = process.noise_scale * std * sample_noise(keys, state.x)
        return state.moved(x_mean + noise, x_mean)


@component
class Ancestral(StatelessSolver):
    r"""Ancestral sampling: the posterior ``q(x_s | x_t, x_0)`` at the denoised ``x_0`` (Ho et al. 2020, algorithm 2).

    With the exact transition ``x_t = a x_s + G z``: ``x_mean = (x + G^2 score) / a``. The noise has the posterior's
    std ``G s(s) / s(t)``, "fixed-small", the choice for NCSN chains (Song et al. 2021, eq. 47), or, with ``large``,
    ``G``, "fixed-large", the choice for DDPM chains (eq. 4 there). Needs the full noise scale.
    """

    large: bool = static(default=False)

    follows: ClassVar[Follows] = "sde"

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """One step of weak order 1; a step to the data, without noise there, is the denoised sample."""
        mean_coeff, step_std, std = process.forward.posterior(s, t)
        x_mean = (state.x + step_std**2 * process.score(state.x, t)) / mean_coeff
        noise = (step_std if self.large else std) * sample_noise(keys, state.x)
        return state.moved(x_mean + noise, x_mean)


@component
class DDIM(StatelessSolver):
    r"""Implicit sampling (Song, Meng & Ermon 2021, arXiv 2010.02502, eq. 12), for any process.

    ``x_s = m(s) x_0 + sqrt(s(s)^2 - c^2) noise + c z`` with the denoised ``x_0``, the predicted noise and ``c`` the
    posterior's std times ``eta``. With ``eta = 0`` it solves the probability flow to order 1; with ``eta = 1`` it is
    :class:`Ancestral` with small noise.

    Attributes:
        eta: From 0, no noise, to 1. The noise scale of the process plays no part.
    """

    eta: Number = DEFAULTS.sampling.eta

    def problems(self) -> Iterator[str]:
        """The sentence about more noise than a step can add."""
        bounds = "0, no noise, to 1, the noise of ancestral sampling"
        yield from not_fulfilled("eta", self.eta, lambda eta: (eta >= 0.0) & (eta <= 1.0), bounds)

    follows: ClassVar[Follows] = "own"
    learned: ClassVar[frozenset[Learned]] = frozenset({"score", "steps"})

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """From the marginal at ``t`` to the marginal at ``s``."""
        (mean_t, std_t), (mean_s, std_s) = process.forward.marginal(t), process.forward.marginal(s)
        score = process.score(state.x, t)
        noise_std = self.eta * process.forward.posterior(s, t).std
        denoised = (state.x + std_t**2 * score) / mean_t
        direction = jnp.sqrt(jnp.maximum(std_s**2 - noise_std**2, 0.0)) * -std_t * score
        x_mean = mean_s * denoised + direction
        return state.moved(x_mean + noise_std * sample_noise(keys, state.x), x_mean)


@component
class NoPredictor(StatelessSolver):
    """Moves the time but not the sample: correctors then follow the noise levels alone, as in NCSN."""

    follows: ClassVar[Follows] = "still"
    num_evals = 0

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """The unchanged state."""
        del keys, process, t, s
        return state
