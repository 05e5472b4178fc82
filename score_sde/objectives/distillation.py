r"""Progressive distillation: a student whose one step goes where two steps of its teacher go (arXiv 2202.00512).

In ``x / m`` and the noise-to-signal ratio ``sigma = s / m``, a step of DDIM from ``t`` to ``s`` is straight,
``x_s / m_s = x_t / m_t - (sigma_t - sigma_s) n(x_t, t)`` with the predicted noise ``n``. Two steps of the teacher are
thus one step along the mean of its two predictions, weighted by their lengths, and this mean is what the student's
prediction is trained for (Salimans & Ho 2022, algorithm 2). Nothing is divided by a small number.
"""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.errors import UserError
from score_sde.fields import DEFAULTS
from score_sde.labels import Taught, unconditioned
from score_sde.parameterization import Parameterization, make_noise_fn
from score_sde.processes import Process
from score_sde.typing import Batch, Loss, Network, Params, PRNGKey, Times, event_sum, expand_like, time_dtype
from score_sde.weightings import Weighting

_Draws: TypeAlias = tuple[Times, Times, Times, Batch]


def distillation_loss(
    process: Process,
    network: Network,
    parameterization: Parameterization,
    *,
    times: Float[Array, " points"],
    weighting: Weighting,
    reduce_mean: bool = DEFAULTS.objective.reduce_mean,
) -> Loss:
    """The loss of a student that is to take two steps of its teacher at once.

    The teacher comes with the parameters, as :class:`~score_sde.labels.Taught`; without one the network is its own.

    Args:
        process: The forward process.
        network: The network of both.
        parameterization: The meaning of its output.
        times: The teacher's times, falling from 1; the student takes every other one, so their number is odd.
        weighting: ``lambda(t)``; see :mod:`score_sde.weightings`.
        reduce_mean: Mean of the squares over the event, else half their sum.

    Raises:
        UserError: If the times are not of pairs of steps.
    """
    if times.shape[0] < 3 or times.shape[0] % 2 == 0:
        raise UserError(f"The teacher has {times.shape[0]} times; expected an odd number, 3 or more: pairs of steps.")

    def draw(key: PRNGKey, batch: Batch) -> tuple[_Draws, PRNGKey]:
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        place = 2 * jax.random.randint(time_key, batch.shape[:1], 0, times.shape[0] // 2)
        t, middle, s = (times[place + n].astype(time_dtype(batch)) for n in range(3))
        return (t, middle, s, process.perturb(noise_key, batch, t)[0]), dropout_key

    def losses(params: Params, batch: Batch, draws: _Draws, dropout_key: PRNGKey | None) -> Times:
        t, middle, s, xt = draws
        own, label = unconditioned(params)
        student, teacher = own if isinstance(own, Taught) else (own, own)
        parts = (network, parameterization, process)
        teach = make_noise_fn(*parts, jax.lax.stop_gradient(teacher), label=label)
        levels = [process.marginal(time) for time in (t, middle, s)]
        ratio, half, end = (std / mean_coeff for mean_coeff, std in levels)
        first = teach(xt, t)
        reached = xt / expand_like(levels[0].mean_coeff, xt) - expand_like(ratio - half, xt) * first
        second = teach(expand_like(levels[1].mean_coeff, xt) * reached, middle)
        share = expand_like((ratio - half) / (ratio - end), xt)
        target = jax.lax.stop_gradient(share * first + (1.0 - share) * second)
        square = (make_noise_fn(*parts, student, label=label, key=dropout_key)(xt, t) - target) ** 2
        error = jnp.mean(square, axis=tuple(range(1, batch.ndim))) if reduce_mean else 0.5 * event_sum(square)
        return weighting(process, t) / levels[0].std ** 2 * error

    return Loss(draw, losses)


def taught(loss: Loss, teacher: Params) -> Loss:
    """A loss whose parameters come with a teacher, as one of the parameters alone."""

    def losses(params: Params, batch: Any, draws: Any, dropout_key: PRNGKey | None) -> Times:
        return loss.losses(Taught(params, teacher), batch, draws, dropout_key)

    return Loss(loss.draw, losses)
