"""Draw the pictures of the documentation from exact scores and from the models that come with the package.

    python docs/pictures.py [NAME ...]

Without names all pictures are drawn, into ``docs/images``. Each takes some seconds on two cores. Nothing is trained.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from drawing import BLUE, GRAY, ORANGE, bare, panels, save, shades, show
from matplotlib.figure import Figure

import score_sde
from score_sde import likelihood, objectives, sampling, solvers
from score_sde.chains import NCSN, geometric_sigmas
from score_sde.conditioning import classifier_free, operators
from score_sde.data import load_source
from score_sde.evaluation.problems import GaussianMixture
from score_sde.sdes import VE, VP, RectifiedFlow, SubVP

UNSEEN = np.array([0.80, 0.86, 0.95])  # pixels that are not observed

ANGLES = np.linspace(1.0, 3.6, 70) * np.pi
SPIRAL = GaussianMixture(
    weights=ANGLES / ANGLES.sum(),  # as much on each unit of length
    means=np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1) * ANGLES[:, None] / 8.0,
    stds=np.full(70, 0.07),
)
LINE = GaussianMixture(weights=np.array([0.3, 0.7]), means=np.array([[-1.2], [0.9]]), stds=np.array([0.15, 0.25]))
MODES = GaussianMixture(weights=np.array([0.2, 0.8]), means=np.array([[-1.0, -1.0], [1.0, 1.0]]), stds=np.full(2, 0.2))


@functools.cache
def pretrained(name: str) -> score_sde.Model:
    """One of the models that come with the package."""
    return score_sde.load(name)


def held_out(count: int) -> np.ndarray:
    """The first held-out digits, gray levels ``(count, 8, 8, 1)``."""
    return np.asarray(load_source("digits", "test").gather(np.arange(count)))


def way(name: str, rows: int, frames: list[int]) -> np.ndarray:
    """Samples of a model on their way from noise, of all classes in turn if it has some."""
    model = pretrained(name)
    experiment = model.experiment
    shape = (rows, *experiment.event_shape)
    path = jax.jit(lambda p: experiment.sampler.path(p, jax.random.key(3), shape, frames=frames))(model.params)
    return shades(np.moveaxis(np.asarray(path), 0, 1), -1.0, 1.0)


def classes(name: str, rows: int, scale: float) -> np.ndarray:
    """Samples of ten classes, from the same noise at every scale."""
    labels, model = np.tile(np.arange(10), rows), pretrained(name)
    found = model.sample(jax.random.key(1), len(labels), labels=labels, scale=scale)
    white = (model.experiment.quantization.num_grey_levels or 0) - 1.0
    return shades(found.reshape(rows, 10, *found.shape[1:]), high=white)


def restored(
    operator: operators.LinearOperator,
    images: np.ndarray,
    draws: int,
    seen: Callable[..., Any],
) -> np.ndarray:
    """Truth, observation, four draws, mean and standard deviation: a row for each image."""
    noise_std, key = 0.8, jax.random.key(0)
    clean = operator(jnp.asarray(images, float))
    y = np.asarray(clean + noise_std * jax.random.normal(key, clean.shape))
    found = pretrained("digits-vp").restore(
        jax.random.key(1), np.repeat(y, draws, axis=0), operator, noise_std=noise_std, solver="dpm_solver_2m", steps=25
    )
    found = np.asarray(found, float).reshape(len(images), draws, 8, 8, 1)
    std = found.std(axis=1)
    shown = [shades(found[:, i]) for i in range(4)]
    shown += [shades(found.mean(axis=1)), shades(std, 0.0, max(float(std.max()), 1.0))]
    return np.stack([shades(images), seen(y), *shown], axis=1)


RESTORED = ["truth", "seen", *["draw"] * 4, "mean", "std"]
UPPER = np.arange(8)[:, None, None] < 4


def upper_half(images: np.ndarray, draws: int) -> np.ndarray:
    """Digits restored from their upper half."""
    known = np.broadcast_to(UPPER, (8, 8, 1))
    return restored(operators.mask(known), images, draws, lambda y: np.where(known[None], shades(y), UNSEEN))


def enlarged(images: np.ndarray, size: int) -> np.ndarray:
    """Small images ``(rows, columns, height, width, 3)`` as large ones, with a white border for what is left."""
    factor = size // images.shape[2]
    left = size - factor * images.shape[2]
    large = np.repeat(np.repeat(images, factor, axis=2), factor, axis=3)
    border = (left // 2, left - left // 2)
    return np.pad(large, ((0, 0), (0, 0), border, border, (0, 0)), constant_values=1.0)


def front() -> None:
    """From noise to digits, images by class, and restored images: the picture of the first page."""
    small = enlarged(way("digits-vp", 2, [0, 11, 15, 17, 19, 21, 24, 32]), 28)
    strips = np.concatenate([small, way("mnist-vdm", 3, [0, 4, 6, 7, 8, 9, 11, 32])])
    parts = [
        (strips, "from noise to data: digits, MNIST", ["noise", *[""] * 6, "data"]),
        (classes("mnist-vdm", 5, 2.0), "samples by class, guidance 2", [str(label) for label in range(10)]),
        (upper_half(held_out(5), 19), "restored from the upper half, with noise", RESTORED),
    ]
    figure = Figure(figsize=(11.0, 2.3))
    figure.set_layout_engine("constrained", wspace=0.03)
    widths = [images.shape[1] for images, _, _ in parts]
    for axes, part in zip(figure.subplots(1, 3, width_ratios=widths), parts, strict=True):
        show(axes, *part)
    save(figure, "front", dpi=200)


def densities() -> None:
    """The density of a spiral under four processes, with its score."""
    processes = {
        "VE": VE(sigma_min=0.01, sigma_max=5.0),
        "VP": VP(),
        "sub-VP": SubVP(),
        "rectified flow": RectifiedFlow(),
    }
    times = (0.0, 0.05, 0.15, 0.4, 1.0)
    figure, table = panels(8.0, 6.5, len(processes), len(times))
    for (name, process), row in zip(processes.items(), table, strict=True):
        for t, axes in zip(times, row, strict=True):
            m, s = (float(c) for c in process.marginal(jnp.asarray(max(t, 1e-3))))
            reach = 2.2 * np.sqrt((0.75 * m) ** 2 + s**2)
            axis = np.linspace(-reach, reach, 121)
            points = jnp.asarray(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2), jnp.float32)
            place = jnp.full(len(points), max(t, 1e-3))
            logp = np.asarray(jax.jit(SPIRAL.log_density)(process, points, place)).reshape(121, 121)
            axes.imshow(np.exp(logp - logp.max()) ** 0.7, extent=[-reach, reach] * 2, origin="lower", cmap="Blues")
            thin = points.reshape(121, 121, 2)[6::12, 6::12].reshape(-1, 2)
            arrows = np.asarray(jax.jit(SPIRAL.score(process))(thin, jnp.full(len(thin), max(t, 1e-3))))
            arrows = arrows / np.linalg.norm(arrows, axis=1, keepdims=True)
            axes.quiver(*thin.T, *arrows.T, color=GRAY, alpha=0.55, scale=22, width=0.005)
            bare(axes, f"t = {t:g}" if name == "VE" else "")
            axes.set_xlabel(f"±{reach:.1f}", fontsize=7, color=GRAY, labelpad=1)
        row[0].set_ylabel(name, fontsize=10)
    save(figure, "densities", dpi=110)


def trajectories() -> None:
    """The way from noise to two modes by five samplers, over the exact density."""
    process = VP()
    score = LINE.score(process)
    chosen = {
        "Euler-Maruyama, 500 steps": (solvers.EulerMaruyama(), sampling.uniform_times(500)),
        "predictor-corrector, 100 x 2": (
            solvers.PredictorCorrector(predictor=solvers.ReverseDiffusion(), corrector=solvers.Langevin(snr=0.16)),
            sampling.uniform_times(100),
        ),
        "probability flow, Heun, 50 x 2": (solvers.Heun(), sampling.quadratic_times(50)),
        "UniPC-3, 8 steps": (solvers.UniPC(order=3), sampling.log_snr_times(process, 8, 1e-3)),
    }
    keys = sampling.sample_keys(jax.random.key(4), 0, 14)
    start = jnp.linspace(-1.7, 1.7, 14)[:, None]
    figure, ((*row,),) = panels(11.0, 2.9, 1, len(chosen), sharey=True)
    grid, x = np.linspace(1e-3, 1.0, 160), np.linspace(-2.6, 2.6, 200)
    places = jnp.asarray(np.repeat(grid, len(x)), jnp.float32)
    points = jnp.asarray(np.tile(x, len(grid))[:, None], jnp.float32)
    logp = np.asarray(jax.jit(LINE.log_density)(process, points, places)).reshape(len(grid), len(x))
    background = np.exp(logp - logp.max(axis=1, keepdims=True)).T
    for (name, (solver, times)), axes in zip(chosen.items(), row, strict=True):
        walk = jax.jit(lambda x, s=solver, t=times: sampling.trajectory(keys, s, process.reverse(score), x, t))
        path = np.asarray(walk(start))[..., 0]
        axes.imshow(background[:, ::-1], extent=(1.0, 0.0, -2.6, 2.6), origin="lower", aspect="auto", cmap="Blues")
        marks = {"marker": "o", "markersize": 2.5} if len(times) < 20 else {}
        few = path[:, ::3] if solvers.noise_scale_of(solver, None) != 0.0 else path
        axes.plot(np.asarray(times), few, color=ORANGE, linewidth=0.8, alpha=0.9, **marks)
        axes.set(xlim=(1.0, 0.0), ylim=(-2.6, 2.6), xticks=[1.0, 0.5, 0.0], xticklabels=["1", "½", "0"])
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("t", fontsize=8)
    row[0].set_ylabel("x", fontsize=8)
    save(figure, "trajectories")


def langevin() -> None:
    """Plain and annealed Langevin dynamics on two modes of unequal weight."""
    count, still = 2000, VE(sigma_min=1e-3, sigma_max=1.0)
    keys = sampling.sample_keys(jax.random.key(1), 0, count)
    start = jax.random.uniform(jax.random.key(0), (count, 2), minval=-2.0, maxval=2.0)
    exact = MODES.score(still)
    plain = jax.jit(
        lambda x: solvers.langevin_monte_carlo(
            keys, lambda x: exact(x, jnp.zeros(count)), x, step_size=0.004, num_steps=1000
        )
    )(start)
    chain = NCSN(sigmas=geometric_sigmas(20, 0.05, 8.0))
    solver = solvers.PredictorCorrector(
        predictor=solvers.NoPredictor(), corrector=solvers.AnnealedLangevin(snr=0.2), num_corrections=50
    )
    noise = sampling.prior_samples(keys, chain, (2,))
    reverse = chain.reverse(MODES.score(chain))
    annealed = jax.jit(lambda x: sampling.integrate(keys, solver, reverse, x, chain.times[::-1]).x)(noise)
    figure, ((*row,),) = panels(8.4, 2.9, 1, 3)
    axis = np.linspace(-2.0, 2.0, 121)
    points = jnp.asarray(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2), jnp.float32)
    density = np.exp(MODES.log_density(still, points, jnp.zeros(len(points)))).reshape(121, 121)
    shown = {
        "data": MODES.sample(jax.random.key(2), count),
        "plain, 1000 steps": plain,
        "annealed, 20 levels x 50 steps": annealed,
    }
    for (name, found), axes in zip(shown.items(), row, strict=True):
        axes.contour(
            axis, axis, density, levels=np.geomspace(0.02, 0.9, 5) * density.max(), colors=BLUE, linewidths=0.6
        )
        axes.scatter(*np.asarray(found[:600]).T, s=2, color=ORANGE, linewidths=0)
        share = float(np.mean(np.asarray(found).sum(axis=1) > 0.0))
        bare(axes, f"{name}\n{share:.0%} top right")
        axes.set(xlim=(-2.0, 2.0), ylim=(-2.0, 2.0), aspect="equal")
    save(figure, "langevin")


def guidance() -> None:
    """Guidance between exact scores, and on digits, at three scales."""
    process = VP()
    angles = np.arange(3) * 2.0 * np.pi / 3.0 + np.pi / 2.0
    means = 1.1 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    whole = GaussianMixture(weights=np.full(3, 1 / 3), means=means, stds=np.full(3, 0.45))
    part = GaussianMixture(weights=np.ones(1), means=means[:1], stds=np.full(1, 0.45))
    keys = sampling.sample_keys(jax.random.key(0), 0, 700)
    start, times = sampling.prior_samples(keys, process, (2,)), sampling.log_snr_times(process, 40, 1e-3)
    figure, table = panels(10.0, 5.0, 2, 3, height_ratios=(1.25, 1.0))
    axis = np.linspace(-3.2, 3.2, 121)
    points = jnp.asarray(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2), jnp.float32)
    place = jnp.full(len(points), 1e-3)
    fields = [np.exp(data.log_density(process, points, place)).reshape(121, 121) for data in (whole, part)]
    for scale, axes, below in zip((1.0, 2.0, 4.0), *table, strict=True):
        score = classifier_free(part.score(process), whole.score(process), scale)
        draw = jax.jit(
            lambda x, s=score: sampling.integrate(keys, solvers.UniPC(order=2), process.reverse(s), x, times).x
        )
        axes.contourf(axis, axis, fields[0], levels=np.linspace(0.01, 1.02 * fields[0].max(), 9), cmap="Blues")
        axes.contour(axis, axis, fields[1], levels=3, colors=BLUE, linewidths=0.7)
        axes.scatter(*np.asarray(draw(start)).T, s=2, color=ORANGE, linewidths=0)
        bare(axes, f"scale {scale:g}" + (": no guidance" if scale == 1.0 else ""))
        axes.set(xlim=(-2.8, 2.8), ylim=(-1.6, 3.2), aspect="equal")
        show(below, classes("digits-classes", 4, scale), "", [str(label) for label in range(10)])
    save(figure, "guidance")


def restoration() -> None:
    """Digits restored from four kinds of observations, with the mean and the standard deviation of the draws."""
    known = np.ones((8, 8, 1), bool)
    known[2:6, 2:6] = False
    images = held_out(6)[3:]
    half = operators.block_average((8, 8, 1), 2)
    blur = operators.gaussian_blur((8, 8, 1), 1.0)
    kinds = {
        "upper half": upper_half(images, 19),
        "all but the middle": restored(
            operators.mask(known), images, 19, lambda y: np.where(known[None], shades(y), UNSEEN)
        ),
        "half the resolution": restored(
            half, images, 19, lambda y: np.repeat(np.repeat(shades(y), 2, axis=1), 2, axis=2)
        ),
        "blurred": restored(blur, images, 19, shades),
    }
    figure, table = panels(8.4, 4.0, 2, 2)
    for (name, found), axes in zip(kinds.items(), table.ravel(), strict=True):
        show(axes, found, name, RESTORED)
    save(figure, "restoration")


def bits() -> None:
    """The cost of each noise level in the bound of held-out digits, for the network and for the best Gaussian."""
    model, edges = pretrained("digits-vp"), 41
    sde, quantization = model.experiment.sde, model.experiment.quantization
    times = sampling.log_snr_times(sde, edges - 1, 1e-4)
    x = quantization.dequantize(jax.random.key(0), jnp.asarray(held_out(200)))
    score = model.experiment.score_fn(model.params)
    bound = jax.jit(lambda x: likelihood.chain_bound(jax.random.key(1), sde, score, x, times=times, draws=1))(x)
    train = np.asarray(load_source("digits", "train").gather(np.arange(1500)))
    flat = np.asarray(quantization.dequantize(jax.random.key(2), jnp.asarray(train))).reshape(1500, -1)
    variances = np.maximum(np.linalg.eigvalsh(np.cov(flat.T)), 0.0)
    snr = np.exp(np.asarray(sde.log_snr(times), np.float64))
    best = 0.5 * (snr[1:] - snr[:-1]) * (variances[None] / (snr[:-1, None] * variances[None] + 1.0)).sum(axis=1)
    places = np.log(snr)
    units = 64 * np.log(2.0) * np.diff(places)
    figure, ((axes,),) = panels(6.4, 3.2, 1, 1)
    found = np.asarray(bound.divergences)
    for values, name, color in ((best, "best Gaussian", GRAY), (found.mean(axis=0), "network", BLUE)):
        axes.stairs(values / units, places, label=name, color=color, fill=color == BLUE, alpha=1.0, linewidth=1.4)
    axes.set_xlabel("log-SNR: noise on the left, data on the right", fontsize=8)
    axes.set_ylabel("bits per dimension and unit of log-SNR", fontsize=8)
    axes.set_xlim(-6.0, places[-1])
    axes.legend(fontsize=8, frameon=False)
    axes.tick_params(labelsize=8)
    save(figure, "bits")


def losses() -> None:
    """The loss of the digits by noise level, and which levels each law of times draws."""
    model = pretrained("digits-vp")
    experiment = model.experiment
    make = functools.partial(
        objectives.score_matching_loss,
        experiment.sde,
        experiment.network,
        experiment.parameterization,
        weighting=objectives.likelihood_weighting,
    )
    x = experiment.quantization.dequantize(jax.random.key(0), jnp.asarray(held_out(100)))

    def measure(params: Any, x: Any) -> objectives.NoiseLevels:
        return objectives.loss_by_noise_level(
            params, jax.random.key(1), x, sde=experiment.sde, make_loss=lambda times: make(times=times), t0=1e-4
        )

    found = jax.jit(measure)(model.params, x)
    figure, ((left, right),) = panels(8.4, 3.0, 1, 2)
    edges = np.asarray(found.log_snr)
    for law, name, color in ((found.uniform, "uniform times", ORANGE), (found.importance, "importance", BLUE)):
        gain = float(law.total[1] / law.total[0])
        left.stairs(np.asarray(law.share), edges, label=name, color=color, linewidth=1.4)
        right.stairs(np.asarray(law.std), edges, label=f"{name}, over the mean {gain:.1f}", color=color, linewidth=1.4)
    left.set_title("share of the draws", fontsize=9)
    right.set_title("std of the loss of an example", fontsize=9)
    right.set_yscale("log")
    for axes in (left, right):
        axes.set_xlabel("log-SNR", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, frameon=False)
    save(figure, "losses")


PICTURES: dict[str, Callable[[], None]] = {
    made.__name__: made for made in (front, densities, trajectories, langevin, guidance, restoration, bits, losses)
}


def main(names: list[str]) -> None:
    """Draw the named pictures, or all of them."""
    unknown = sorted(set(names) - set(PICTURES))
    if unknown:
        sys.exit(f"There is no picture {unknown[0]}; expected some of {', '.join(PICTURES)}.")
    for name in names or PICTURES:
        PICTURES[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
