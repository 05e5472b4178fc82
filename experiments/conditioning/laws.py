"""How far is the law of each conditional sampler from the posterior, where that is known?

    python experiments/conditioning/laws.py [--processes]

The data are the Gaussian of ``score_sde.evaluation.problems`` with their exact score. The first half of their values is
observed, with noise or without, and the posterior is Kalman's. Draws for sixteen observations are whitened by it, so
that draws of the posterior would be N(0, I), and their law is measured: the root mean square of its mean, the least
and the greatest standard deviation along the axes of the posterior, and the Kullback-Leibler divergence of the Gaussian
with these moments from the posterior, in nats. Without noise only the unknown values count. Methods take 100 steps
unless they say otherwise.

Without a flag all methods are measured in 16 dimensions under VP; with ``--processes`` the posterior scores, by the
probability flow and by the reverse SDE, in 2 and in 64 dimensions under VE, VP and sub-VP.
"""

import argparse
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import sampling, solvers
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
    noise_scale: float | None = None  # of the reverse process; by default as the solver chooses


def integrated(setting: Setting, program: Program) -> Callable[[np.ndarray, float], Draws]:
    """Draws from the prior, denoised; compiled for all noises."""
    sde = setting.sde
    times = sampling.log_snr_times(sde, program.steps, setting.t_end)
    keys = sampling.sample_keys(jax.random.key(1), 0, OBSERVATIONS * setting.draws)
    start = sampling.prior_samples(keys, sde, (setting.dim,))

    @jax.jit
    def run(x: jax.Array, y: jax.Array, noise_std: Any) -> jax.Array:
        score, solver = program.score(y, noise_std), program.solver(y, noise_std)
        state = sampling.integrate(keys, solver, sde.reverse(score, noise_scale=program.noise_scale), x, times)
        mean_coeff, std = sde.marginal(times[-1])
        return (state.x + std**2 * score(state.x, jnp.full(len(x), times[-1]))) / mean_coeff

    def draw(y: np.ndarray, noise_std: float) -> Draws:
        rows = jnp.asarray(np.repeat(y, setting.draws, axis=0))
        return even(np.asarray(run(start, rows, noise_std), np.float64).reshape(OBSERVATIONS, -1, setting.dim))

    return draw


def even(x: np.ndarray) -> Draws:
    """Draws of equal weight."""
    return x, np.full(x.shape[:2], 1.0 / x.shape[1])


def by_score(
    setting: Setting, steps: int = STEPS, noise_scale: float | None = None, **options: Any
) -> Callable[[np.ndarray, float], Draws]:
    """DPM-Solver++ (2M) along a posterior score, of the reverse SDE unless the noise scale says otherwise."""

    def score(y: jax.Array, noise_std: Any) -> Any:
        exact = 0.0 if options["method"] == "ddnm" else noise_std
        mask = operators.mask(setting.known)
        return posterior_score(setting.sde, setting.score, mask, y, exact, data_std=0.5, **options)

    solver = solvers.DPMSolverMultistep(order=2)
    return integrated(setting, Program(lambda y, noise_std: solver, score, steps, noise_scale))


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
    stds, dim = np.sqrt(np.diag(covariance)), len(law.stds)
    square = np.mean(np.sum(means**2, axis=1))
    divergence = 0.5 * (np.trace(covariance) - dim - np.linalg.slogdet(covariance)[1] + square)
    return float(np.sqrt(square / dim)), float(stds.min()), float(stds.max()), float(divergence)


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


def along_both(setting: Setting, name: str, **options: Any) -> dict[str, Any]:
    """A posterior score along the probability flow and the reverse SDE."""
    paths = {"flow": 0.0, "SDE": 1.0}
    return {f"{name}, {path}": by_score(setting, noise_scale=scale, **options) for path, scale in paths.items()}


def scores_of(setting: Setting) -> tuple[dict[str, Any], dict[str, Any]]:
    """Posterior scores along both paths, and RePaint, for observations with noise and without."""
    both = along_both(setting, "MMPS", method="mmps") | along_both(setting, "PiGDM", method="pigdm")
    noisy = both | along_both(setting, "DPS", method="dps", steps=1000)
    exact = both | along_both(setting, "DDNM", method="ddnm")
    return noisy, exact | {"RePaint": by_repaint(setting, num_repeats=10)}


def print_processes() -> None:
    """A row for each noise, process and dimension: divergences, and the range of the standard deviations."""
    settings = {
        (case.name, dim): Setting(case.sde, case.t_end, CorrelatedGaussian(dim), 500)
        for case in CASES
        for dim in (2, 64)
    }
    methods = {name: scores_of(setting) for name, setting in settings.items()}
    for noises, which in (((0.1, 0.5), 0), ((0.0,), 1)):
        titles = ["draws of the posterior", *next(iter(methods.values()))[which]]
        print(f"| process | values | noise | {' | '.join(titles)} |")
        print(f"|---|---|---|{'---|' * len(titles)}")
        for (name, dim), setting in settings.items():
            for noise_std in noises:
                found = measured(setting, noise_std, methods[name, dim][which]).values()
                cells = ("diverges" if n is None else f"{n[3]:.3f} ({n[1]:.2f} to {n[2]:.2f})" for n in found)
                print(f"| {name} | {dim} | {noise_std} | {' | '.join(cells)} |", flush=True)
        print()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", action="store_true", help="posterior scores under all processes")
    print_processes() if parser.parse_args().processes else print_methods()


if __name__ == "__main__":
    main()
