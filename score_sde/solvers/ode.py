"""Fixed-step solvers of the probability-flow ODE in time, and Heun's method in the noise level, with churn."""

from collections.abc import Iterator
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from score_sde.arguments import not_fulfilled
from score_sde.fields import DEFAULTS
from score_sde.keys import sample_noise
from score_sde.processes import ReverseProcess
from score_sde.solvers.base import SolverState, StatelessSolver, continuous
from score_sde.solvers.pairing import Follows
from score_sde.typing import Batch, Number, SampleKeys, Scalar, component, holds


@component
class Euler(StatelessSolver):
    """Euler's method, order 1."""

    follows: ClassVar[Follows] = "flow"
    needs_drift: ClassVar[bool] = True

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """``x + (s - t) drift(x, t)``."""
        del keys
        process = continuous(process)
        x = state.x + (s - t) * process.drift(state.x, t)
        return state.moved(x, x)


@component
class Heun(StatelessSolver):
    """Heun's method (explicit trapezoidal rule), order 2; Karras et al. 2022, algorithm 1."""

    follows: ClassVar[Follows] = "flow"
    needs_drift: ClassVar[bool] = True
    num_evals = 2

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """``x + (s - t) (drift(x, t) + drift(x_euler, s)) / 2``."""
        del keys
        process = continuous(process)
        first = process.drift(state.x, t)
        second = process.drift(state.x + (s - t) * first, s)
        x = state.x + 0.5 * (s - t) * (first + second)
        return state.moved(x, x)


@component
class EDMHeun(StatelessSolver):
    r"""Heun's method in the noise-to-signal ratio (Karras et al. 2022, algorithms 1 and 2), for any process.

    In ``y = x / m`` and ``r = s / m`` the probability flow is ``dy/dr = (y - denoised) / r``, straight where the
    denoised sample stands still. With ``churn`` each step first adds noise, up to the ratio ``r (1 + churn)``.

    Attributes:
        churn: Relative increase of the noise level before each step: the paper's ``S_churn / N``, there at most 0.41.
            The maximum, 1, doubles the noise.
        churn_min: Least ratio at which noise is added, the paper's ``S_min``.
        churn_max: Greatest ratio at which noise is added, ``S_max``.
        noise: Std of the added noise, ``S_noise``.
    """

    churn: Number = DEFAULTS.sampling.churn
    churn_min: Number = DEFAULTS.sampling.churn_min
    churn_max: Number = DEFAULTS.sampling.churn_max
    noise: Number = 1.0

    follows: ClassVar[Follows] = "own"

    def problems(self) -> Iterator[str]:
        """Sentences about noise that no step can add."""
        yield from not_fulfilled("churn", self.churn, lambda churn: (churn >= 0.0) & (churn <= 1.0), "0 to 1")
        for name in ("churn_min", "churn_max"):
            yield from not_fulfilled(name, getattr(self, name), lambda ratio: ratio >= 0.0, "a ratio, 0 or more")
        if not holds(lambda low, high: ~(low > high), self.churn_min, self.churn_max):
            low, high = self.churn_min, self.churn_max
            yield f"churn_min is {low} and churn_max is {high}; expected the first to be no larger."
        yield from not_fulfilled("noise", self.noise, lambda std: (std >= 0.0) & np.isfinite(std), "0 or more")

    num_evals = 2

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """One step of order 2 without churn; ``x_mean`` is ``x``, for the noise comes first."""
        y, high, raised = self._raise(keys, process, state, t)
        mean_coeff, std = process.forward.marginal(s)
        low = std / mean_coeff
        first = (y - process.denoised(process.forward.marginal(raised).mean_coeff * y, raised)) / high
        euler = y + (low - high) * first
        second = (euler - process.denoised(mean_coeff * euler, s)) / low
        x = mean_coeff * (y + 0.5 * (low - high) * (first + second))
        return state.moved(x, x)

    def _raise(
        self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar
    ) -> tuple[Batch, Scalar, Scalar]:
        """``y``, its noise-to-signal ratio and its time after the churn."""
        mean_coeff, std = process.forward.marginal(t)
        ratio = std / mean_coeff
        inside = (ratio >= self.churn_min) & (ratio <= self.churn_max)
        # The process ends at t = 1, and so does the noise that can be added.
        wanted = -2.0 * jnp.log(ratio * (1.0 + jnp.where(inside, self.churn, 0.0)))
        churned = jnp.clip(process.forward.inverse_log_snr(wanted), t, 1.0)
        raised = jnp.where(inside & (self.churn > 0), churned, t)
        mean_high, std_high = process.forward.marginal(raised)
        high = std_high / mean_high
        # The squares of large ratios would overflow.
        added = self.noise * high * jnp.sqrt(jnp.maximum((1.0 - ratio / high) * (1.0 + ratio / high), 0.0))
        return state.x / mean_coeff + added * sample_noise(keys, state.x), high, raised
