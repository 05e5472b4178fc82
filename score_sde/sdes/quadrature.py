r"""The solution of the moment equations ``m' = f m`` and ``(s^2)' = 2 f s^2 + g^2``, as a table.

The nodes lie evenly in ``x = log t + 8 t``: close at small times, where ``s`` is a power of ``t``, and no farther
apart than 0.001 elsewhere. Between them ``log m`` and ``log(s / t^(p/2))`` are cubics with the right slopes at both
nodes. The power ``p`` is taken out, so that float32 keeps all digits of a small ``s``; the nodes are exact in float32.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.errors import UserError
from score_sde.typing import Number, Time, component, static

_LINEAR, _LOW, _SPACING = 8.0, -20.0, 1.0 / 128.0
_MOST = 87.0  # the logarithm of the largest number in float32, nearly, and of the smallest
_NUM_NODES = round((_LINEAR - _LOW) / _SPACING) + 1
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(5)


def _node_times() -> np.ndarray:
    """The times of the nodes, by Newton's method in ``log t``, in which ``x`` is convex and grows at least as fast."""
    x = _LOW + _SPACING * np.arange(_NUM_NODES)
    log_t = np.minimum(x, 0.0)
    for _ in range(60):
        log_t = log_t - (log_t + _LINEAR * np.exp(log_t) - x) / (1.0 + _LINEAR * np.exp(log_t))
    return np.exp(log_t)


_TIMES = _node_times()
_STARTS = np.concatenate([[0.0], _TIMES[:-1]])
_HALVES = 0.5 * (_TIMES - _STARTS)
#: The times at which the coefficients are needed: for each node those of a Gaussian quadrature up to it, and its own.
POSITIONS = np.concatenate([_STARTS[:, None] + _HALVES[:, None] * (1.0 + _POINTS), _TIMES[:, None]], axis=1)


def _partial_weights() -> np.ndarray:
    """Weights of the integrals from -1 to each point, exact for polynomials through the points."""
    basis = np.linalg.inv(np.polynomial.legendre.legvander(_POINTS, len(_POINTS) - 1))
    return np.polynomial.legendre.legval(_POINTS, np.polynomial.legendre.legint(basis, lbnd=-1.0)).T


@component
class Table:
    """Marginals at the nodes: rows of ``log m``, ``log(s / t^(p/2))``, and their slopes in ``x``."""

    rows: Any
    power: int = static()


def tabulate(drift_coeffs: np.ndarray, diffusions: np.ndarray, *, initial_std: float) -> Table:
    """The marginals of coefficients at :data:`POSITIONS`.

    Raises:
        UserError: If no noise is added at the start, or some marginal is not a number above 0.
    """
    inner, (drift, noise) = drift_coeffs[:, :-1], (drift_coeffs[:, -1], diffusions[:, -1])
    steps = _HALVES * (inner @ _WEIGHTS)  # of log m
    left = steps[:, None] - _HALVES[:, None] * (inner @ _partial_weights().T)
    with np.errstate(all="ignore"):
        added = _HALVES * ((diffusions[:, :-1] ** 2 * np.exp(2.0 * left)) @ _WEIGHTS)
        variances, variance = np.empty(_NUM_NODES), initial_std**2
        for node, (kept, new) in enumerate(zip(np.exp(2.0 * steps), added, strict=True)):
            variances[node] = variance = kept * variance + new
        log_mean, log_std = np.cumsum(steps), 0.5 * np.log(variances)
        mean_rate, std_rate = drift, drift + 0.5 * noise**2 / variances
    right = (np.abs(log_mean) < _MOST) & (np.abs(log_std) < _MOST)
    if not right.all():
        first = int(np.argmin(right))
        raise UserError(
            f"At t = {_TIMES[first]:.3g} the coefficients make log m = {log_mean[first]:.3g} and "
            f"s^2 = {variances[first]:.3g}; expected numbers that float32 holds, and s above 0: noise from t = 0 on "
            "(diffusion), and a drift_coeff that leaves some of the data."
        )
    power = 0 if initial_std > 0.0 else max(round(2.0 * _TIMES[0] * std_rate[0]), 0)
    stretch = 1.0 / _TIMES + _LINEAR  # dx / dt
    rest, rest_rate = log_std - 0.5 * power * np.log(_TIMES), std_rate - 0.5 * power / _TIMES
    return Table(rows=np.stack([log_mean, rest, mean_rate / stretch, rest_rate / stretch]), power=power)


def interpolated(table: Table, t: Time) -> tuple[Time, Time]:
    """``m`` and ``s`` at times from 0 to 1."""
    late = jnp.maximum(t, _TIMES[0].astype(t.dtype))
    x = jnp.log(late) + _LINEAR * late
    node = jnp.clip((x - _LOW) / _SPACING, 0, _NUM_NODES - 2).astype(jnp.int32)
    u = (x - (_LOW + _SPACING * node.astype(t.dtype))) / _SPACING
    rows = jnp.asarray(table.rows, t.dtype)
    log_mean, rest = (_cubic(u, rows[row], rows[row + 2], node) for row in (0, 1))
    return jnp.exp(log_mean), jnp.sqrt(t) ** table.power * jnp.exp(rest)


def _cubic(u: Time, values: Array, slopes: Array, node: Number) -> Time:
    """The cubic with the values and slopes of both neighbors, at a fraction of the way between them."""
    start, end = values[node], values[node + 1]
    rise, low, high = end - start, _SPACING * slopes[node], _SPACING * slopes[node + 1]
    return start + u * (low + u * (3.0 * rise - 2.0 * low - high + u * (low + high - 2.0 * rise)))
