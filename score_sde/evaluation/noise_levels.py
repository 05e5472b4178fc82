"""Where in the noise a model spends its bits, and what importance-sampled times save in training."""

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

    Levels are equally wide in log-SNR; entry ``i`` lies between edges ``i`` and ``i + 1``, from the data on.
    """

    log_snr: np.ndarray  # edges
    t: np.ndarray  # edges
    bits: np.ndarray  # what each level adds to the bound: half the integral of g^2/s^2 E|n - z|^2
    uniform_std: np.ndarray  # of the loss of one draw within each level, under uniform times
    importance_std: np.ndarray  # and under times uniform in log-SNR
    total: float  # sum of the bits
    variance_ratio: float  # variance of a draw under uniform times, over that under importance-sampled ones
    num_examples: int


def noise_level_report(
    experiment: Experiment, params: Params, source: Source, *, noise: BinNoise | None = None
) -> NoiseLevelReport:
    """The report for the first 256 examples (Song et al. 2021b, arXiv 2101.09258, section 5).

    The mean loss does not depend on the law of the times, its variance does: a ratio of 9 says that a batch with
    importance-sampled times does as well as nine with uniform ones.
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
    count = max(count // experiment.mesh.size, 1) * experiment.mesh.size  # the levels' statistics know no mask
    batch = next(examples(experiment, source, batch_size=count, limit=count)).data
    levels = gathered(measure(params, {} if noise is None else noise.params, key, batch))
    unit = 1.0
    if experiment.quantization.num_grey_levels is not None:
        unit = 1.0 / (float(np.prod(experiment.event_shape)) * np.log(2.0))
    share, scale = np.asarray(levels.uniform.share, np.float64), unit * (1.0 - settings.t_min)
    # Under importance sampling the draws within a level hardly vary in weight, so that its means are the better ones.
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
