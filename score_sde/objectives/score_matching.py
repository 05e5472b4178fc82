r"""Denoising score matching in continuous time.

    L = E_t E_{x_0, z} [ lambda(t) |score(x_t, t) + z / s(t)|^2 ],      x_t = m(t) x_0 + s(t) z

(Vincent 2011; Song et al. 2021, eq. 7). It is computed in noise space, ``lambda / s^2 |noise - z|^2`` with
``noise = -s score``, so that nothing is divided by the small standard deviations near ``t = 0``.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.fields import DEFAULTS
from score_sde.labels import unconditioned
from score_sde.objectives.uncertainty import Uncertainty
from score_sde.parameterization import Parameterization, make_noise_fn
from score_sde.processes import Process
from score_sde.sdes import SDE
from score_sde.times import ImportanceTimes, LowDiscrepancyTimes
from score_sde.typing import (
    Batch,
    Loss,
    Network,
    Number,
    Params,
    PRNGKey,
    Scalar,
    Times,
    TimeSampler,
    event_sum,
    time_dtype,
)
from score_sde.weightings import Weighting

_Draws: TypeAlias = tuple[Times, Times, Batch, Batch]


def score_matching_loss(
    process: Process,
    network: Network,
    parameterization: Parameterization,
    *,
    times: TimeSampler,
    weighting: Weighting,
    reduce_mean: bool = DEFAULTS.objective.reduce_mean,
    uncertainty: Uncertainty | None = None,
) -> Loss:
    """The continuous denoising score matching loss of a network.

    Args:
        process: The forward process.
        network: The network to train.
        parameterization: The meaning of its output.
        times: Draws the training times.
        weighting: ``lambda(t)``; see :mod:`score_sde.weightings`.
        reduce_mean: ``True`` averages the squared error over the event, ``False`` takes half its sum; both are
            conventions of Song et al., for VP and VE configurations.
        uncertainty: The learned uncertainty ``u`` at a noise level, by whose exponential the error is divided; see
            :mod:`score_sde.objectives.uncertainty`.

    Returns:
        The loss; it draws times, noisy data and their noise.
    """

    def draw(key: PRNGKey, batch: Batch) -> tuple[_Draws, PRNGKey]:
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        t, weight = (part.astype(time_dtype(batch)) for part in times.sample(time_key, batch.shape[0]))
        return (t, weight, *process.perturb(noise_key, batch, t)), dropout_key

    def losses(params: Params, batch: Batch, draws: _Draws, dropout_key: PRNGKey | None) -> Times:
        t, weight, xt, noise = draws
        noise_fn = make_noise_fn(network, parameterization, process, params, key=dropout_key)
        square = (noise_fn(xt, t) - noise) ** 2
        error = jnp.mean(square, axis=tuple(range(1, batch.ndim))) if reduce_mean else 0.5 * event_sum(square)
        weighted = weighting(process, t) / process.marginal(t).std ** 2 * weight * error
        if uncertainty is None:
            return weighted
        u = uncertainty(unconditioned(params)[0], -0.5 * process.log_snr(t))
        return weighted * jnp.exp(-u) + weight * u * (1.0 if reduce_mean else 0.5 * batch[0].size)

    return Loss(draw, losses)


class LevelLosses(NamedTuple):
    """The loss at each noise level under a law of training times; its overall mean is ``sum(share * mean)``."""

    share: Float[Array, " levels"]  # fraction of the draws on the level
    mean: Float[Array, " levels"]
    std: Float[Array, " levels"]

    @property
    def total(self) -> tuple[Scalar, Scalar]:
        """Mean and standard deviation of the loss of one example over all levels."""
        mean = jnp.sum(self.share * self.mean)
        spread = jnp.sum(self.share * (self.std**2 + (self.mean - mean) ** 2))
        return mean, jnp.sqrt(spread)


class NoiseLevels(NamedTuple):
    """The loss by noise level; the levels are equally wide in log-SNR and lie between neighboring edges."""

    log_snr: Float[Array, " edges"]
    t: Float[Array, " edges"]
    uniform: LevelLosses
    importance: LevelLosses


def loss_by_noise_level(
    params: Params,
    key: PRNGKey,
    batch: Batch,
    *,
    sde: SDE,
    make_loss: Callable[..., Loss],
    t0: Number = 1e-5,
    t1: Number = 1.0,
    num_levels: int = 20,
) -> NoiseLevels:
    """The distribution of the weighted loss over noise levels, under uniform and under importance-sampled times.

    Both have the same overall mean; the ratio of their squared overall standard deviations is the gain of importance
    sampling (Song et al. 2021b, arXiv 2101.09258, section 5).

    Args:
        params: Parameters of the network.
        key: Draws times and noise.
        batch: Data; every level sees the whole batch, once for each law.
        sde: The forward process.
        make_loss: The loss with given ``times``, such as
            ``functools.partial(score_matching_loss, sde, network, parameterization, weighting=likelihood_weighting)``.
        t0: Smallest training time.
        t1: Largest training time.
        num_levels: Number of levels.

    Returns:
        Edges of the levels, and for each law the share of its draws and the mean and standard deviation of the
        losses of single examples per level.

    Raises:
        UserError: If the process is a chain.

    >>> from score_sde.sdes import VP
    >>> sde = VP()
    >>> def make_loss(times):  # a loss that is 1 / t whatever the data
    ...     draw = lambda key, batch: (times.sample(key, batch.shape[0]), key)
    ...     return Loss(draw, lambda params, batch, draws, dropout_key: draws.weight / draws.t)
    >>> options = {"sde": sde, "make_loss": make_loss, "num_levels": 10}
    >>> levels = loss_by_noise_level({}, jax.random.key(0), jnp.zeros((1000, 2)), **options)
    >>> [[round(float(v), 0) for v in law.total] for law in (levels.uniform, levels.importance)]  # mean and std
    [[12.0, 316.0], [12.0, 8.0]]
    """
    ends = sde.log_snr(jnp.stack([jnp.asarray(t0), jnp.asarray(t1)]))
    log_snr = jnp.linspace(ends[0], ends[1], num_levels + 1)
    edges = sde.inverse_log_snr(log_snr).at[0].set(t0).at[-1].set(t1)
    quantiles = LowDiscrepancyTimes(t0=0.0)

    def level(row: tuple[PRNGKey, Scalar, Scalar]) -> tuple[Times, Times]:
        key, start, end = row
        uniform_key, importance_key = jax.random.split(key)
        uniform = make_loss(times=LowDiscrepancyTimes(t0=start, t1=end))
        importance = make_loss(times=ImportanceTimes(sde=sde, t0=start, t1=end, base=quantiles))
        return uniform(params, uniform_key, batch, train=False), importance(params, importance_key, batch, train=False)

    uniform, importance = jax.lax.map(level, (jax.random.split(key, num_levels), edges[:-1], edges[1:]))
    shares = jnp.diff(edges) / (t1 - t0), jnp.full(num_levels, 1.0 / num_levels)
    # The weights of importance sampling within one level make averages over uniform time within it.
    importance = importance * (shares[0] / shares[1])[:, None]
    summaries = [
        LevelLosses(share, jnp.mean(losses, axis=1), jnp.std(losses, axis=1))
        for share, losses in zip(shares, (uniform, importance), strict=True)
    ]
    return NoiseLevels(log_snr, edges, *summaries)
