r"""SDEs of which one knows only the coefficients, or only the marginals.

    m' = f m,      (s^2)' = 2 f s^2 + g^2

:class:`LinearSDE` finds the marginals of ``f`` and ``g`` by quadrature, and :class:`GaussianPath` the coefficients of
``m`` and ``s`` by differentiation. The given functions are checked once, in double precision, on a grid of times.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from score_sde.arguments import not_fulfilled
from score_sde.errors import UserError, explained, refuse
from score_sde.processes import Marginal
from score_sde.sdes.base import SDE
from score_sde.sdes.quadrature import POSITIONS, Table, interpolated, tabulate
from score_sde.typing import Number, Time, component, is_known, static

#: A function of times, element by element, which returns an array of their shape.
Coefficient: TypeAlias = Callable[[Any], Any]

EVEN = np.linspace(0.0, 1.0, 1025)  #: times at which the functions of a process are checked
_EARLY = np.geomspace(1e-6, 1e-3, 16)
_FIRST = 1e-10  # the time whose coefficients stand for those of time 0, where 0 / 0 is no number


def _values(name: str, coefficient: Coefficient, times: np.ndarray, dtype: Any = np.float64) -> Any:
    """The values at some times, computed in a precision; numbers unless the function holds traced ones.

    Raises:
        UserError: If the function is not one of JAX, or its values are not floating-point numbers of that shape.
    """

    def failed(error: Exception) -> UserError:
        reason = str(error).strip().split("\n")[0]
        return UserError(
            f"{name} cannot be computed for an array of times ({type(error).__name__}: {reason}); expected a function "
            "of jax.numpy, such as lambda t: jnp.cos(1.5 * t)."
        )

    with jax.enable_x64(dtype == np.float64), jax.ensure_compile_time_eval(), explained(failed):
        given = jnp.asarray(times, dtype)
        values = jax.jit(coefficient)(given)
        if jnp.shape(values) != times.shape or not jnp.issubdtype(jnp.result_type(values), jnp.floating):
            raise UserError(
                f"{name} of times of shape {times.shape} and type {given.dtype} has shape {jnp.shape(values)} and type "
                f"{jnp.result_type(values)}; expected the same shape, and floating-point numbers. A constant is "
                "jnp.full_like(t, 1.0)."
            )
        return np.asarray(values, np.float64) if is_known(values) else values


def _not(name: str, values: np.ndarray, times: np.ndarray, right: np.ndarray, expected: str) -> Iterator[str]:
    """The sentence about the first value that is not right."""
    if not right.all():
        first = int(np.argmin(right))
        yield f"{name} is {values[first]:.6g} at t = {times[first]:.6g}; expected {expected}."


def _not_finite(name: str, values: np.ndarray, times: np.ndarray) -> Iterator[str]:
    yield from _not(
        name,
        values,
        times,
        np.isfinite(values),
        "a finite number at every t from 0 to 1. A schedule that ends in noise alone can end just before: of 0.999 t",
    )


def not_falling(times: np.ndarray, mean_coeff: np.ndarray, std: np.ndarray) -> Iterator[str]:
    """The sentence about marginals whose log-SNR does not fall, which no process with noise has."""
    with np.errstate(divide="ignore"):
        log_snr = 2.0 * (np.log(mean_coeff) - np.log(std))
    rates = np.diff(log_snr) / np.diff(times)
    wrong = ~(rates < 0.0)
    if wrong.any():
        first = int(np.argmax(wrong))
        yield (
            f"From t = {times[first]:.6g} to {times[first + 1]:.6g} the log-SNR, log(m^2 / s^2), goes from "
            f"{log_snr[first]:.6g} to {log_snr[first + 1]:.6g}, so that g^2 / s^2 = {-rates[first]:.3g} there; "
            "expected it to fall at every time, as noise is only added: g^2 above 0."
        )


def _not_prior(prior_std: Number) -> Iterator[str]:
    yield from not_fulfilled("prior_std", prior_std, lambda std: (std > 0.0) & np.isfinite(std), "a number above 0")


@component
class GaussianPath(SDE):
    r"""The SDE of given marginals ``N(m(t) x_0, s(t)^2 I)``, such as a noise schedule's.

    Its coefficients follow by differentiation, ``f = m' / m`` and ``g^2 = 2 s (s' - s m' / m)``. The functions take
    times of any shape and return as many values. They need to be right in float32 near ``t = 0`` too, so
    ``sqrt(1 - m^2)`` is not a good way to write a small ``s``.

    Attributes:
        mean_coeff: The function ``m``, which begins at 1, the data, and stays above 0.
        std: The function ``s``, above 0 for ``t > 0``.
        prior_std: Std of the prior; by default ``s(1)``.

    Raises:
        UserError: If the functions do not make a process to which noise is only added.

    >>> cosine = GaussianPath(lambda t: jnp.cos(1.5 * t), lambda t: jnp.sin(1.5 * t))
    >>> round(float(cosine.diffusion(jnp.array(0.5)) ** 2), 4)  # 2 * 1.5 tan(1.5 t)
    2.7948
    """

    mean_coeff: Coefficient = static(kw_only=False)
    std: Coefficient = static(kw_only=False)
    prior_std: Number = None  # pyright: ignore[reportIncompatibleMethodOverride] -- a field for a property

    def __post_init__(self) -> None:
        """Check the functions, and take the prior from them unless it is given."""
        refuse(_not_marginals(self.mean_coeff, self.std))
        if self.prior_std is None:
            with jax.ensure_compile_time_eval():
                object.__setattr__(self, "prior_std", self.marginal(jnp.ones(())).std)
        refuse(_not_prior(self.prior_std))

    def marginal(self, t: Time) -> Marginal:
        """The given functions."""
        return Marginal(self.mean_coeff(t), self.std(t))

    def drift_coeff(self, t: Time) -> Time:
        """``m' / m``."""
        mean_coeff, rate = _with_rate(self.mean_coeff, t)
        return rate / mean_coeff

    def diffusion(self, t: Time) -> Time:
        """``sqrt(2 s (s' - s m' / m))``."""
        t = jnp.maximum(t, _FIRST)
        std, rate = _with_rate(self.std, t)
        return jnp.sqrt(jnp.maximum(2.0 * std * (rate - std * self.drift_coeff(t)), 0.0))


def _with_rate(coefficient: Coefficient, t: Time) -> tuple[Time, Time]:
    """The values at some times, and their derivatives."""
    return jax.jvp(coefficient, (t,), (jnp.ones_like(t),))


def _not_marginals(mean_coeff: Coefficient, std: Coefficient) -> Iterator[str]:
    """Sentences about functions that are not the marginals of a process."""
    means, stds = _values("mean_coeff", mean_coeff, EVEN), _values("std", std, EVEN)
    if isinstance(means, Tracer) or isinstance(stds, Tracer):
        return
    found = [
        *_not_finite("mean_coeff", means, EVEN),
        *_not_finite("std", stds, EVEN),
        *_not("mean_coeff", means, EVEN, ~(means <= 0.0), "a weight of the data above 0 at every t"),
        *_not("std", stds, EVEN, ~((stds < 0.0) | ((stds == 0.0) & (EVEN > 0.0))), "noise above 0 from t = 0 on"),
    ]
    if not found and abs(means[0] - 1.0) > 0.01:
        found.append(f"mean_coeff is {means[0]:.6g} at t = 0; expected 1, as a process begins at the data.")
    yield from found or not_falling(EVEN, means, stds)
    if not found:
        yield from _not_precise("mean_coeff", mean_coeff)
        yield from _not_precise("std", std)


def _not_precise(name: str, coefficient: Coefficient) -> Iterator[str]:
    """The sentence about a function that float32 computes otherwise than float64."""
    times = np.asarray(_EARLY, np.float32).astype(np.float64)
    exact, single = _values(name, coefficient, times), _values(name, coefficient, times, np.float32)
    if isinstance(exact, Tracer) or isinstance(single, Tracer):
        return
    yield from _not(
        name,
        single,
        times,
        np.abs(single - exact) <= 1e-3 * np.abs(exact),
        "the digits that float64 gives, within 0.1 %. Write it without a difference of close numbers: "
        "sqrt(1 - exp(-x)) as sqrt(-expm1(-x)), sqrt(1 - cos(x)^2) as sin(x)",
    )


@component
class LinearSDE(SDE):
    r"""The SDE of given coefficients, ``dx = f(t) x dt + g(t) dw``; made by :meth:`from_coefficients`.

    Its marginals are tabulated once, by Gaussian quadrature in double precision, and interpolated by cubics in time.
    Their derivatives are the moment equations.

    >>> flat = LinearSDE.from_coefficients(lambda t: -0.5 * jnp.full_like(t, 4.0), lambda t: jnp.full_like(t, 2.0))
    >>> float(flat.marginal(jnp.array(1e-5)).std)  # sqrt(1 - exp(-4 t)) is 0.00632443
    0.0063244...
    """

    given_drift_coeff: Coefficient = static()
    given_diffusion: Coefficient = static()
    table: Table
    prior_std: Number = None  # pyright: ignore[reportIncompatibleMethodOverride] -- a field for a property

    @classmethod
    def from_coefficients(
        cls, drift_coeff: Coefficient, diffusion: Coefficient, *, initial_std: float = 0.0, prior_std: Number = None
    ) -> "LinearSDE":
        """The SDE of ``f`` and ``g``, functions that take times of any shape and return as many values.

        Args:
            drift_coeff: The function ``f``.
            diffusion: The function ``g``, not negative.
            initial_std: ``s(0)``, for data that count as smoothed already.
            prior_std: Std of the prior; by default ``s(1)``.

        Raises:
            UserError: If the functions are not finite, negative, or make a process without noise.
        """
        refuse(not_fulfilled("initial_std", initial_std, lambda std: (std >= 0.0) & np.isfinite(std), "0 or more"))
        refuse(_not_coefficients(drift_coeff, diffusion))
        rates = _values("drift_coeff", drift_coeff, POSITIONS), _values("diffusion", diffusion, POSITIONS)
        if any(isinstance(rate, Tracer) for rate in rates):
            raise UserError(
                "The coefficients hold numbers that are traced by JAX, so that they cannot be tabulated; expected a "
                "process that is made outside of jit, vmap and grad, or a GaussianPath."
            )
        table = tabulate(*rates, initial_std=float(initial_std))
        made = cls(given_drift_coeff=drift_coeff, given_diffusion=diffusion, table=table, prior_std=prior_std)
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            means, stds = made.marginal(jnp.asarray(EVEN))
        refuse(not_falling(EVEN, np.asarray(means), np.asarray(stds)))
        return made

    def __post_init__(self) -> None:
        """Take the prior from the marginal at the end, unless it is given."""
        if self.prior_std is None:
            with jax.ensure_compile_time_eval():
                object.__setattr__(self, "prior_std", self.marginal(jnp.ones(())).std)
        refuse(_not_prior(self.prior_std))

    def drift_coeff(self, t: Time) -> Time:
        """The given ``f``."""
        return self.given_drift_coeff(t)

    def diffusion(self, t: Time) -> Time:
        """The given ``g``."""
        return self.given_diffusion(t)

    def marginal(self, t: Time) -> Marginal:
        """The interpolated solution of the moment equations."""
        return Marginal(*_marginal(self, t))


@jax.custom_jvp
def _marginal(sde: LinearSDE, t: Time) -> tuple[Time, Time]:
    return interpolated(sde.table, t)


@_marginal.defjvp
def _marginal_jvp(primals: Any, tangents: Any) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    # The moment equations, which the values of the table solve. The table itself is constant.
    (sde, t), (_, rate) = primals, tangents
    mean_coeff, std = _marginal(sde, t)
    drift, noise = sde.drift_coeff(t), sde.diffusion(t)
    return (mean_coeff, std), (drift * mean_coeff * rate, (drift * std + 0.5 * noise**2 / std) * rate)


def _not_coefficients(drift_coeff: Coefficient, diffusion: Coefficient) -> Iterator[str]:
    """Sentences about functions that are not the coefficients of a process."""
    drifts, noises = _values("drift_coeff", drift_coeff, EVEN), _values("diffusion", diffusion, EVEN)
    if isinstance(drifts, Tracer) or isinstance(noises, Tracer):
        return
    yield from _not_finite("drift_coeff", drifts, EVEN)
    yield from _not_finite("diffusion", noises, EVEN)
    yield from _not("diffusion", noises, EVEN, ~(noises < 0.0), "g, 0 or more: it multiplies noise")
