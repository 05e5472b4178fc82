r"""MeanFlow: a network of the average velocity between two times (Geng et al. 2025, arXiv 2505.13447).

    u(x_t, s, t) = (x_t - x_s) / (t - s) = 1 / (t - s) int_s^t v(x_r, r) dr

along the flow of the velocity ``v``. Its derivative by ``t`` along the flow gives the identity

    u(x_t, s, t) = v(x_t, t) - (t - s) d/dt u(x_t, s, t),      d/dt = v d/dx + d/dt,

which is learned with the velocity ``m' x_0 + s' z`` of single paths in the place of their mean ``v``. At ``s = t`` this
is flow matching.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp

from score_sde.arguments import not_fulfilled
from score_sde.average_velocity import make_average_fn
from score_sde.errors import refuse
from score_sde.fields import DEFAULTS
from score_sde.objectives.adaptive import AdaptiveError
from score_sde.parameterization import Parameterization
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

_Draws: TypeAlias = tuple[Times, Times, Times, Batch, Batch]
_ERROR = AdaptiveError()
_SECOND, _APART, _ORDER = 1, 2, 3  # purposes of keys derived from the key of the times


def mean_flow_loss(
    process: Process,
    network: Network,
    parameterization: Parameterization,
    *,
    times: TimeSampler,
    apart: Number = DEFAULTS.objective.apart,
    error: AdaptiveError = _ERROR,
) -> Loss:
    """The loss of the average velocity of a path.

    Args:
        process: The forward process; its time is the one that is averaged over.
        network: The network to train, which takes ``span``, the time between the two.
        parameterization: How the network sees its arguments; its output is the velocity itself.
        times: Draws the two times, one after another.
        apart: The share of the examples with two times; the others have one, as in flow matching.
        error: The error of an example, of the difference that is to vanish.

    Raises:
        UserError: If the share is none.
    """
    refuse(not_fulfilled("apart", apart, lambda share: (share >= 0.0) & (share <= 1.0), "a share from 0 to 1"))

    def draw(key: PRNGKey, batch: Batch) -> tuple[_Draws, PRNGKey]:
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        count, dtype = batch.shape[0], time_dtype(batch)
        second, apart_key, order = (jax.random.fold_in(time_key, n) for n in (_SECOND, _APART, _ORDER))
        # In another order, for the times of a batch may be evenly spread.
        other, own = jax.random.permutation(order, jnp.stack(times.sample(second, count)), axis=1).astype(dtype)
        t, weight = (part.astype(dtype) for part in times.sample(time_key, count))
        two = jax.random.uniform(apart_key, (count,)) < apart
        t, s = jnp.where(two, jnp.maximum(t, other), t), jnp.where(two, jnp.minimum(t, other), t)
        return (t, s, jnp.where(two, weight * own, weight), *process.perturb(noise_key, batch, t)), dropout_key

    def losses(params: Params, batch: Batch, draws: _Draws, dropout_key: PRNGKey | None) -> Times:
        t, s, weight, xt, noise = draws
        average = make_average_fn(network, parameterization, process, params, key=dropout_key).average
        _, (mean_rate, std_rate) = jax.jvp(process.marginal, (t,), (jnp.ones_like(t),))
        velocity = expand_like(mean_rate, batch) * batch + expand_like(std_rate, batch) * noise
        found, change = jax.jvp(lambda x, t: average(x, t, s), (xt, t), (velocity, jnp.ones_like(t)))
        target = jax.lax.stop_gradient(velocity - expand_like(t - s, batch) * change)
        return weight * error(found - target)

    return Loss(draw, losses)
