r"""Denoising score matching in continuous time.

    L = E_t E_{x_0, z} [ lambda(t) |score(x_t, t) + z / s(t)|^2 ],      x_t = m(t) x_0 + s(t) z

(Vincent 2011; Song et al. 2021, eq. 7). It is computed in noise space, ``lambda / s^2 |noise - z|^2`` with
``noise = -s score``, so that nothing is divided by the small standard deviations near ``t = 0``.
"""

import jax
import jax.numpy as jnp

from score_sde.objectives.times import Weighting
from score_sde.parameterization import Parameterization, make_noise_fn
from score_sde.processes import Process
from score_sde.typing import Batch, LossFn, Network, Params, PRNGKey, Times, TimeSampler


def score_matching_loss(
    sde: Process,
    network: Network,
    parameterization: Parameterization,
    *,
    times: TimeSampler,
    weighting: Weighting,
    reduce_mean: bool = True,
) -> LossFn:
    """The continuous denoising score matching loss of a network.

    Args:
        sde: The forward process.
        network: The network to be trained.
        parameterization: What its output means.
        times: Draws the training times.
        weighting: ``lambda(t)``; see :mod:`score_sde.objectives.times`.
        reduce_mean: ``True`` averages the squared error over the event, ``False`` takes half its sum; both are the
            conventions of Song et al. (the VP and VE configurations differ in it).

    Returns:
        ``loss_fn(params, key, batch, *, train)``, the loss of every example; with ``train`` dropout is on.
    """

    def loss_fn(params: Params, key: PRNGKey, batch: Batch, *, train: bool) -> Times:
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        t, weight = times.sample(time_key, batch.shape[0])
        xt, noise = sde.perturb(noise_key, batch, t)
        noise_fn = make_noise_fn(network, parameterization, sde, params, key=dropout_key if train else None)
        square = (noise_fn(xt, t) - noise) ** 2
        axes = tuple(range(1, batch.ndim))
        error = jnp.mean(square, axis=axes) if reduce_mean else 0.5 * jnp.sum(square, axis=axes)
        return weighting(sde, t) / sde.marginal(t).std ** 2 * weight * error

    return loss_fn
