"""Are draws given observations calibrated? Ranks of the truth among the draws (Talts et al. 2018, arXiv 1804.06788).

    python experiments/conditioning/calibration.py

500 pairs of data and an observation with noise 0.5 of the first value, 19 draws for each observation, exact scores, VP.
If the draws are of the posterior, the rank of the truth along a direction is uniform over 20 values. The p-value of the
chi-square test is printed for three repetitions, each with pairs and a random direction of its own: one value in a
hundred is below 0.01 by chance. The Gaussian has two correlated values, the mixture three modes.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import sampling, solvers
from score_sde.cli import run_script
from score_sde.conditioning import posterior_score, twisted_diffusion
from score_sde.sdes import VP
from score_sde.typing import Batch, Times

PAIRS, DRAWS, NOISE = 500, 19, 0.5
SDE = VP()
TIMES = sampling.log_snr_times(SDE, 120, 1e-3)


class Mixture:
    """A mixture of Gaussians in the plane."""

    def __init__(self, weights: Any, means: Any, covariances: Any) -> None:
        """Diagonalize the covariances."""
        self.weights, self.means = np.asarray(weights), np.asarray(means)
        self.variances, self.bases = np.linalg.eigh(np.asarray(covariances))

    def sample(self, rng: np.random.RandomState, count: int) -> np.ndarray:
        """Draws of the data."""
        which = rng.choice(len(self.weights), count, p=self.weights)
        z = np.sqrt(self.variances[which]) * rng.randn(count, 2)
        return self.means[which] + np.einsum("nij,nj->ni", self.bases[which], z)

    def score(self, x: Batch, t: Times, /) -> Batch:
        """The score of the marginals."""

        def log_density(x: jax.Array, t: jax.Array) -> jax.Array:
            mean_coeff, std = SDE.marginal(t)
            variances = mean_coeff**2 * self.variances + std**2
            y = jnp.einsum("kji,kj->ki", self.bases, x[None] - mean_coeff * self.means)
            logs = -0.5 * jnp.sum(y**2 / variances + jnp.log(variances), axis=1)
            return jax.scipy.special.logsumexp(logs + np.log(self.weights))

        return jax.vmap(jax.grad(log_density))(x, t)


PRIORS = {
    "Gaussian": Mixture([1.0], [[0.3, -0.2]], [[[1.0, 0.8], [0.8, 1.0]]]),
    "mixture": Mixture(
        [0.5, 0.3, 0.2],
        [[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]],
        [std**2 * np.eye(2) for std in (0.2, 0.3, 0.15)],
    ),
}


def observe(x: Batch) -> Batch:
    """The first value."""
    return x[:, :1]


def by_score(prior: Mixture, y: np.ndarray, method: str) -> np.ndarray:
    """Draws by DPM-Solver++ (2M) of the reverse SDE along a posterior score."""
    rows = jnp.asarray(np.repeat(y, DRAWS, axis=0), jnp.float32)
    score = posterior_score(SDE, prior.score, observe, rows, NOISE, method=method, iterations=1, data_std=1.0)
    keys = sampling.sample_keys(jax.random.key(0), 0, len(rows))
    start, solver = sampling.prior_samples(keys, SDE, (2,)), solvers.DPMSolverMultistep(order=2)
    run = jax.jit(lambda x: sampling.integrate(keys, solver, SDE.reverse(score), x, TIMES).x)
    return np.asarray(run(start)).reshape(PAIRS, DRAWS, 2)


def by_particles(prior: Mixture, y: np.ndarray, num_particles: int) -> np.ndarray:
    """One particle of each of 19 runs of twisted diffusion."""

    def run(key: jax.Array, y: jax.Array) -> jax.Array:
        settings = {"shape": (2,), "times": TIMES, "num_particles": num_particles}
        found = twisted_diffusion(key, SDE, prior.score, observe, y[None], NOISE, **settings)
        return found.x[jax.random.categorical(jax.random.fold_in(key, 1), found.log_weights)]

    rows = jnp.asarray(np.repeat(y, DRAWS, axis=0), jnp.float32)
    keys = jax.random.split(jax.random.key(0), len(rows))
    return np.asarray(
        jax.jit(lambda keys, y: jax.lax.map(lambda each: run(*each), (keys, y), batch_size=500))(keys, rows)
    ).reshape(PAIRS, DRAWS, 2)


METHODS = {
    "MMPS": lambda prior, y: by_score(prior, y, "mmps"),
    "TDS, 16 particles": lambda prior, y: by_particles(prior, y, 16),
    "TDS, 64 particles": lambda prior, y: by_particles(prior, y, 64),
    "PiGDM": lambda prior, y: by_score(prior, y, "pigdm"),
    "DPS": lambda prior, y: by_score(prior, y, "dps"),
}


def p_value(truth: np.ndarray, draws: np.ndarray, direction: np.ndarray) -> float:
    """Of the chi-square test of uniform ranks along a direction."""
    ranks = ((draws @ direction) < (truth @ direction)[:, None]).sum(axis=1)
    expected = PAIRS / (DRAWS + 1)
    statistic = np.sum((np.bincount(ranks, minlength=DRAWS + 1) - expected) ** 2 / expected)
    return float(jax.scipy.special.gammaincc(DRAWS / 2, statistic / 2))


def main() -> None:
    """Print a row for each prior and method."""
    print("| prior | method | p, first repetition | second | third |")
    print("|---|---|---|---|---|")
    for name, prior in PRIORS.items():
        for method, draw in METHODS.items():
            cells = []
            for seed in (1, 2, 3):
                rng = np.random.RandomState(seed)
                truth = prior.sample(rng, PAIRS)
                y = truth[:, :1] + NOISE * rng.randn(PAIRS, 1)
                cells.append(f"{p_value(truth, draw(prior, y), rng.randn(2)):.2g}")
            print(f"| {name} | {method} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(run_script("calibration", main))
