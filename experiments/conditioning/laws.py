"""How far is the law of each conditional sampler from the posterior, where that is known?

    python experiments/conditioning/laws.py [--processes]

The data are the Gaussian of ``score_sde.evaluation.problems`` with their exact score. The first half of their values is
observed, with noise or without, and the posterior is Kalman's. Draws for sixteen observations are whitened by it, so
that draws of the posterior would be N(0, I), and their law is measured: the root mean square of its mean, the least
and the greatest standard deviation along the axes of the posterior, and the Kullback-Leibler divergence of the Gaussian
with these moments from the posterior, in nats. Without noise only the unknown values count. Methods take 100 steps
unless they say otherwise.

Without a flag draws of all methods are measured in 16 dimensions under VP. With ``--processes`` nothing is drawn: the
posterior scores are affine here, and so mean and covariance of their laws in continuous time are propagated, along the
probability flow and the reverse SDE, in 2 and in 64 dimensions under VE, VP and sub-VP.
"""

import argparse
import functools
import itertools
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import sampling, solvers
from score_sde.cli import run_script
from score_sde.conditioning import DAPS, Inpaint, RePaint, operators, posterior_score, twisted_diffusion
from score_sde.evaluation.problems import CASES, CorrelatedGaussian
from score_sde.sdes import SDE, VP

OBSERVATIONS, RUNS, STEPS = 16, 24, 100  # observations, runs of particles of each, and steps

Draws = tuple[np.ndarray, np.ndarray]  # (observations, draws, dim), and their weights, which sum to 1


class Setting(NamedTuple):
    """A process, its end, the data, and the number of draws for each observation."""

    sde: SDE
    t_end: float
    data: CorrelatedGaussian
    draws: int

    @property
    def covariance(self) -> np.ndarray:
        """Of the data."""
        return (self.data.basis * self.data.variances) @ self.data.basis.T

    @property
    def dim(self) -> int:
        """Number of values."""
        return len(self.data.variances)

    @property
    def known(self) -> np.ndarray:
        """Which of them are observed."""
        return np.arange(self.dim) < self.dim // 2

    @property
    def score(self) -> Any:
        """The exact score."""
        return self.data.score(self.sde)


USUAL = Setting(VP(), 1e-3, CorrelatedGaussian(), 2000)


class Posterior(NamedTuple):
    """Means ``(observations, dim)``, and axes with the standard deviations along them."""

    means: np.ndarray
    axes: np.ndarray
    stds: np.ndarray


def posterior(setting: Setting, y: np.ndarray, noise_std: float) -> Posterior:
    """Kalman's update; only axes along which anything is unknown."""
    covariance, known = setting.covariance, setting.known
    total = covariance[known][:, known] + noise_std**2 * np.eye(known.sum())
    gain = np.linalg.solve(total, covariance[known]).T
    variances, axes = np.linalg.eigh(covariance - gain @ covariance[known])
    uncertain = variances > 1e-9
    return Posterior(y[:, known] @ gain.T, axes[:, uncertain], np.sqrt(variances[uncertain]))


def observations(setting: Setting, noise_std: float) -> np.ndarray:
    """Values of draws of the data, with noise where they are known and 0 elsewhere."""
    rng, data, shape = np.random.RandomState(0), setting.data, (OBSERVATIONS, setting.dim)
    truth = rng.randn(*shape) * np.sqrt(data.variances) @ data.basis.T
    return np.where(setting.known, truth + noise_std * rng.randn(*shape), 0.0).astype(np.float32)


class Program(NamedTuple):
    """How draws are made of an observation for each and of the noise: a solver along a score."""

    solver: Callable[[jax.Array, Any], Any]
    score: Callable[[jax.Array, Any], Any]
    steps: int = STEPS


def integrated(setting: Setting, program: Program) -> Callable[[np.ndarray, float], Draws]:
    """Draws from the prior, denoised; compiled for all noises."""
    sde = setting.sde
    times = sampling.log_snr_times(sde, program.steps, setting.t_end)
    keys = sampling.sample_keys(jax.random.key(1), 0, OBSERVATIONS * setting.draws)
    start = sampling.prior_samples(keys, sde, (setting.dim,))

    @jax.jit
    def run(x: jax.Array, y: jax.Array, noise_std: Any) -> jax.Array:
        score, solver = program.score(y, noise_std), program.solver(y, noise_std)
        state = sampling.integrate(keys, solver, sde.reverse(score), x, times)
        mean_coeff, std = sde.marginal(times[-1])
        return (state.x + std**2 * score(state.x, jnp.full(len(x), times[-1]))) / mean_coeff

    def draw(y: np.ndarray, noise_std: float) -> Draws:
        rows = jnp.asarray(np.repeat(y, setting.draws, axis=0))
        return even(np.asarray(run(start, rows, noise_std), np.float64).reshape(OBSERVATIONS, -1, setting.dim))

    return draw


def even(x: np.ndarray) -> Draws:
    """Draws of equal weight."""
    return x, np.full(x.shape[:2], 1.0 / x.shape[1])


def by_score(setting: Setting, steps: int = STEPS, **options: Any) -> Callable[[np.ndarray, float], Draws]:
    """DPM-Solver++ (2M) of the reverse SDE along a posterior score."""

    def score(y: jax.Array, noise_std: Any) -> Any:
        exact = 0.0 if options["method"] == "ddnm" else noise_std
        mask = operators.mask(setting.known)
        return posterior_score(setting.sde, setting.score, mask, y, exact, data_std=0.5, **options)

    solver = solvers.DPMSolverMultistep(order=2)
    return integrated(setting, Program(lambda y, noise_std: solver, score, steps))


def by_repaint(setting: Setting, *, num_repeats: int) -> Callable[[np.ndarray, float], Draws]:
    """Ancestral steps, each repeated, that hold known values."""

    def solver(y: jax.Array, noise_std: Any) -> Any:
        mask = jnp.broadcast_to(jnp.asarray(setting.known), y.shape)
        return RePaint(solver=Inpaint(solver=solvers.Ancestral(), known=y, mask=mask), num_repeats=num_repeats)

    return integrated(setting, Program(solver, lambda y, noise_std: setting.score))


def by_daps(setting: Setting, *, num_flow_steps: int) -> Callable[[np.ndarray, float], Draws]:
    """Decoupled annealing."""
    options = {"operator": operators.mask(setting.known), "num_flow_steps": num_flow_steps, "t_end": setting.t_end}

    def solver(y: jax.Array, noise_std: Any) -> Any:
        return DAPS(y=y, noise_std=noise_std, **options)

    return integrated(setting, Program(solver, lambda y, noise_std: setting.score))


def by_particles(setting: Setting, *, num_particles: int) -> Callable[[np.ndarray, float], Draws]:
    """Twisted diffusion: all particles of several runs, with their weights."""
    settings: dict[str, Any] = {"shape": (setting.dim,), "num_particles": num_particles, "data_std": 0.5}
    settings["times"] = sampling.log_snr_times(setting.sde, STEPS, setting.t_end)
    operator = operators.mask(setting.known)

    @jax.jit
    def runs(keys: jax.Array, y: jax.Array, noise_std: Any) -> Any:
        def run(key: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
            found = twisted_diffusion(key, setting.sde, setting.score, operator, y[None], noise_std, **settings)
            return found.x, found.log_weights

        return jax.vmap(run)(keys, y)

    def draw(y: np.ndarray, noise_std: float) -> Draws:
        keys = jax.random.split(jax.random.key(2), OBSERVATIONS * RUNS)
        x, log_weights = runs(keys, jnp.repeat(jnp.asarray(y), RUNS, axis=0), noise_std)
        weights = np.exp(np.asarray(log_weights, np.float64)).reshape(OBSERVATIONS, -1) / RUNS
        return np.asarray(x, np.float64).reshape(OBSERVATIONS, -1, setting.dim), weights

    return draw


def distance(law: Posterior, x: np.ndarray, weights: np.ndarray) -> tuple[float, float, float, float]:
    """Root mean square of the whitened mean, least and greatest whitened std, and the divergence."""
    z = (x - law.means[:, None]) @ law.axes / law.stds
    means = np.einsum("nd,nda->na", weights, z)
    centered = z - means[:, None]
    covariance = np.einsum("nd,nda,ndb->ab", weights, centered, centered) / len(x)
    return divergence(means, covariance)


def divergence(means: np.ndarray, covariance: np.ndarray) -> tuple[float, float, float, float]:
    """The same of whitened means and a whitened covariance."""
    stds, dim = np.sqrt(np.diag(covariance)), len(covariance)
    square = np.mean(np.sum(means**2, axis=1))
    found = 0.5 * (np.trace(covariance) - dim - np.linalg.slogdet(covariance)[1] + square)
    return float(np.sqrt(square / dim)), float(stds.min()), float(stds.max()), float(found)


def measured(setting: Setting, noise_std: float, methods: Mapping[str, Any]) -> dict[str, tuple[float, ...] | None]:
    """The distances of exact draws and of each method by its name; None where it diverges."""
    y = observations(setting, noise_std)
    law = posterior(setting, y, noise_std)
    exact = np.random.RandomState(3).randn(OBSERVATIONS, setting.draws, len(law.stds)) * law.stds @ law.axes.T
    found = {"draws of the posterior": distance(law, *even(law.means[:, None] + exact))}
    found |= {name: distance(law, *method(y, noise_std)) for name, method in methods.items()}
    return {
        name: None if not np.isfinite(numbers).all() or numbers[0] > 100.0 else numbers
        for name, numbers in found.items()
    }


def methods_of(setting: Setting) -> tuple[dict[str, Any], dict[str, Any]]:
    """All methods, for observations with noise and without."""
    by = functools.partial(by_score, setting)
    both = {
        "MMPS, 8 iterations": by(method="mmps", iterations=8),
        "MMPS, 3 iterations": by(method="mmps", iterations=3),
        "PiGDM": by(method="pigdm"),
        "DAPS, 5 evaluations": by_daps(setting, num_flow_steps=5),
    }
    noisy = {
        **{name: both[name] for name in ("MMPS, 8 iterations", "MMPS, 3 iterations")},
        "MMPS, 1 iteration": by(method="mmps", iterations=1),
        "PiGDM": both["PiGDM"],
        "DPS": by(method="dps"),
        "DPS, 1000 steps": by(method="dps", steps=1000),
        "DAPS, 1 evaluation": by_daps(setting, num_flow_steps=1),
        "DAPS, 5 evaluations": both["DAPS, 5 evaluations"],
        **{f"TDS, {count} particles": by_particles(setting, num_particles=count) for count in (16, 64, 256)},
    }
    exact = {
        **{name: both[name] for name in ("MMPS, 8 iterations", "MMPS, 3 iterations", "PiGDM")},
        "DDNM": by(method="ddnm"),
        "replacement": by_repaint(setting, num_repeats=1),
        "RePaint, 10 repeats": by_repaint(setting, num_repeats=10),
        "DAPS, 5 evaluations": both["DAPS, 5 evaluations"],
    }
    return noisy, exact


def print_methods() -> None:
    """A row for each method and noise."""
    noisy, exact = methods_of(USUAL)
    print("| noise | method | mean | std, least | greatest | divergence, nats |")
    print("|---|---|---|---|---|---|")
    for noise_std, methods in ((0.1, noisy), (0.5, noisy), (0.0, exact)):
        for name, numbers in measured(USUAL, noise_std, methods).items():
            cells = " | ".join(["diverges", "", "", ""] if numbers is None else [f"{x:.3f}" for x in numbers])
            print(f"| {noise_std} | {name} | {cells} |", flush=True)


def affine(setting: Setting, method: str, sigma: float, noise_std: float) -> tuple[np.ndarray, np.ndarray]:
    """The posterior score ``M y + N observed`` of a method at the noise-to-signal ratio ``sigma``, with ``y = x / m``.

    These are the equations of ``score_sde.conditioning.posterior``, which its tests compare with the code.
    """
    covariance, known = setting.covariance, setting.known
    precision = np.linalg.inv(covariance + sigma**2 * np.eye(setting.dim))
    jacobian = covariance @ precision
    if method == "DDNM":
        pulled = np.eye(setting.dim)[:, known] / sigma**2
    else:
        spread = {
            "MMPS": sigma**2 * jacobian[known][:, known],
            "PiGDM": 0.25 * sigma**2 / (sigma**2 + 0.25) * np.eye(known.sum()),
            "DPS": np.zeros((known.sum(), known.sum())),
        }[method]
        pulled = jacobian[known].T @ np.linalg.inv(spread + noise_std**2 * np.eye(known.sum()))
    return -precision - pulled @ jacobian[known], pulled


def propagated(
    setting: Setting, method: str, y: np.ndarray, noise_std: float, noise_scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Means and covariance of a method's draws, denoised, by the implicit midpoint rule in ``log(s / m)``.

    ``dy = -(1 + eta^2) sigma^2 score dl + eta sqrt(2) sigma dw`` for ``l = log sigma`` and every linear process.
    """
    (m, s), dim = setting.sde.marginal(jnp.array([1.0, setting.t_end])), setting.dim
    ends, one = np.log(np.asarray(s, np.float64) / np.asarray(m)), np.eye(dim)
    places = np.linspace(ends[0], ends[1], 401)
    step = places[1] - places[0]
    means, covariance = np.zeros((dim, len(y))), (float(setting.sde.prior_std) / float(m[0])) ** 2 * one
    for place in 0.5 * (places[1:] + places[:-1]):
        sigma = np.exp(place)
        matrix, pulled = affine(setting, method, sigma, noise_std)
        rate = -(1.0 + noise_scale**2) * sigma**2
        half = np.linalg.inv(one - 0.5 * step * rate * matrix)
        whole = half @ (one + 0.5 * step * rate * matrix)
        means = whole @ means + step * rate * half @ pulled @ y[:, setting.known].T
        noise = -2.0 * step * (noise_scale * sigma) ** 2
        covariance = whole @ covariance @ whole.T + noise * half @ half.T
    sigma = np.exp(ends[1])
    matrix, pulled = affine(setting, method, sigma, noise_std)
    last = one + sigma**2 * matrix
    return (last @ means + sigma**2 * pulled @ y[:, setting.known].T).T, last @ covariance @ last.T


def print_processes() -> None:
    """A row for each noise, process and dimension: divergences, and the range of the standard deviations."""
    for noises, methods in (((0.1, 0.5), ("MMPS", "PiGDM", "DPS")), ((0.0,), ("MMPS", "PiGDM", "DDNM"))):
        titles = [f"{method}, {path}" for method in methods for path in ("flow", "SDE")]
        print(f"| process | values | noise | {' | '.join(titles)} |")
        print(f"|---|---|---|{'---|' * len(titles)}")
        for case, dim, noise_std in itertools.product(CASES, (2, 64), noises):
            setting = Setting(case.sde, case.t_end, CorrelatedGaussian(dim), 0)
            y, cells = observations(setting, noise_std), []
            law = posterior(setting, y, noise_std)
            for method, noise_scale in itertools.product(methods, (0.0, 1.0)):
                means, covariance = propagated(setting, method, y, noise_std, noise_scale)
                z = (means - law.means) @ law.axes / law.stds
                found = divergence(z, law.axes.T @ covariance @ law.axes / np.outer(law.stds, law.stds))
                cells.append(f"{found[3]:.3f} ({found[1]:.2f} to {found[2]:.2f})")
            print(f"| {case.name} | {dim} | {noise_std} | {' | '.join(cells)} |", flush=True)
        print()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", action="store_true", help="laws of posterior scores under all processes")
    print_processes() if parser.parse_args().processes else print_methods()


if __name__ == "__main__":
    sys.exit(run_script("laws", main))
