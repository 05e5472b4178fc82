"""The lineage on two modes of unequal weight, where the density is known: ``densities.png`` and ``densities.json``.

    python experiments/lineage/densities.py --out=runs/lineage/mixture

The data are 0.2 N((-1, -1), 0.2^2 I) + 0.8 N((1, 1), 0.2^2 I), the mixture of Song & Ermon 2019, figure 3, a fifth as
large. A variational autoencoder and the VP flow are trained by the command line's own modes. Langevin dynamics, plain
and annealed, has the exact score. How much of each ends up in the heavier mode is in the file.
"""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.chains import NCSN, geometric_sigmas
from score_sde.cli import run_script
from score_sde.config import from_file
from score_sde.evaluation.samples import draw_samples
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.files import atomic_savez, atomic_write_json, check_writable
from score_sde.likelihood import log_likelihood
from score_sde.modes import MODES
from score_sde.modes.workdir import build_experiment, machine, trained_state
from score_sde.objectives import importance_bound
from score_sde.report.plots import new_figure, save_figure
from score_sde.sampling import integrate, prior_samples, sample_keys
from score_sde.solvers import AnnealedLangevin, NoPredictor, PredictorCorrector, langevin_monte_carlo
from score_sde.typing import Batch, Params, Times

WEIGHTS, CENTERS, STD = (0.2, 0.8), ((-1.0, -1.0), (1.0, 1.0)), 0.2
LIMIT, POINTS = 1.9, 60  # of the grid that densities are drawn on
COUNT = 2000  # samples
STEP, NUM_STEPS = 0.004, 1000  # of plain Langevin dynamics: those of the paper, of lengths a fifth as large
CHAIN = NCSN(sigmas=geometric_sigmas(20, 0.05, 8.0))
CORRECTIONS = 100  # per level


def log_density(x: Batch, noise: Array) -> Times:
    """The mixture with noise of a standard deviation per example added to it."""
    variance = STD**2 + noise**2
    square = jnp.sum((x[:, None] - jnp.asarray(CENTERS)[None]) ** 2, axis=-1)
    logs = jnp.log(jnp.asarray(WEIGHTS))[None] - 0.5 * square / variance[:, None]
    return jax.nn.logsumexp(logs, axis=1) - jnp.log(2.0 * jnp.pi * variance)


def score(x: Batch, noise: Array) -> Batch:
    """The gradient of :func:`log_density`."""
    return jax.grad(lambda y: jnp.sum(log_density(y, noise)))(x)


def plain_langevin(key: Array) -> np.ndarray:
    """From a uniform start, with the score of the data."""
    start = jax.random.uniform(jax.random.fold_in(key, 0), (COUNT, 2), minval=-LIMIT, maxval=LIMIT)
    keys = sample_keys(jax.random.fold_in(key, 1), 0, COUNT)
    options = {"step_size": STEP, "num_steps": NUM_STEPS}
    run = jax.jit(lambda x: langevin_monte_carlo(keys, lambda y: score(y, jnp.zeros(COUNT)), x, **options))
    return np.asarray(run(start))


def annealed_langevin(key: Array) -> np.ndarray:
    """From much noise to little, with the score at each level."""
    keys = sample_keys(key, 0, COUNT)
    corrector = AnnealedLangevin(snr=0.2)
    solver = PredictorCorrector(predictor=NoPredictor(), corrector=corrector, num_corrections=CORRECTIONS)
    process = CHAIN.reverse(lambda x, t, /: score(x, CHAIN.marginal(t).std))
    run = jax.jit(lambda x: integrate(keys, solver, process, x, CHAIN.times[::-1]).x)
    return np.asarray(run(prior_samples(keys, CHAIN, (2,))))


def in_heavier_mode(samples: np.ndarray) -> float:
    """The fraction of the samples that are nearer to the mode of weight 0.8."""
    return float(np.mean(samples.sum(axis=1) > 0.0))


def write_data(path: Path) -> None:
    """Draws of the mixture as a data set of the command line."""
    rng = np.random.default_rng(0)

    def draw(count: int) -> np.ndarray:
        modes = rng.choice(2, size=count, p=WEIGHTS)
        return (np.asarray(CENTERS)[modes] + STD * rng.standard_normal((count, 2))).astype(np.float32)

    atomic_savez(path, train=draw(20_000), test=draw(2000))


def configuration(name: str, data: Path, steps: int) -> Settings:
    """A small autoencoder or a small VP run."""
    config = from_file(Path(__file__).parents[2] / "configs" / "vp" / "toy_mlp.py")
    config.data.name = f"npz:{data}"
    if name == "vae":
        config.objective.kind, config.model.name = "bound", "vae"
        config.model.latent_dim, config.model.widths = 2, (64, 64)
        config.sampling.denoising = "none"  # samples of the model, not means
    else:
        config.model.features, config.model.num_blocks = 64, 2
    config.training.num_steps, config.training.sample_every = steps, 0
    config.training.eval_every = config.training.checkpoint_every = config.training.log_every
    config.training.eval_every *= max(1, steps // (4 * config.training.log_every))
    config.training.checkpoint_every = config.training.eval_every
    config.sampling.num_samples = config.sampling.batch_size = COUNT
    return Settings.of(config)


def autoencoder_density(experiment: Experiment, params: Params, x: Batch) -> Times:
    """The density of the model, to within the bound of 500 weights."""
    assert experiment.latent is not None
    return importance_bound(jax.random.key(1), experiment.latent, params, x, 500)


def flow_density(experiment: Experiment, params: Params, x: Batch) -> Times:
    """The density of the probability flow, with the exact trace."""
    options = {"num_probes": None, "rtol": 1e-4, "atol": 1e-4}
    return log_likelihood(jax.random.key(1), experiment.sde, experiment.score_fn(params), x, **options).logp


def flow_velocity(experiment: Experiment, params: Params, x: Batch) -> np.ndarray:
    """Where the probability flow moves points on their way to the data, at t = 0.1, where both modes are seen."""
    process = experiment.sde.reverse(experiment.score_fn(params), noise_scale=0.0)
    return -np.asarray(jax.jit(process.drift)(x, jnp.asarray(0.1)))


Density = Callable[[Experiment, Params, Batch], Times]
TRAINED: dict[str, Density] = {"vae": autoencoder_density, "vp": flow_density}


def grid() -> tuple[np.ndarray, np.ndarray]:
    """The coordinates of an axis, and all points of the grid, row by row."""
    axis = np.linspace(-LIMIT, LIMIT, POINTS)
    return axis, np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(np.float32)


def figure(
    densities: dict[str, np.ndarray],
    samples: dict[str, np.ndarray],
    fields: dict[str, np.ndarray],
    shares: dict[str, float],
    path: Path,
) -> None:
    """Densities with samples and fields, panel by panel."""
    axis, points = grid()
    names = list(dict.fromkeys([*densities, *samples]))
    canvas, panels = new_figure(3.0 * len(names), 3.2, len(names))
    for panel, name in zip(panels, names, strict=True):
        if name in densities:
            panel.contourf(axis, axis, densities[name].reshape(POINTS, POINTS), levels=12, cmap="Blues")
        if name in samples:
            panel.scatter(*samples[name][:500].T, s=2, color="#dd6b20", linewidths=0)
        if name in fields:
            thin = (slice(None, None, 5), slice(None, None, 5))
            places, arrows = (
                values.reshape(POINTS, POINTS, 2)[thin].reshape(-1, 2) for values in (points, fields[name])
            )
            lengths = np.linalg.norm(arrows, axis=1, keepdims=True)
            panel.quiver(*places.T, *(arrows / np.maximum(lengths, 1e-9)).T, color="#4a5568", scale=28, width=0.004)
        panel.set(
            title=f"{name}, {shares[name]:.0%} top right",
            xlim=(-LIMIT, LIMIT),
            ylim=(-LIMIT, LIMIT),
            aspect="equal",
            xticks=[],
            yticks=[],
        )
        panel.grid(False)
    save_figure(canvas, path)


def run(out: Path, steps: int, command: str) -> None:
    """Train, draw and write."""
    check_writable(out)
    data = out / "mixture.npz"
    write_data(data)
    points = jnp.asarray(grid()[1])
    densities = {"data": np.exp(log_density(points, jnp.zeros(len(points))))}
    fields = {"data": np.asarray(score(points, jnp.zeros(len(points))))}
    samples: dict[str, np.ndarray] = {}
    for name, density in TRAINED.items():
        config = configuration(name, data, steps)
        MODES["train"](config, out / name, command)
        experiment = build_experiment(config)
        params = trained_state(experiment, out / name).ema_params
        measure = jax.jit(lambda params, x, e=experiment, d=density: d(e, params, x))
        densities[name] = np.exp(np.concatenate([measure(params, part) for part in jnp.split(points, 6)]))
        samples[name] = draw_samples(experiment, params).x
        if name == "vp":
            fields[name] = flow_velocity(experiment, params, points)
    samples["plain Langevin"] = plain_langevin(jax.random.key(2))
    samples["annealed Langevin"] = annealed_langevin(jax.random.key(3))
    shares = {name: in_heavier_mode(found) for name, found in samples.items()}
    error = float(np.sqrt(WEIGHTS[1] * WEIGHTS[0] / COUNT))
    cell = (2.0 * LIMIT / (POINTS - 1)) ** 2
    truth = densities["data"]
    distances = {n: float(0.5 * cell * np.abs(d - truth).sum()) for n, d in densities.items() if n != "data"}
    report = {"heavier_mode": shares, "std_error_at_the_truth": error, "total_variation": distances, **machine(command)}
    atomic_write_json(out / "densities.json", report)
    figure(densities, samples, fields, {"data": WEIGHTS[1]} | shares, out / "densities.png")
    print(f"In the mode of weight {WEIGHTS[1]} (standard error {error:.3f}): {shares}.")
    print(f"Total variation from the data's density: {distances}.")


def main(arguments: list[str]) -> None:
    """Parse the flags and run."""
    parser = argparse.ArgumentParser(description="The lineage on a mixture of two Gaussians.")
    parser.add_argument("--out", type=Path, default=Path("runs/lineage/mixture"))
    parser.add_argument("--steps", type=int, default=4000, help="training steps")
    options = parser.parse_args(arguments)
    run(options.out, options.steps, shlex.join(["python", "experiments/lineage/densities.py", *arguments]))


if __name__ == "__main__":
    sys.exit(run_script("densities", lambda: main(sys.argv[1:])))
