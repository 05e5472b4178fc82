r"""Correctors: Markov chains that leave the marginal at a fixed time (nearly) invariant."""

from collections.abc import Iterator
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from score_sde.arguments import not_fulfilled
from score_sde.fields import DEFAULTS
from score_sde.keys import sample_noise
from score_sde.processes import ReverseProcess
from score_sde.solvers.base import SolverState, StatelessSolver
from score_sde.solvers.pairing import Follows
from score_sde.typing import Batch, Number, SampleKeys, Scalar, Times, component, event_sum, expand_like, static


def _no_ratio(snr: Number) -> Iterator[str]:
    yield from not_fulfilled("snr", snr, lambda snr: (snr >= 0.0) & np.isfinite(snr), "a ratio, 0 or more")


def _norms(x: Batch) -> Times:
    return jnp.sqrt(event_sum(x**2))


@component
class Langevin(StatelessSolver):
    r"""Unadjusted Langevin dynamics, its step set by the signal-to-noise ratio (Song et al. 2021, algorithm 4).

    ``x <- x + h score + sqrt(2 h) z`` with ``h = 2 a (snr |z| / |score|)^2``. The factor ``a`` is 1: the original's
    ``1 - beta_i`` for the VP SDE tends to 1 with the number of steps, and the step should not depend on that number.

    Attributes:
        snr: Signal-to-noise ratio ``r``.
        per_sample: ``False`` takes both norms as means over the batch, as the original does; ``True`` takes them
            sample by sample, so that a sample does not depend on its neighbors. The step then depends on the sample,
            which perturbs the marginal slightly, more so in few dimensions.
    """

    snr: Number = DEFAULTS.sampling.snr
    per_sample: bool = static(default=DEFAULTS.sampling.per_sample)

    follows: ClassVar[Follows] = "still"

    def problems(self) -> Iterator[str]:
        """The sentence about an invalid ratio."""
        yield from _no_ratio(self.snr)

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """One correction at time ``s``, where a predictor has left the sample; ``t`` is unused."""
        del t
        score = process.score(state.x, s)
        noise = sample_noise(keys, state.x)
        noise_norm, score_norm = _norms(noise), _norms(score)
        if not self.per_sample:
            noise_norm, score_norm = (jnp.full_like(n, jnp.mean(n)) for n in (noise_norm, score_norm))
        # A sample at a mode has score zero and no scale of its own; the floor keeps its step finite.
        step = 2.0 * (self.snr * noise_norm / jnp.maximum(score_norm, 1e-12)) ** 2
        return _langevin(state, score, noise, step)


@component
class AnnealedLangevin(StatelessSolver):
    r"""Langevin dynamics with a step set by the noise level (Song & Ermon 2019, arXiv 1907.05600, algorithm 1).

    ``x <- x + h score + sqrt(2 h) z`` with ``h = 2 (snr s(t))^2``. Their step ``alpha_i = lr s_i^2 / s_L^2``, with
    ``x + alpha/2 score + sqrt(alpha) z``, is this one for ``snr = sqrt(lr) / (2 s_L)``. The step of NCSNv2,
    ``x + alpha score + sqrt(2 alpha) z``, is this one for ``snr = sqrt(lr / 2) / s_L``.

    Attributes:
        snr: Signal-to-noise ratio ``r``.
    """

    snr: Number = DEFAULTS.sampling.snr

    follows: ClassVar[Follows] = "still"

    def problems(self) -> Iterator[str]:
        """The sentence about an invalid ratio."""
        yield from _no_ratio(self.snr)

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """One correction at time ``s``, where a predictor has left the sample; ``t`` is unused."""
        del t
        step = jnp.full(state.x.shape[:1], 2.0 * (self.snr * process.forward.marginal(s).std) ** 2)
        return _langevin(state, process.score(state.x, s), sample_noise(keys, state.x), step)


def _langevin(state: SolverState, score: Batch, noise: Batch, step: Times) -> SolverState:
    """``x + step score + sqrt(2 step) noise``."""
    x_mean = state.x + expand_like(step, state.x) * score
    return state.moved(x_mean + expand_like(jnp.sqrt(2.0 * step), state.x) * noise, x_mean)
