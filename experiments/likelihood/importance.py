"""What importance-sampled times save: the variance of one draw of the likelihood-weighted loss, against uniform times.

    python experiments/likelihood/importance.py

On the AR(1) Gaussian in 16 dimensions under its exact score, as a trained network has it, from t = 1e-5 on. The ratio
is that of the variances over times, data and noise; its error is the standard error over ten repetitions.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.evaluation.problems import CorrelatedGaussian
from score_sde.objectives import likelihood_weighting, loss_by_noise_level, score_matching_loss
from score_sde.parameterization import NoisePrediction
from score_sde.sdes import SDE, VE, VP, SubVP
from score_sde.typing import Batch, Params, PRNGKey, Times

PROBLEM = CorrelatedGaussian()


class ExactNoise:
    """The network that predicts the noise as well as it can be predicted."""

    def __init__(self, sde: SDE) -> None:
        """Of the Gaussian's marginals under this SDE."""
        self._sde = sde

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """There is nothing to draw."""
        return {}

    def apply(self, params: Params, x: Batch, condition: Times, *, label: object = None, key: object = None) -> Batch:
        """Minus the standard deviation times the score."""
        t = condition / 999.0
        return -self._sde.marginal(t).std[:, None] * PROBLEM.score(self._sde)(x, t)


def ratio(sde: SDE, key: PRNGKey) -> tuple[float, float]:
    """Variance under uniform times over that under importance-sampled ones, and the ratio of the means."""
    data_key, loss_key = jax.random.split(key)
    covariance = 0.25 * 0.8 ** np.abs(np.subtract.outer(np.arange(16), np.arange(16)))
    x = jax.random.normal(data_key, (4096, 16)) @ jnp.asarray(np.linalg.cholesky(covariance).T, jnp.float32)
    make_loss = functools.partial(
        score_matching_loss,
        sde,
        ExactNoise(sde),
        NoisePrediction(condition_on="time"),
        weighting=likelihood_weighting,
        reduce_mean=False,
    )
    levels = loss_by_noise_level({}, loss_key, x, sde=sde, make_loss=make_loss, t0=1e-5)
    (mean, std), (other, importance) = levels.uniform.total, levels.importance.total
    return float((std / importance) ** 2), float(mean / other)


def main() -> None:
    """Print a row for each SDE."""
    for name, sde in (("VP", VP()), ("sub-VP", SubVP()), ("VE", VE())):
        rows = np.array([ratio(sde, key) for key in jax.random.split(jax.random.key(0), 10)])
        (factor, means), error = rows.mean(axis=0), rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
        print(f"| {name} | {factor:.1f} ± {error[0]:.1f} | {means:.4f} ± {error[1]:.4f} |")


if __name__ == "__main__":
    main()
