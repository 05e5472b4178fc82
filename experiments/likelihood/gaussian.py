"""How far is a likelihood off where it is known, and what do importance-sampled times save?

    python experiments/likelihood/gaussian.py

The data are draws of ``N(0, C)``, ``C_ij = 0.25 * 0.8^|i - j|`` in 16 dimensions, with the exact score, in single
precision. Errors are in nats per sample, for 64 draws, of the density at t = 1e-5: of the exact trace first with the
exact density at t = 1, so that they are the solver's, then with the prior. The errors of probes are standard deviations
over 32 draws, averaged over samples.

What importance-sampled times save is the variance of one draw of the likelihood-weighted loss over times, data and
noise, under uniform times over that under importance-sampled ones, with the standard error over ten repetitions.
"""

import functools
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.cli import run_script
from score_sde.evaluation.problems import CorrelatedGaussian
from score_sde.likelihood import Likelihood, log_likelihood_on_grid
from score_sde.objectives import likelihood_weighting, loss_by_noise_level, score_matching_loss
from score_sde.parameterization import NoisePrediction
from score_sde.sampling import log_snr_times
from score_sde.sdes import SDE, VE, VP, SubVP
from score_sde.typing import Batch, Params, PRNGKey, Scalar, Times

PROBLEM = CorrelatedGaussian()
ROOT = np.linalg.cholesky(0.25 * 0.8 ** np.abs(np.subtract.outer(np.arange(16), np.arange(16))))
SDES: dict[str, SDE] = {"VP": VP(), "sub-VP": SubVP(), "VE": VE()}
T_MIN = 1e-5


def exact_logp(sde: SDE, x: Batch, t: Scalar) -> Times:
    """The log-density of the marginal at ``t``."""
    variances = PROBLEM.marginal_variances(sde, t)
    y = x @ PROBLEM.basis
    return -0.5 * jnp.sum(y**2 / variances + jnp.log(2.0 * jnp.pi * variances), axis=1)


def samples() -> Batch:
    """The 64 draws."""
    return jnp.asarray(np.random.RandomState(0).randn(64, 16) @ ROOT.T, jnp.float32)


def likelihoods(sde: SDE, evals: int, order: int, **options: object) -> Callable[[jax.Array], Likelihood]:
    """The likelihood of the draws as a function of the key."""
    x, times = samples(), log_snr_times(sde, evals - 1, T_MIN)

    def run(key: jax.Array) -> Likelihood:
        return log_likelihood_on_grid(key, sde, PROBLEM.score(sde), x, times, order=order, **options)  # pyright: ignore

    return jax.jit(run)


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
    x = jax.random.normal(data_key, (4096, 16)) @ jnp.asarray(ROOT.T, jnp.float32)
    make_loss = functools.partial(
        score_matching_loss,
        sde,
        ExactNoise(sde),
        NoisePrediction(condition_on="time"),
        weighting=likelihood_weighting,
        reduce_mean=False,
    )
    levels = loss_by_noise_level({}, loss_key, x, sde=sde, make_loss=make_loss, t0=T_MIN)
    (mean, std), (other, importance) = levels.uniform.total, levels.importance.total
    return float((std / importance) ** 2), float(mean / other)


def main() -> None:
    """Print the three tables."""
    for name, sde in SDES.items():
        truth = np.asarray(exact_logp(sde, samples(), jnp.asarray(T_MIN)))
        for evals in (36, 72, 144):
            for order in (3, 4, 5):
                cells = []
                for terminal in (lambda z, sde=sde: exact_logp(sde, z, jnp.ones(())), None):
                    run = likelihoods(sde, evals, order, num_probes=None, terminal_logp=terminal)
                    error = np.asarray(run(jax.random.key(0)).logp) - truth
                    cells.append(f"{error.mean():+.1e} | {error.std():.1e} | {np.abs(error).max():.1e}")
                print(f"| {name} | {evals} | {order} | {' | '.join(cells)} |")
            spreads = []
            for fresh in (True, False):
                run = likelihoods(sde, evals, 4, fresh_probes=fresh)
                draws = np.stack([np.asarray(run(jax.random.key(seed)).logp) for seed in range(32)])
                spreads.append(draws.std(axis=0, ddof=1).mean())
            print(f"probes: | {name} | {evals} | {spreads[0]:.2f} | {spreads[1]:.2f} | {spreads[1] / spreads[0]:.1f} |")
    for name, sde in SDES.items():
        rows = np.array([ratio(sde, key) for key in jax.random.split(jax.random.key(0), 10)])
        (factor, means), error = rows.mean(axis=0), rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
        print(f"importance: | {name} | {factor:.1f} ± {error[0]:.1f} | {means:.4f} ± {error[1]:.4f} |")


if __name__ == "__main__":
    sys.exit(run_script("gaussian", main))
