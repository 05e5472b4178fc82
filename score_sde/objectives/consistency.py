r"""Consistency models: a network whose denoised sample ``f(x_t, t)`` is where the probability flow from ``x_t`` ends.

    L = E |f(x_t, t) - sg f(x_r, r)|^2 / (sigma_t - sigma_r)^2,      x_t = m(t) x_0 + s(t) z,   x_r = m(r) x_0 + s(r) z

with the noise-to-signal ratio ``sigma = s / m``, the same noise and the same dropout on both sides (Song et al. 2023,
arXiv 2303.01469; Geng et al. 2024, arXiv 2406.14548). On data themselves ``f`` is the identity, because the
parameterization makes it so. The relative gap ``1 - sigma_r / sigma_t`` shrinks in the course of training. At 1, where
``x_r`` is the data, this is denoising score matching. Towards 0 the mean of the difference given ``x_t`` becomes the
change of ``f`` along the flow, and a consistency model has none.
"""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.arguments import not_fulfilled, not_whole
from score_sde.errors import UserError, refuse
from score_sde.fields import DEFAULTS
from score_sde.objectives.adaptive import AdaptiveError
from score_sde.parameterization import Parameterization, denoise, make_score_fn
from score_sde.processes import Process
from score_sde.typing import (
    Batch,
    Loss,
    Network,
    Number,
    Params,
    PRNGKey,
    Times,
    TimeSampler,
    expand_like,
    time_dtype,
)

_Draws: TypeAlias = tuple[Times, Times, Batch, Batch]
_ERROR = AdaptiveError()
_STEEPNESS = 8.0  # how much wider the gap is at small noise, relative to the gap at large noise (k of Geng et al. 2024)
_LEAST_GAP = 1e-3  # below it, float32 holds too few digits of a difference


def consistency_loss(
    process: Process,
    network: Network,
    parameterization: Parameterization,
    *,
    times: TimeSampler,
    gap: Number,
    t_min: Number = DEFAULTS.objective.t_min,
    error: AdaptiveError = _ERROR,
) -> Loss:
    """The loss of a consistency model at a fixed gap.

    Args:
        process: The forward process.
        network: The network to train.
        parameterization: The meaning of its output; the denoised sample of data has to be the data.
        times: Draws the times ``t``.
        gap: The relative gap of the two noise levels where the noise is large. It is up to five times as wide at small
            noise: ``1 - sigma_r / sigma_t = gap (1 + 8 sigmoid(-sigma_t))``, at most 1.
        t_min: A time ``r`` below it stands for the data.
        error: The error of an example, of the difference that is to vanish.

    Raises:
        UserError: If the gap is not above 0 or the parameterization has no such boundary.
    """
    refuse(not_fulfilled("gap", gap, lambda gap: gap > 0.0, "a number above 0"))
    if not parameterization.keeps_data:
        raise UserError(
            f"{type(parameterization).__name__} does not return data as they are; expected a parameterization that "
            "does, such as EDMPrediction."
        )

    def draw(key: PRNGKey, batch: Batch) -> tuple[_Draws, PRNGKey]:
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        t, weight = (part.astype(time_dtype(batch)) for part in times.sample(time_key, batch.shape[0]))
        return (t, weight, *process.perturb(noise_key, batch, t)), dropout_key

    def end(params: Params, x: Batch, t: Times, key: PRNGKey | None) -> Batch:
        return denoise(process, make_score_fn(network, parameterization, process, params, key=key), x, t)

    def losses(params: Params, batch: Batch, draws: _Draws, dropout_key: PRNGKey | None) -> Times:
        t, weight, xt, noise = draws
        ratio, least = _ratio(process, t), _ratio(process, jnp.asarray(t_min, t.dtype))
        lower = ratio * (1.0 - gap * (1.0 + _STEEPNESS * jax.nn.sigmoid(-ratio)))
        at_data = lower <= least
        r = process.inverse_log_snr(-2.0 * jnp.log(jnp.maximum(lower, least))).astype(t.dtype)
        mean_coeff, std = (expand_like(part, batch) for part in process.marginal(r))
        target = end(jax.lax.stop_gradient(params), mean_coeff * batch + std * noise, r, dropout_key)
        known = at_data.reshape(at_data.shape + (1,) * (batch.ndim - 1))
        target = jnp.where(known, batch, jax.lax.stop_gradient(target))
        step = ratio - jnp.where(at_data, 0.0, lower)
        difference = (end(params, xt, t, dropout_key) - target) / expand_like(step, batch)
        return weight * error(difference)

    return Loss(draw, losses)


def consistency_training(
    process: Process,
    network: Network,
    parameterization: Parameterization,
    *,
    gap_divisor: Number = DEFAULTS.objective.gap_divisor,
    gap_every: int = DEFAULTS.objective.gap_every,
    num_steps: int = 1,
    **options: Any,
) -> Loss:
    """The loss of a consistency model whose gap shrinks: ``gap_divisor ** -(1 + step // gap_every)``.

    From the parameters of a trained score network this is easy consistency tuning, from others consistency training.

    Args:
        process: The forward process.
        network: The network to train.
        parameterization: The meaning of its output.
        gap_divisor: What the gap is divided by, at the beginning and every ``gap_every`` steps.
        gap_every: Steps between two divisions; 0 for the first one alone.
        num_steps: Steps of training; with no step given, the loss is that of the last one.
        options: The other arguments of :func:`consistency_loss`.

    Raises:
        UserError: As :func:`consistency_loss`, and for a divisor that is not above 1.
    """
    refuse(
        [
            *not_fulfilled("gap_divisor", gap_divisor, lambda divisor: divisor > 1.0, "a number above 1"),
            *not_whole("gap_every", gap_every, 0),
        ]
    )

    def at(step: Int[Array, ""] | int) -> Loss:
        stage = step // gap_every if gap_every else 0
        gap = jnp.maximum(gap_divisor ** -(1.0 + stage), _LEAST_GAP)
        return consistency_loss(process, network, parameterization, gap=gap, **options)

    last = at(num_steps - 1)
    return Loss(last.draw, last.losses, at if gap_every else None)


def _ratio(process: Process, t: Float[Array, "..."]) -> Float[Array, "..."]:
    """The ratio of noise and signal, ``s / m``."""
    mean_coeff, std = process.marginal(t)
    return std / mean_coeff
