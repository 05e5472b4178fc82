"""The contract of processes, checked on one of the user's own when it is made."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.outside.parts import Part
from score_sde.outside.purity import impure
from score_sde.sdes.base import SDE
from score_sde.sdes.own import EVEN, not_falling

_FUNCTIONS = ("mean_coeff", "std", "drift_coeff", "diffusion")
_OFF = 0.01  # of a moment equation, relative to its terms


def check_process(part: Part, sde: Any) -> None:
    """Check shapes, types, purity, finite coefficients, a falling log-SNR and the moment equations.

    Raises:
        UserError: With the clause that it breaks.
    """
    if not isinstance(sde, SDE):
        raise part.refused(
            f"makes a {type(sde).__name__}", "an SDE, such as score_sde.sdes.GaussianPath(mean_coeff, std)"
        )
    part.calling(lambda: _check_shapes(part, sde))
    values = part.calling(lambda: _values(sde))
    for name, value in zip(_FUNCTIONS, values, strict=True):
        if not np.isfinite(value[1:]).all():
            place = EVEN[1:][~np.isfinite(value[1:])][0]
            raise part.refused(f"has {name} that is not finite at t = {place:g}", "finite coefficients for t above 0")
    means, stds, drifts, noises = (value[1:] for value in values)
    for name, value, right in (("mean_coeff", means, means > 0.0), ("std", stds, stds > 0.0)):
        if not right.all():
            raise part.refused(f"has {name} = {value[~right][0]:g} at t = {EVEN[1:][~right][0]:g}", "one above 0")
    if (noises < 0.0).any():
        raise part.refused(f"has diffusion {noises.min():g}", "0 or more, for it multiplies noise")
    for sentence in not_falling(EVEN[1:], means, stds):
        raise part.refused("is no process to which noise is added", f"one whose log-SNR falls. {sentence[:-1]}")
    _check_moments(part, sde, (means, stds, drifts, noises))
    _check_prior(part, sde, float(stds[-1]))


def _coefficients(sde: SDE, t: Any) -> tuple[Any, ...]:
    return (*sde.marginal(t), sde.drift_coeff(t), sde.diffusion(t))


def _check_shapes(part: Part, sde: SDE) -> None:
    for shape in ((), (3,)):
        t = jnp.full(shape, 0.5)
        for name, value in zip(_FUNCTIONS, _coefficients(sde, t), strict=True):
            if jnp.shape(value) != shape or jnp.result_type(value) != t.dtype:
                raise part.refused(
                    f"has {name} of shape {jnp.shape(value)} and type {jnp.result_type(value)} for times of shape "
                    f"{shape} and type {t.dtype}",
                    "the same shape and type",
                )
    if impure(lambda t: _coefficients(sde, t), jnp.full(3, 0.5)):
        raise part.refused("has other coefficients at the same times the second time", "functions of time alone")


def _values(sde: SDE) -> tuple[np.ndarray, ...]:
    with jax.enable_x64(True):
        return tuple(np.asarray(one, np.float64) for one in jax.jit(lambda t: _coefficients(sde, t))(jnp.asarray(EVEN)))


def _check_moments(part: Part, sde: SDE, values: tuple[np.ndarray, ...]) -> None:
    """``m' = f m`` and ``(s^2)' = 2 f s^2 + g^2``."""
    means, stds, drifts, noises = values

    def moments(t: Any) -> tuple[Any, Any]:
        mean_coeff, std = sde.marginal(t)
        return mean_coeff, std**2

    with jax.enable_x64(True):
        t = jnp.asarray(EVEN[1:])
        _, rates = part.calling(lambda: jax.jvp(moments, (t,), (jnp.ones_like(t),)))
    mean_rate, variance_rate = (np.asarray(rate, np.float64) for rate in rates)
    for name, rate, terms in (
        ("m' = f m", mean_rate, (drifts * means,)),
        ("(s^2)' = 2 f s^2 + g^2", variance_rate, (2.0 * drifts * stds**2, noises**2)),
    ):
        right, size = np.sum(terms, axis=0), np.abs(rate) + np.sum(np.abs(terms), axis=0)
        wrong = ~(np.abs(rate - right) <= _OFF * size + 1e-9)
        if wrong.any():
            first = int(np.argmax(wrong))
            raise part.refused(
                f"breaks the moment equation {name} at t = {EVEN[1:][first]:g}: the left side, from its marginal, is "
                f"{rate[first]:.4g}, and the right side, from its coefficients, {right[first]:.4g}",
                "equal ones; GaussianPath makes the coefficients of marginals, LinearSDE the marginals of coefficients",
            )


def _check_prior(part: Part, sde: SDE, std: float) -> None:
    prior = float(np.asarray(sde.prior_std))
    if not 0.5 * std <= prior <= 2.0 * std:
        raise part.refused(
            f"has prior_std {prior:g} and std {std:g} at t = 1", "about the same, from which samples start"
        )
