r"""Exponential integrators in the log signal-to-noise ratio: few evaluations, for any process.

With ``l = log(m / s)`` and the denoised sample ``D``, the probability flow is solved exactly except for ``D``
(Lu et al. 2022, arXiv 2211.01095, proposition 4.1):

    x_s = s(s)/s(t) x_t + s(s) int_{l_t}^{l_s} e^l D(l) dl,

and a method is a polynomial for ``D`` through past and present values. No method needs the drift, so VE, VP, sub-VP
and chains are treated alike.
"""

import math
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.arguments import not_whole
from score_sde.keys import sample_noise
from score_sde.processes import Process, ReverseProcess
from score_sde.solvers.base import SolverState, StatelessSolver
from score_sde.solvers.pairing import Follows
from score_sde.typing import Batch, SampleKeys, Scalar, component, static, time_dtype

History = Float[Array, "order batch *event"]  #: the denoised samples of earlier steps
Orders = Float[Array, " order"]  #: a number for each earlier step


class Past(NamedTuple):
    """The memory of a multistep method, the newest first."""

    denoised: History
    half_log_snr: Orders  # places of the denoised samples
    x: Batch  # the sample at the newest of these
    time: Scalar  # and its time
    length: Int[Array, ""]  # number of entries so far


def _half_log_snr(process: Process, t: Scalar) -> Scalar:
    return 0.5 * process.log_snr(t)


def _empty_past(x: Batch, order: int) -> Past:
    # Distinct places, so that the differences that a young method does not use are finite.
    return Past(
        jnp.zeros((order, *x.shape), x.dtype),
        -1e3 * (1.0 + jnp.arange(order, dtype=time_dtype(x))),
        x,
        jnp.ones((), time_dtype(x)),
        jnp.zeros((), jnp.int32),
    )


def _remember(past: Past, denoised: Batch, place: Scalar, x: Batch, t: Scalar) -> Past:
    return Past(
        jnp.concatenate([denoised[None], past.denoised[:-1]]),
        jnp.concatenate([place[None], past.half_log_snr[:-1]]),
        x,
        t,
        past.length + 1,
    )


def _of_order(past: Past, weights: list[Array]) -> Array:
    """The weights of the highest order that the past allows."""
    return jnp.stack(weights)[jnp.clip(past.length, 1, len(weights)) - 1]


def _combine(weights: Orders, history: History) -> Batch:
    return jnp.tensordot(weights, history, axes=1)


def _integrals(h: Scalar, count: int) -> list[Array]:
    r"""``int_0^h e^{u - h} u^k / k! du`` for ``k < count``; by their series where the closed form loses its digits."""
    small = jnp.abs(h) < 0.5
    safe = jnp.where(small, 1.0, h)
    values, closed = [], -jnp.expm1(-safe)
    for k in range(count):
        # int_0^h e^{u-h} u^k/k! du = e^{-h} sum_j h^{k+1+j} / (k! j! (k+1+j))
        terms = [h ** (k + 1 + j) / float(math.factorial(k) * math.factorial(j) * (k + 1 + j)) for j in range(14)]
        series = jnp.exp(-h) * sum(reversed(terms), start=jnp.zeros_like(h))
        values.append(jnp.where(small, series, closed))
        closed = safe ** (k + 1) / math.factorial(k + 1) - closed
    return values


@component
class DPMSolverMultistep(StatelessSolver):
    r"""DPM-Solver++ (1), (2M) and (3M), and with noise SDE-DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095).

    With ``h = l_s - l_t``, the noise scale ``eta`` of the process and ``H = (1 + eta^2) h``:

        x_s = s(s)/s(t) e^{-eta^2 h} x_t + m(s) (1 - e^{-H}) D + s(s) sqrt(1 - e^{-2 eta^2 h}) z.

    ``D`` is extrapolated from as many past values as there are, up to ``order``: linearly to the middle of the step
    (2M), or by the quadratic whose integral is exact (3M). One evaluation a step. With ``order = 1`` it is DDIM for
    ``eta`` 0 and 1.

    Attributes:
        order: 1, 2 or 3.
        follows: The process with its noise scale, ``"any"``, or the probability flow alone, ``"flow"``.
    """

    order: int = static(default=2)
    follows: Follows = static(default="any")
    keeps_past: ClassVar[bool] = True

    def problems(self) -> Iterator[str]:
        """The sentence about an order without such a method."""
        yield from not_whole("order", self.order, 1, 3)

    def init(self, x: Batch) -> SolverState:
        """No past."""
        return SolverState(x, x, _empty_past(x, self.order))

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """One step; the first ones are of lower order."""
        (_, std_t), (mean_s, std_s) = process.forward.marginal(t), process.forward.marginal(s)
        place, target = _half_log_snr(process.forward, t), _half_log_snr(process.forward, s)
        x, denoised = state.x, process.denoised(state.x, t)
        h, tau = target - place, process.noise_scale**2
        if self.order >= 3:
            x = jnp.where(tau == 0, _corrected_start(process.forward, state.memory, x, denoised, t), x)
        past = _remember(state.memory, denoised, place, x, t)
        weights = mean_s * self._weights(past, h, (1.0 + tau) * h)
        x_mean = std_s / std_t * jnp.exp(-tau * h) * x + _combine(weights, past.denoised)
        noise = std_s * jnp.sqrt(-jnp.expm1(-2.0 * tau * h)) * sample_noise(keys, state.x)
        return SolverState(x_mean + noise, x_mean, past)

    def _weights(self, past: Past, h: Scalar, total: Scalar) -> Orders:
        """The weight of each denoised sample, by their number."""
        gain = -jnp.expm1(-total)
        places = past.half_log_snr
        choices = [jnp.stack([gain, *[jnp.zeros_like(h)] * (self.order - 1)])]
        if self.order >= 2:
            slope = 0.5 * gain * h / (places[0] - places[1])
            choices.append(jnp.stack([gain + slope, -slope, *[jnp.zeros_like(h)] * (self.order - 2)]))
        if self.order >= 3:
            r0, r1 = (places[0] - places[1]) / h, (places[1] - places[2]) / h
            # First and second divided differences at the newest value, as weights on the three values.
            late, early = jnp.stack([1 / r0, -1 / r0, 0 * r0]), jnp.stack([0 * r0, 1 / r1, -1 / r1])
            second = (late - early) / (r0 + r1)
            first = late + r0 * second
            phi0, phi1, phi2 = _integrals(total, 3)
            choices.append(jnp.stack([phi0, 0 * h, 0 * h]) + first * phi1 / total + 2.0 * second * phi2 / total**2)
        return _of_order(past, choices)


def _corrected_start(process: Process, past: Past, x: Batch, denoised: Batch, t: Scalar) -> Batch:
    """The end ``x`` of the very first step, corrected by the denoised sample there; all later ones unchanged.

    The first step is of order 1, too low for a method of order 3. The mean of ``D`` at both ends raises it to order 2
    at no cost.
    """
    middle = 0.5 * (past.denoised[0] + denoised)
    return jnp.where(past.length == 1, _first_order(process, past.x, middle, past.time, t), x)


@component
class DPMSolverSinglestep(StatelessSolver):
    r"""DPM-Solver++ (2S): a second evaluation half-way in log-SNR (Lu et al. 2022, arXiv 2211.01095, algorithm 1).

    ``D`` is its value half-way, reached by a step of order 1. It follows the probability flow and keeps no past, so
    that a corrector may move the sample between its steps.
    """

    follows: ClassVar[Follows] = "flow"
    num_evals = 2

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """One step of order 2."""
        del keys
        place, target = _half_log_snr(process.forward, t), _half_log_snr(process.forward, s)
        middle = process.forward.inverse_log_snr(place + target)
        half = _first_order(process.forward, state.x, process.denoised(state.x, t), t, middle)
        x = _first_order(process.forward, state.x, process.denoised(half, middle), t, s)
        return state.moved(x, x)


def _first_order(process: Process, x: Batch, denoised: Batch, t: Scalar, s: Scalar) -> Batch:
    (_, std_t), (mean_s, std_s) = process.marginal(t), process.marginal(s)
    h = _half_log_snr(process, s) - _half_log_snr(process, t)
    return std_s / std_t * x - mean_s * jnp.expm1(-h) * denoised


@component
class UniPC(StatelessSolver):
    r"""The unified predictor-corrector UniPC-p with B(h) = e^h - 1 (Zhao et al. 2023, arXiv 2302.04867).

    At the start of a step the newest denoised sample first corrects the step that led here, at no cost, and then
    predicts the next. The last step is therefore not corrected, as in the original. The order of the corrected
    solution is ``order + 1``.

    Attributes:
        order: Order of the predictor, 1 to 3.
    """

    order: int = static(default=2)
    follows: ClassVar[Follows] = "flow"
    keeps_past: ClassVar[bool] = True

    def problems(self) -> Iterator[str]:
        """The sentence about an order without such a method."""
        yield from not_whole("order", self.order, 1, 3)

    def init(self, x: Batch) -> SolverState:
        """No past."""
        return SolverState(x, x, _empty_past(x, self.order))

    def step(self, keys: SampleKeys, process: ReverseProcess, state: SolverState, t: Scalar, s: Scalar) -> SolverState:
        """Correct the step that led to ``t``, then predict at ``s``."""
        del keys
        past = state.memory
        place = _half_log_snr(process.forward, t)
        denoised = process.denoised(state.x, t)
        corrected = self._advance(process.forward, past, t, place, denoised)
        x = jnp.where(past.length > 0, corrected, state.x)
        past = _remember(past, denoised, place, x, t)
        x = self._advance(process.forward, past, s, _half_log_snr(process.forward, s), None)
        return SolverState(x, x, past)

    def _advance(self, process: Process, past: Past, s: Scalar, target: Scalar, new: Batch | None) -> Batch:
        """From the newest remembered time to ``s``; a ``new`` denoised sample there makes it the corrector."""
        (_, std_t), (mean_s, std_s) = process.marginal(past.time), process.marginal(s)
        h = target - past.half_log_snr[0]
        weights = [self._weights(past, h, order, new is not None) for order in range(1, self.order + 1)]
        history = past.denoised if new is None else jnp.concatenate([past.denoised, new[None]])
        return std_s / std_t * past.x + mean_s * _combine(_of_order(past, weights), history)

    def _weights(self, past: Past, h: Scalar, order: int, corrects: bool) -> Array:
        """The weights of the remembered denoised samples, and after them of the new one, in a step of one order.

        The nodes are at ``r = (l - l_t) / h``: ``order - 1`` of the past, and 1 for the new one. The weights ``w`` of
        the differences from the newest sample integrate as many powers as there are nodes:
        ``sum_i w_i r_i^k = int_0^h e^{u - h} (u / h)^k du`` from ``k = 1``. For a single node at low order the original
        replaces the integral of ``k = 1`` by half the integral of ``k = 0``.
        """
        ratios = [(past.half_log_snr[i] - past.half_log_snr[0]) / h for i in range(1, order)]
        nodes = [*ratios, jnp.ones_like(h)] if corrects else ratios
        rows = len(nodes)
        moments = [math.factorial(k) * value / h**k for k, value in enumerate(_integrals(h, rows + 1))]
        if rows == 1 and order <= 2:
            solution = jnp.stack([0.5 * moments[0] / (1.0 if corrects and order == 1 else nodes[0])])
        elif rows:
            matrix = jnp.stack([jnp.stack([node**k for node in nodes]) for k in range(1, rows + 1)])
            solution = jnp.linalg.solve(matrix, jnp.stack(moments[1 : rows + 1]))
        else:
            solution = jnp.zeros((0,), h.dtype)
        weights = jnp.zeros((self.order + 1,), h.dtype).at[0].set(moments[0] - jnp.sum(solution))
        for i in range(order - 1):
            weights = weights.at[1 + i].set(solution[i])
        if corrects:
            return weights.at[self.order].set(solution[-1])
        return weights[: self.order]
