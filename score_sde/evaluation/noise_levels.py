"""The bits of a model by noise level, and the gain from importance-sampled times in training."""

import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from score_sde.data import Source
from score_sde.distributed import gathered, jit
from score_sde.evaluation.base import Purpose, examples, root_key
from score_sde.evaluation.likelihood import BinNoise, dequantized
from score_sde.experiment import Experiment
from score_sde.objectives import likelihood_weighting, loss_by_noise_level, score_matching_loss
from score_sde.typing import Params, PRNGKey

_EXAMPLES = 256


class NoiseLevelReport(NamedTuple):
    """The likelihood-weighted loss by noise level, as part of the bound: bits per dimension, or nats if continuous.

    Levels are equally wide in log-SNR; entry ``i`` lies between edges ``i`` and ``i + 1``, starting at the data.
    """

    log_snr: np.ndarray  # edges
    t: np.ndarray  # edges
    bits: np.ndarray  # part of the bound by level: half the integral of g^2/s^2 E|n - z|^2
    uniform_std: np.ndarray  # of the single-draw loss within each level, under uniform times
    importance_std: np.ndarray  # under times uniform in log-SNR
    total: float  # sum of the bits
    variance_ratio: float  # single-draw variance, uniform over importance-sampled times
    num_examples: int


def noise_level_report(
    experiment: Experiment, params: Params, source: Source, *, noise: BinNoise | None = None
) -> NoiseLevelReport:
    """The report for the first 256 examples (Song et al. 2021b, arXiv 2101.09258, section 5).

    The distribution of the times changes the variance of the loss, not its mean: a ratio of 9 means that one batch with
    importance-sampled times is as good as nine with uniform times.
    """
    settings = experiment.settings.likelihood
    make_loss = functools.partial(
        score_matching_loss,
        experiment.sde,
        experiment.network,
        experiment.parameterization,
        weighting=likelihood_weighting,
        reduce_mean=False,
    )

    @jit
    def measure(params: Params, noise_params: Params, key: PRNGKey, levels: Array):  # noqa: ANN202
        noise_key, loss_key = jax.random.split(key)
        x, _ = dequantized(experiment, noise or BinNoise(), noise_params, noise_key, levels)
        options = {"t0": settings.t_min, "num_levels": settings.noise_levels}
        return loss_by_noise_level(params, loss_key, x, sde=experiment.sde, make_loss=make_loss, **options)

    count = min(_EXAMPLES, settings.num_examples or len(source), len(source))
    key = root_key(experiment, Purpose.NOISE_LEVELS)
    count = max(count // experiment.mesh.size, 1) * experiment.mesh.size  # statistics by level take no mask
    batch = next(examples(experiment, source, batch_size=count, limit=count)).data
    levels = gathered(measure(params, {} if noise is None else noise.params, key, batch))
    unit = 1.0
    if experiment.quantization.num_grey_levels is not None:
        unit = 1.0 / (float(np.prod(experiment.event_shape)) * np.log(2.0))
    share, scale = np.asarray(levels.uniform.share, np.float64), unit * (1.0 - settings.t_min)
    # Importance-sampled draws within a level have nearly equal weights, which makes their means more accurate.
    bits = scale * np.asarray(levels.importance.share * levels.importance.mean, np.float64)
    (_, uniform), (_, importance) = levels.uniform.total, levels.importance.total
    return NoiseLevelReport(
        log_snr=np.asarray(levels.log_snr),
        t=np.asarray(levels.t),
        bits=bits,
        uniform_std=scale * np.asarray(levels.uniform.std) * share,
        importance_std=scale * np.asarray(levels.importance.std * levels.importance.share),
        total=float(bits.sum()),
        variance_ratio=float((uniform / importance) ** 2),
        num_examples=count,
    )
