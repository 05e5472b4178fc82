r"""Decoupled annealing: each step draws the data given the observation, and then adds the noise of the next level.

Successive samples are not steps of one path: a draw ``x_0`` is made from the present one and noised anew, so that an
error at a high noise level can be mended at the next.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.arguments import Checked, check_floats, not_fulfilled, not_whole
from score_sde.chains import Chain
from score_sde.conditioning.operators import LinearOperator, check_linear
from score_sde.conditioning.solving import solve_noisy
from score_sde.errors import UserError
from score_sde.fields import DEFAULTS
from score_sde.keys import fold_in, sample_noise
from score_sde.processes import ReverseProcess
from score_sde.solvers import DDIM, Follows, SolverState
from score_sde.typing import Batch, Number, SampleKeys, Scalar, component, static


def _is_std(std: np.ndarray) -> Any:
    return np.isfinite(std) & (std >= 0.0) & (std.ndim == 0)


@component
class DAPS(Checked):
    r"""A solver for linear observations (Zhang et al. 2024, arXiv 2407.01521, algorithm 1).

    A step from ``t`` to ``s`` follows the probability flow from ``t`` to the data, takes its end ``D`` for the mean of
    ``N(D, (s(t) / m(t))^2 I)``, draws ``x_0`` from this law given ``y = A x_0 + noise_std z``, and noises it to ``s``.
    For linear observations the draw is exact, where the paper runs Langevin dynamics with a step size to tune.

    Attributes:
        operator: ``A``.
        y: An observation for each sample, or a single row for all.
        noise_std: Standard deviation of the noise.
        num_flow_steps: Evaluations along the flow of each step, in equal steps of the log-SNR; with 1, ``D`` is the
            denoised sample.
        t_end: Time at which the flow ends.

    >>> from score_sde import VP, sampling
    >>> solver = DAPS(operator=LinearOperator(apply=lambda x: x[:, :1]), y=jnp.array([[3.0]]), noise_std=0.0)
    >>> keys, times = sampling.sample_keys(jax.random.key(0), 0, 2), sampling.log_snr_times(VP(), 10)
    >>> x = sampling.prior_samples(keys, VP(), (2,))
    >>> state = sampling.integrate(keys, solver, VP().reverse(lambda x, t: -x), x, times)
    >>> state.x_mean[:, 0].round(2).tolist()
    [3.0, 3.0]
    """

    operator: LinearOperator = static()
    y: Array
    noise_std: Number
    num_flow_steps: int = static(default=5)
    t_end: Number = DEFAULTS.sampling.t_min

    follows: ClassVar[Follows] = "own"

    def problems(self) -> Iterator[str]:
        """Sentences about numbers out of range."""
        yield from not_whole("num_flow_steps", self.num_flow_steps, 1)
        yield from not_fulfilled("noise_std", self.noise_std, _is_std, "a finite number of at least 0")
        yield from not_fulfilled("t_end", self.t_end, lambda t: (t > 0.0) & (t < 1.0), "a time between 0 and 1")
        yield from not_fulfilled("y", self.y, np.isfinite, "finite observations")

    @property
    def num_evals(self) -> int:
        """Evaluations of the flow."""
        return self.num_flow_steps

    def init(self, x: Batch) -> SolverState:
        """Start with no noise added.

        Raises:
            UserError: If the operator is not linear, or does not make observations of the shape of ``y``.
        """
        check_floats(self.y, "observations")
        made = jax.eval_shape(self.operator, x).shape
        if self.y.shape not in (made, (1, *made[1:])):
            raise UserError(
                f"The observations have shape {self.y.shape}, and the operator makes {made} of samples of shape "
                f"{x.shape}; expected {made}, or {(1, *made[1:])} for one observation of all."
            )
        check_linear(self.operator, x.shape)
        return SolverState(x, x)

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """Down the flow, a draw given the observation, and new noise.

        Raises:
            UserError: If the process is a chain.
        """
        if isinstance(process.forward, Chain):
            raise UserError(
                f"DAPS follows the flow at times between the levels of a {type(process.forward).__name__} chain; "
                "expected an SDE, such as VP()."
            )
        ends = process.forward.log_snr(jnp.stack([t, jnp.minimum(jnp.asarray(self.t_end, t.dtype), s)]))
        levels = jnp.linspace(ends[0], ends[1], max(self.num_flow_steps, 2))
        times = process.forward.inverse_log_snr(levels).at[0].set(t)

        def down(index: Array, state: SolverState) -> SolverState:
            return DDIM(eta=0.0).step(keys, process, state, times[index], times[index + 1])

        end = self.num_flow_steps - 1
        x = jax.lax.fori_loop(0, end, down, state).x if end else state.x
        mean_coeff, std = process.forward.marginal(t)
        x = self._drawn(keys, process.denoised(x, times[end]), std / mean_coeff)
        mean_coeff, std = process.forward.marginal(s)
        x_mean = mean_coeff * x
        return state.moved(x_mean + std * sample_noise(fold_in(keys, 2), x), x_mean)

    def _drawn(self, keys: SampleKeys, mean: Batch, spread: Any) -> Batch:
        """A draw of ``N(mean, spread^2 I)`` given the observation: a draw of the law, corrected by Kalman's gain."""
        x = mean + spread * sample_noise(fold_in(keys, 0), mean)
        observed = self.operator(x)
        noise_std = jnp.asarray(self.noise_std, x.dtype)
        residual = self.y + noise_std * sample_noise(fold_in(keys, 1), observed) - observed
        weight = jnp.full(x.shape[:1], spread**2)
        solved = solve_noisy(self.operator, residual, x.shape, weight, noise_std**2)
        return x + spread**2 * self.operator.adjoint(solved, x.shape)
