"""The bounds of a variational autoencoder on a data set: the evidence and the importance-weighted lower bound."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.data import Source
from score_sde.distributed import gathered, jit
from score_sde.errors import UserError
from score_sde.evaluation.base import Examples, Purpose, examples, root_key
from score_sde.evaluation.likelihood import BinNoise, bits_per_dim, dequantized
from score_sde.evaluation.partial import Partial, measured_in_parts
from score_sde.experiment import Experiment
from score_sde.likelihood import importance_weighted
from score_sde.objectives import elbo, importance_bound
from score_sde.typing import Params, PRNGKey, Times


class DatasetLatentBound(NamedTuple):
    """Bounds on the log-likelihoods of a data set, one entry per example."""

    nats: np.ndarray  # with ``likelihood.num_weights`` importance weights
    bits_per_dim: np.ndarray  # of the same bound; nan for continuous data
    elbo_nats: np.ndarray  # of the evidence lower bound
    elbo_bits_per_dim: np.ndarray
    seconds: float


def dataset_latent_bound(
    experiment: Experiment,
    params: Params,
    source: Source,
    *,
    kept: Partial | None = None,
) -> DatasetLatentBound:
    """The bounds on every example (or on the first ``likelihood.num_examples``), uniformly dequantized.

    Over several draws of dequantization noise, the bounds are averaged or, with ``likelihood.importance_weighted``,
    their weights. See :func:`~score_sde.evaluation.likelihood.dataset_likelihood`, also for ``kept``.

    Raises:
        UserError: If the model has no latent variables.
    """
    settings, model, noise = experiment.settings.likelihood, experiment.latent, BinNoise()
    if model is None:
        raise UserError(
            "The model is a score network, and this bound that of an encoder; expected config.model.name=vae."
        )

    @jit
    def draw(params: Params, key: PRNGKey, levels: Array) -> tuple[Times, Times]:
        noise_key, weights_key, elbo_key = (jax.random.fold_in(key, n) for n in range(3))
        x, log_q = dequantized(experiment, noise, noise.params, noise_key, levels)
        tight = importance_bound(weights_key, model, params, x, settings.num_weights)
        return tight - log_q, elbo(elbo_key, model, params, x) - log_q

    root = root_key(experiment, Purpose.LIKELIHOOD)

    def measure(batch: Examples) -> tuple[np.ndarray, np.ndarray]:
        keys = [
            jax.random.fold_in(jax.random.fold_in(root, n), batch.number) for n in range(settings.num_dequantizations)
        ]
        tight, loose = (jnp.stack(draws) for draws in zip(*(draw(params, k, batch.data) for k in keys), strict=True))
        joined = importance_weighted(tight) if settings.importance_weighted else jnp.mean(tight, axis=0)
        return gathered((joined, jnp.mean(loose, axis=0)))

    batches = examples(experiment, source, batch_size=settings.batch_size, limit=settings.num_examples)
    kept = kept or Partial()
    nats, elbo_nats = measured_in_parts(batches, measure, kept)
    bits, elbo_bits = (bits_per_dim(experiment, column) for column in (nats, elbo_nats))
    return DatasetLatentBound(nats, bits, elbo_nats, elbo_bits, kept.seconds)
