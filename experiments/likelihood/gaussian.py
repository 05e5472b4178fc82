"""How far is a likelihood off where it is known? The AR(1) Gaussian in 16 dimensions, by method and evaluations.

    python experiments/likelihood/gaussian.py

64 draws of ``N(0, C)``, ``C_ij = 0.25 * 0.8^|i - j|``, and the exact score, in single precision. Errors are in nats per
sample, of the density at t = 1e-5: of the exact trace first with the exact density at t = 1, so that they are the
solver's, then with the prior. The errors of probes are standard deviations over 32 draws, averaged over samples.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.evaluation.problems import CorrelatedGaussian
from score_sde.likelihood import Likelihood, log_likelihood_on_grid
from score_sde.sampling import log_snr_times
from score_sde.sdes import SDE, VE, VP, SubVP
from score_sde.typing import Batch, Scalar, Times

PROBLEM = CorrelatedGaussian()
T_MIN = 1e-5


def exact_logp(sde: SDE, x: Batch, t: Scalar) -> Times:
    """The log-density of the marginal at ``t``."""
    variances = PROBLEM.marginal_variances(sde, t)
    y = x @ PROBLEM.basis
    return -0.5 * jnp.sum(y**2 / variances + jnp.log(2.0 * jnp.pi * variances), axis=1)


def samples() -> Batch:
    """The 64 draws."""
    index = np.arange(16)
    covariance = 0.25 * 0.8 ** np.abs(index[:, None] - index[None])
    return jnp.asarray(np.random.RandomState(0).randn(64, 16) @ np.linalg.cholesky(covariance).T, jnp.float32)


def likelihoods(sde: SDE, evals: int, order: int, **options: object) -> Callable[[jax.Array], Likelihood]:
    """The likelihood of the draws as a function of the key."""
    x, times = samples(), log_snr_times(sde, evals - 1, T_MIN)

    def run(key: jax.Array) -> Likelihood:
        return log_likelihood_on_grid(key, sde, PROBLEM.score(sde), x, times, order=order, **options)  # pyright: ignore

    return jax.jit(run)


def main() -> None:
    """Print the two tables."""
    for name, sde in (("VP", VP()), ("sub-VP", SubVP()), ("VE", VE())):
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


if __name__ == "__main__":
    main()
