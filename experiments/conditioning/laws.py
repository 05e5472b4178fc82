"""How far is the law of each conditional sampler from the posterior, where that is known?

    python experiments/conditioning/laws.py

The data are the Gaussian of ``score_sde.evaluation.problems`` in 16 dimensions with their exact score. The first eight
values are observed with noise, under the VP process, and the posterior is Kalman's. Draws for sixteen observations are
whitened by it, so that draws of the posterior would be N(0, I), and their law is measured: the root mean square of its
mean, the least and the greatest standard deviation along the axes of the posterior, and the Kullback-Leibler divergence
of the Gaussian with these moments from the posterior, in nats. Without noise only the unknown values count. Methods
take 100 steps unless they say otherwise.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import sampling, solvers
from score_sde.conditioning import DAPS, Inpaint, RePaint, operators, posterior_score, twisted_diffusion
from score_sde.evaluation.problems import CorrelatedGaussian
from score_sde.sdes import VP

PROBLEM, SDE = CorrelatedGaussian(), VP()
COVARIANCE = (PROBLEM.basis * PROBLEM.variances) @ PROBLEM.basis.T
SCORE = PROBLEM.score(SDE)
KNOWN = np.arange(16) < 8
OPERATOR = operators.mask(KNOWN)
OBSERVATIONS, DRAWS, RUNS = 16, 2000, 24  # draws of each observation; runs of particles of each
STEPS = 100

Draws = tuple[np.ndarray, np.ndarray]  # (observations, draws, 16), and their weights, which sum to 1


class Posterior(NamedTuple):
    """Means ``(observations, 16)``, and axes with the standard deviations along them."""

    means: np.ndarray
    axes: np.ndarray
    stds: np.ndarray


def posterior(y: np.ndarray, noise_std: float) -> Posterior:
    """Kalman's update; only axes along which anything is unknown."""
    total = COVARIANCE[KNOWN][:, KNOWN] + noise_std**2 * np.eye(KNOWN.sum())
    gain = np.linalg.solve(total, COVARIANCE[KNOWN]).T
    variances, axes = np.linalg.eigh(COVARIANCE - gain @ COVARIANCE[KNOWN])
    uncertain = variances > 1e-9
    return Posterior(y[:, KNOWN] @ gain.T, axes[:, uncertain], np.sqrt(variances[uncertain]))


def observations(noise_std: float) -> np.ndarray:
    """Values of draws of the data, with noise where they are known and 0 elsewhere."""
    rng = np.random.RandomState(0)
    truth = rng.randn(OBSERVATIONS, 16) * np.sqrt(PROBLEM.variances) @ PROBLEM.basis.T
    return np.where(KNOWN, truth + noise_std * rng.randn(OBSERVATIONS, 16), 0.0).astype(np.float32)


def integrated(solver: Any, score: Any, steps: int = STEPS) -> np.ndarray:
    """Draws by a solver from the prior, denoised."""
    times = sampling.log_snr_times(SDE, steps, 1e-3)
    keys = sampling.sample_keys(jax.random.key(1), 0, OBSERVATIONS * DRAWS)
    start = sampling.prior_samples(keys, SDE, (16,))

    def run(x: jax.Array) -> jax.Array:
        state = sampling.integrate(keys, solver, SDE.reverse(score), x, times)
        mean_coeff, std = SDE.marginal(times[-1])
        return (state.x + std**2 * score(state.x, jnp.full(len(x), times[-1]))) / mean_coeff

    return np.asarray(jax.jit(run)(start), np.float64).reshape(OBSERVATIONS, DRAWS, 16)


def repeated(y: np.ndarray) -> jax.Array:
    """An observation for each draw."""
    return jnp.asarray(np.repeat(y, DRAWS, axis=0))


def even(x: np.ndarray) -> Draws:
    """Draws of equal weight."""
    return x, np.full(x.shape[:2], 1.0 / x.shape[1])


def by_score(y: np.ndarray, noise_std: float, steps: int = STEPS, **options: Any) -> Draws:
    """DPM-Solver++ (2M) of the reverse SDE along a posterior score."""
    score = posterior_score(SDE, SCORE, OPERATOR, repeated(y), noise_std, data_std=0.5, **options)
    return even(integrated(solvers.DPMSolverMultistep(order=2), score, steps))


def by_repaint(y: np.ndarray, noise_std: float, *, num_repeats: int) -> Draws:
    """Ancestral steps, each repeated, that hold known values."""
    del noise_std
    known = repeated(y)
    inpaint = Inpaint(solver=solvers.Ancestral(), known=known, mask=jnp.broadcast_to(jnp.asarray(KNOWN), known.shape))
    return even(integrated(RePaint(solver=inpaint, num_repeats=num_repeats), SCORE))


def by_daps(y: np.ndarray, noise_std: float, *, num_flow_steps: int) -> Draws:
    """Decoupled annealing."""
    solver = DAPS(operator=OPERATOR, y=repeated(y), noise_std=noise_std, num_flow_steps=num_flow_steps, t_end=1e-3)
    return even(integrated(solver, SCORE))


def by_particles(y: np.ndarray, noise_std: float, *, num_particles: int) -> Draws:
    """Twisted diffusion: all particles of several runs, with their weights."""

    def run(key: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        times = sampling.log_snr_times(SDE, STEPS, 1e-3)
        settings = {"shape": (16,), "times": times, "num_particles": num_particles, "data_std": 0.5}
        found = twisted_diffusion(key, SDE, SCORE, OPERATOR, y[None], noise_std, **settings)
        return found.x, found.log_weights

    keys = jax.random.split(jax.random.key(2), OBSERVATIONS * RUNS)
    x, log_weights = jax.jit(jax.vmap(run))(keys, jnp.repeat(jnp.asarray(y), RUNS, axis=0))
    weights = np.exp(np.asarray(log_weights, np.float64)).reshape(OBSERVATIONS, -1) / RUNS
    return np.asarray(x, np.float64).reshape(OBSERVATIONS, -1, 16), weights


def distance(law: Posterior, x: np.ndarray, weights: np.ndarray) -> tuple[float, float, float, float]:
    """Root mean square of the whitened mean, least and greatest whitened std, and the divergence."""
    z = (x - law.means[:, None]) @ law.axes / law.stds
    means = np.einsum("nd,nda->na", weights, z)
    centered = z - means[:, None]
    covariance = np.einsum("nd,nda,ndb->ab", weights, centered, centered) / len(x)
    stds, dim = np.sqrt(np.diag(covariance)), len(law.stds)
    square = np.mean(np.sum(means**2, axis=1))
    divergence = 0.5 * (np.trace(covariance) - dim - np.linalg.slogdet(covariance)[1] + square)
    return float(np.sqrt(square / dim)), float(stds.min()), float(stds.max()), float(divergence)


NOISY: dict[str, Callable[..., Draws]] = {
    "MMPS, 8 iterations": functools.partial(by_score, method="mmps", iterations=8),
    "MMPS, 3 iterations": functools.partial(by_score, method="mmps", iterations=3),
    "MMPS, 1 iteration": functools.partial(by_score, method="mmps", iterations=1),
    "PiGDM": functools.partial(by_score, method="pigdm"),
    "DPS": functools.partial(by_score, method="dps"),
    "DPS, 1000 steps": functools.partial(by_score, method="dps", steps=1000),
    "DAPS, 1 evaluation": functools.partial(by_daps, num_flow_steps=1),
    "DAPS, 5 evaluations": functools.partial(by_daps, num_flow_steps=5),
    "TDS, 16 particles": functools.partial(by_particles, num_particles=16),
    "TDS, 64 particles": functools.partial(by_particles, num_particles=64),
    "TDS, 256 particles": functools.partial(by_particles, num_particles=256),
}
EXACT: dict[str, Callable[..., Draws]] = {
    "MMPS, 8 iterations": NOISY["MMPS, 8 iterations"],
    "MMPS, 3 iterations": NOISY["MMPS, 3 iterations"],
    "PiGDM": NOISY["PiGDM"],
    "DDNM": functools.partial(by_score, method="ddnm"),
    "replacement": functools.partial(by_repaint, num_repeats=1),
    "RePaint, 10 repeats": functools.partial(by_repaint, num_repeats=10),
    "DAPS, 5 evaluations": NOISY["DAPS, 5 evaluations"],
}


def main() -> None:
    """Print a row for each method and noise."""
    print("| noise | method | mean | std, least | greatest | divergence, nats |")
    print("|---|---|---|---|---|---|")
    for noise_std, methods in ((0.1, NOISY), (0.5, NOISY), (0.0, EXACT)):
        y = observations(noise_std)
        law = posterior(y, noise_std)
        exact = np.random.RandomState(3).randn(OBSERVATIONS, DRAWS, len(law.stds)) * law.stds @ law.axes.T
        rows: dict[str, Draws] = {"draws of the posterior": even(law.means[:, None] + exact)}
        for name, method in methods.items():
            rows[name] = method(y, noise_std)
        for name, draws in rows.items():
            found = distance(law, *draws)
            far = not np.isfinite(found).all() or found[0] > 100.0
            cells = " | ".join(["diverges", "", "", ""] if far else [f"{number:.3f}" for number in found])
            print(f"| {noise_std} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
