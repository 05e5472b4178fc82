"""The variational bound of a network trained on a chain, term by term, with its rate-distortion curve."""

import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.chains import Chain
from score_sde.data import Source
from score_sde.distributed import gathered, jit, spread
from score_sde.errors import UserError
from score_sde.evaluation.base import Purpose, examples, root_key
from score_sde.evaluation.likelihood import log_units
from score_sde.evaluation.partial import Partial
from score_sde.experiment import Experiment
from score_sde.labels import conditioned
from score_sde.objectives import make_predict_fn
from score_sde.parameterization import make_score_fn
from score_sde.typing import Params, PRNGKey
from score_sde.variational import learned_variance_bound
from score_sde.variational.ancestral_bound import ChainBound, ChainModel, DecoderVariance, StepVariance, chain_bounds

#: The models of one score network; the tightest bound is reported.
MODELS = tuple(ChainModel(v, d) for v in get_args(StepVariance) for d in get_args(DecoderVariance))

#: The one model of a network with learned variances.
LEARNED = (("learned", "learned"),)


class DatasetChainBound(NamedTuple):
    """Bounds on the negative log-likelihoods of a data set, their terms, and the cost of a progressive code.

    All values are in bits per dimension, of discrete images or of continuous data, except where noted. Levels are
    ordered along the reversal, from the prior to the data.
    """

    bits_per_dim: np.ndarray  # per example: the sum of the next three
    prior: np.ndarray  # per example: L_T
    divergence: np.ndarray  # per example: the sum of L_{t-1}
    decoder: np.ndarray  # per example: L_0
    std_error: np.ndarray  # per example, over the draws; nan where every level is drawn once
    times: np.ndarray  # of the levels
    level_bits: np.ndarray  # mean L_{t-1} of the step down from each level but the last
    rate: np.ndarray  # mean bits to send x_t, by level
    # Root mean squared error of E[x_0 | x_t], images counted from 0 to 255, other data as the network sees them.
    distortion: np.ndarray
    model: tuple[str, str]  # variances of the steps and the decoder
    alternatives: dict[tuple[str, str], float]  # mean bits per dimension of all models
    seconds: float


def dataset_chain_bound(
    experiment: Experiment,
    params: Params,
    source: Source,
    *,
    kept: Partial | None = None,
) -> DatasetChainBound:
    """The bound on every example (or on the first ``likelihood.num_examples``), at all levels of the chain.

    Gray levels enter at the middle of their bins. Learned variances of the steps and the decoder are used if there are
    any; otherwise the choice with the smallest mean bound on these examples. The bounds of all choices are in
    ``alternatives`` (Ho et al. 2020 report ``("fixed_large", "posterior")``; see
    :func:`score_sde.likelihood.chain_bound`). Every level is visited once, or ``likelihood.chain_terms`` levels are
    drawn per example. ``kept`` is as in :func:`~score_sde.evaluation.likelihood.dataset_likelihood`.

    Raises:
        UserError: If the network was not trained on a chain.
    """
    process = experiment.process
    if not isinstance(process, Chain):
        raise UserError(
            "The network was trained in continuous time (config.sde.schedule=continuous), and this bound is that of a "
            "chain; expected a network trained on one, such as config.sde.schedule=linear, or likelihood.bound_times."
        )
    kept = kept or Partial()
    batches = list(_batches(experiment, params, source, process, kept))
    bits = 1.0 / (int(np.prod(experiment.event_shape)) * math.log(2.0))
    examples = bits * np.concatenate([batch.examples for batch in batches], axis=-1)
    means = examples[:, 0].mean(axis=-1)
    models = LEARNED if experiment.learns_variances else MODELS
    best = int(np.argmin(means))
    level_bits, rate, square = (
        np.sum([np.asarray(getattr(batch, name)[best], np.float64) for batch in batches], axis=0) / examples.shape[-1]
        for name in ("divergences", "rate", "squared_error")
    )
    quantization = experiment.quantization
    scale = 1.0 if quantization.num_grey_levels is None else 255.0 / quantization.width
    return DatasetChainBound(
        *examples[best],
        times=np.asarray(process.times)[::-1],
        level_bits=level_bits * bits,
        rate=rate * bits,
        distortion=scale * np.sqrt(square),
        model=models[best],
        alternatives=dict(zip(models, map(float, means), strict=True)),
        seconds=kept.seconds,
    )


class _Sums(NamedTuple):
    """For one batch and every model: five numbers per example, and sums over examples of the values per level."""

    examples: Array | np.ndarray
    divergences: Array | np.ndarray
    rate: Array | np.ndarray
    squared_error: Array | np.ndarray


def _batches(experiment: Experiment, params: Params, source: Source, process: Chain, kept: Partial) -> Iterator[_Sums]:
    """The sums of each batch in turn, without the padding of the last."""
    settings, quantization = experiment.settings.likelihood, experiment.quantization
    num_terms = settings.chain_terms or None

    @jit
    def measure(params: Params, key: PRNGKey, batch: Any, mask: Array) -> _Sums:
        params, levels = conditioned(params, batch)
        x = quantization.midpoints(levels)
        if experiment.learns_variances:
            predict = make_predict_fn(experiment.reversal_network, experiment.parameterization, process, params)
            bounds = [learned_variance_bound(key, process, predict, x, quantization=quantization)]
        else:
            score_fn = make_score_fn(experiment.network, experiment.parameterization, process, params)
            options = {"num_terms": num_terms, "draws": 2 if num_terms else 1}
            bounds = chain_bounds(key, process, score_fn, x, MODELS, quantization=quantization, **options)
        # The decoder gives the density of scaled data; the bound is on the density in the units of the data.
        if cost := log_units(experiment):
            bounds = [bound._replace(value=bound.value + cost, decoder=bound.decoder + cost) for bound in bounds]
        return jax.tree.map(lambda *models: jnp.stack(models), *(_summed(bound, mask) for bound in bounds))

    masks = []
    for batch in examples(experiment, source, batch_size=settings.batch_size, limit=settings.num_examples):
        masks.append(batch.mask)
        if batch.number >= kept.batches:
            start, key = time.perf_counter(), jax.random.fold_in(root_key(experiment, Purpose.BOUND), batch.number)
            sums = gathered(measure(params, key, batch.data, spread(experiment.mesh, batch.mask)))
            kept.add([np.asarray(part)[None] for part in sums], time.perf_counter() - start)
        kept.progress(int(batch.mask.sum()))
    for mask, *sums in zip(masks, *kept.columns(), strict=True):
        found = _Sums(*sums)
        yield found._replace(examples=found.examples[..., mask])


def _summed(bound: ChainBound, mask: Array) -> _Sums:
    """Sum over examples on the device: a thousand levels of many images would be a large transfer."""
    total = jnp.sum(bound.divergences, axis=1)
    examples = jnp.stack([bound.value, bound.prior, total, bound.decoder, bound.std_error])
    sums = (jnp.sum(jnp.where(mask[:, None], v, 0.0), 0) for v in (bound.divergences, bound.rate, bound.squared_error))
    return _Sums(examples, *sums)
