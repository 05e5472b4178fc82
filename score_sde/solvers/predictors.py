r"""Stochastic predictors: one step of the reverse-time SDE.

Each returns ``x`` and ``x_mean``, the sample before the last noise; with ``noise_scale = 0`` they are discretisations
of the probability flow.
"""

import jax.numpy as jnp

from score_sde.sdes import ReverseSDE
from score_sde.solvers.base import SolverState, StatelessSolver, sample_noise
from score_sde.typing import SampleKeys, Scalar, component


@component
class EulerMaruyama(StatelessSolver):
    """Euler-Maruyama on the reverse SDE: ``x + drift (s - t) + diffusion sqrt(t - s) z``."""

    @property
    def num_evals(self) -> int:
        """One."""
        return 1

    def step(self, keys: SampleKeys, process: ReverseSDE, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """One step of weak order 1."""
        x_mean = state.x + process.drift(state.x, t) * (s - t)
        noise = process.diffusion(t) * jnp.sqrt(t - s) * sample_noise(keys, state.x)
        return SolverState(x_mean + noise, x_mean)


@component
class ReverseDiffusion(StatelessSolver):
    r"""The reversal of the SDE's own forward chain (Song et al. 2021, eq. 46).

    With the forward transition ``x_t = a x_s + G z`` of :meth:`score_sde.sdes.SDE.transition`:
    ``x_mean = (2 - a) x + (1 + eta^2)/2 G^2 score``, then noise ``eta G z``.
    """

    @property
    def num_evals(self) -> int:
        """One."""
        return 1

    def step(self, keys: SampleKeys, process: ReverseSDE, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """One step of weak order 1."""
        mean_coeff, std = process.sde.transition(s, t)
        weight = 0.5 * (1.0 + process.noise_scale**2) * std**2
        x_mean = (2.0 - mean_coeff) * state.x + weight * process.score(state.x, t)
        noise = process.noise_scale * std * sample_noise(keys, state.x)
        return SolverState(x_mean + noise, x_mean)
