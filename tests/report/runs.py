"""Runs with everything that a page can show, for the tests of pages."""

import json
import math

import numpy as np

from score_sde.files import atomic_write_json
from score_sde.metrics import ReferenceStatistics, measure_pixels, moments
from score_sde.report.plots import image_grid
from score_sde.training.writers import MetricWriter

MACHINE = {"cpu": "Some CPU", "cpu_count": 2, "python": "3.11.1", "jax": "0.10.2", "device_kind": "cpu",
           "device_count": 1}  # fmt: skip
HOW = {"step": 3000, "command": "python -m score_sde --mode=likelihood", "date": "2026-01-02T03:04:05+00:00",
       "hardware": MACHINE}  # fmt: skip
POINT = {"setting": {"solver": "heun", "grid": "edm", "num_steps": 8}, "num_evals": 16, "distance": 0.5,
         "std_error": 0.01}  # fmt: skip
PLAN = {"parameters": 1234, "chip": {"name": "v5e"}, "devices": 4, "batch_size": 8, "fits": True,
        "steps_per_second_at_peaks": 7.5, "advice": ["Take more."], "scaling": [
            {"chips": n, "efficiency_serial": 0.9, "efficiency_overlapped": 1.0} for n in (1, 2, 4)]}  # fmt: skip
SAMPLING = {"solver": "heun", "num_steps": 50, "num_evals": 99, "num_samples": 4, **HOW}

#: Results that are the same for every run, by the names of their files.
RESULTS = {
    "latents": {
        "round_trip_rms": 0.01,
        "code_mean": 0.1,
        "code_std": 0.9,
        "decoded_exactly": 0.75,
        "num_examples": 8,
        "num_evals_mean": 40.0,
        "seconds": 2.0,
        **HOW,
    },
    "restoration": {
        "psnr_mean": 21.5,
        "psnr_mean_std_error": 0.5,
        "psnr_draws": 18.25,
        "coverage": 0.875,
        "coverage_std_error": 0.01,
        "residual": 1.02,
        "residual_std_error": 0.01,
        "operator": "mask",
        "method": "mmps",
        "noise_std": 0.1,
        "num_images": 1,
        "draws": 19,
        "nominal_coverage": 0.9,
        "num_evals": 51.0,
        "num_products": 153.0,
        "seconds": 3.0,
        "images": [{"psnr_mean": 21.5, "psnr_draws": 18.25, "coverage": 0.875, "residual": 1.02}],
        **HOW,
    },
    "classification": {
        "accuracy": 0.9375,
        "accuracy_interval": [0.72, 0.99],
        "cross_entropy": 0.25,
        "cross_entropy_std_error": 0.05,
        "bits_per_dim": 2.0,
        "std_error": 0.01,
        "num_examples": 16,
        "bound": {"accuracy": 0.875, "accuracy_interval": [0.64, 0.97], "num_times": 32},
        "discriminative": {"name": "classifier-digits", "accuracy": 1.0},
        "num_classes": 10,
        "num_evals_mean": 490.0,
        "seconds": 3.0,
        "protocol": "flow",
        **HOW,
    },
    "classifier": {
        "cross_entropy": 1.5,
        "cross_entropy_std_error": 0.1,
        "clean_accuracy": 0.96875,
        "levels": [
            {
                "t": t,
                "log_noise": 5.0 * t,
                "accuracy": 1.0 - 0.9 * t,
                "accuracy_interval": [0.9 - 0.9 * t, 1.0 - 0.8 * t],
            }
            for t in (1.0, 0.5, 0.1)
        ],
        **HOW,
    },
    "dequantizer": {
        "bits_per_dim": 2.0,
        "uniform_bits_per_dim": 2.1,
        "gain_bits_per_dim": 0.1,
        "gain_std_error": 0.01,
        "protocol": "bound with one time per example",
        **HOW,
    },
    "plan": PLAN,
    "sampling": SAMPLING,
    "eval": {"loss": 0.1, "std_error": 0.01, **HOW},
    "pareto": {
        "points": [POINT, {**POINT, "num_evals": 32, "distance": 0.3}],
        "references": [POINT],
        "recommended": POINT,
    },
}


def some_metrics(seed, count=80):
    """Real metrics of random vectors against others."""
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(120, 4)).astype(np.float32)
    reference = ReferenceStatistics(
        moments=moments(data), features_subset=data, extractor="pixels", extractor_sha256="pixels", source="toy",
        split="train", count=120, shape=(2, 2, 1), num_levels=None,
    )  # fmt: skip
    samples = (rng.normal(size=(count, 4)) + 0.1 * seed).astype(np.float32)
    options = {"shape": (2, 2, 1), "num_levels": None, "metrics": ("frechet", "sliced_wasserstein")}
    return {name: json.loads(found.to_json()) for name, found in measure_pixels(samples, reference, **options).items()}


def fill(workdir, *, seed=0, shift=0.0):
    """A run with everything that a page can show."""
    workdir.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    hard = 2.0 + 0.3 * rng.normal(size=60)  # what makes an image hard is the same for all models
    own = np.random.default_rng(seed + 1)
    bits = (hard + shift + 0.01 * own.normal(size=60)).astype(np.float32)
    columns = {"bits_per_dim": bits, "nats": -bits, "success": np.ones(60, bool), "bound_bits_per_dim": bits + 0.1}
    rate = np.linspace(0.0, 2.0, 5)
    np.savez(workdir / "likelihood.npz", **columns, chain_rate=rate, chain_distortion=1.0 - rate / 3.0)
    error = float(bits.std(ddof=1) / math.sqrt(60))
    part = {"mean": 0.001, "std_error": 0.0004}
    levels = {"log_snr": [3.0, 0.0, -3.0], "bits": [1.5, 0.5], "uniform_std": [0.3, 0.1], "importance_std": [0.1, 0.1]}
    likelihood = {
        "bits_per_dim": float(bits.mean()), "std_error": error, "interval": [1.9 + shift, 2.1 + shift],
        "protocol": "flow, 48 steps, 60 examples", "num_examples": 60, "seconds": 12.0, "num_evals_mean": 49.0,
        "nats_per_example": -88.0, "nats_std_error": 2.0, "bound_bits_per_dim": float(bits.mean()) + 0.1,
        "bound_std_error": error, "bound_times": 128,
        "budget": {"images": error, "probes": 0.002, "solver": part, "truncation": part, "prior": 1e-5},
        "noise_levels": {**levels, "variance_ratio": 10.0}, "baseline": {"bits_per_dim": 2.5, "std_error": 0.02},
        "chain_bound": {"bits_per_dim": 2.2, "std_error": 0.04, "num_levels": 1000, "variances": "large"}, **HOW,
    }  # fmt: skip
    metrics = some_metrics(seed)
    rows = [
        {"step": step, "loss": 1.0 / step, "bits_per_dim": 2.0, "metrics": some_metrics(seed, count)}
        for step, count in ((1000, 40), (2000, 60))
    ]
    for name, value in {
        **RESULTS,
        "likelihood": likelihood,
        "metrics": {"metrics": metrics, **HOW},
        "evaluation": {"checkpoints": rows, "best": 2000},
        "config": {"seed": seed, "data": {"name": "digits"}, "sde": {"name": "vp"}, "optim": {"lr": 0.5}},
    }.items():
        atomic_write_json(workdir / f"{name}.json", value)
    writer = MetricWriter(workdir)
    for step in range(100, 3001, 100):
        held_out = {"eval_loss": 0.2 + 1 / step, "eval_loss_std_error": 0.01} if step % 500 == 0 else {}
        speed = {"images_per_second": 1000.0 + step, "data_wait_fraction": 0.1}
        writer.write(step, {"loss": 30.0 / step, "grad_norm": 1.0, "lr": 0.1, **held_out}, timings=speed)
    levels = rng.integers(0, 17, size=(4, 8, 8, 1))
    drawn = ("samples.png", "trajectory.png", "interpolation.png", "restoration.png")
    pictures = [*drawn, *(f"progress/step_{n:08d}.png" for n in (5, 10))]
    for name in pictures:
        image_grid(levels, workdir / name, num_grey_levels=17)
