"""Models of few steps, trained for a minute on eight Gaussians: a step or two land on them, and a teacher's do not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.config import default_config
from score_sde.data import load_source
from score_sde.data.toys import GAUSSIANS_RADIUS, GAUSSIANS_STD
from score_sde.experiment import Experiment
from score_sde.objectives import taught
from score_sde.training.step import configured_step

pytestmark = pytest.mark.long

STEPS, BATCH = 1500, 256
EDM = {
    **{
        "model.name": "mlp",
        "model.features": 64,
        "model.num_blocks": 2,
        "model.dropout": 0.0,
        "data.name": "toy:gaussians",
    },
    **{"sde.name": "edm", "sde.sigma_max": 10.0, "parameterization.output": "edm", "objective.weighting": "edm"},
    **{"objective.times": "lognormal", "objective.even_times": True, "optim.lr": 2e-3, "optim.warmup": 100},
    **{"optim.schedule": "cosine", "optim.ema_rate": 0.995, "optim.ema_warmup": True, "training.num_steps": STEPS},
    **{"sampling.predictor": "unipc_2", "sampling.grid": "edm", "sampling.t_min": 1e-4, "objective.t_min": 1e-4},
}
ENDS = {
    **{"objective.kind": "consistency", "objective.time_mean": -1.1, "objective.time_std": 2.0},
    **{"objective.gap_divisor": 2.0, "objective.gap_every": STEPS // 6},
    **{"sampling.predictor": "consistency", "sampling.denoising": "mean"},
}
STUDENT = {
    **{"objective.kind": "distillation", "objective.student_grid": "edm", "training.init_from": "the teacher"},
    **{"sampling.predictor": "ddim", "sampling.denoising": "none"},
}
AVERAGES = {
    **{"sde.name": "rectified_flow", "parameterization.output": "velocity", "objective.kind": "mean_flow"},
    **{"parameterization.condition_on": "log_noise", "objective.weighting": "variance"},
    **{"objective.times": "logit_normal", "objective.time_mean": -0.4, "objective.time_std": 1.0},
    **{"objective.adaptive_power": 0.75, "objective.adaptive_offset": 1e-3},
    **{"sampling.predictor": "mean_flow", "sampling.denoising": "mean", "sampling.grid": "uniform"},
}


@functools.cache
def data():
    source = load_source("toy:gaussians", "train")
    return np.asarray(source.gather(np.arange(len(source))), np.float32)


def trained(changes, start=None):
    """The run of a configuration and its averaged parameters, from others if any are given."""
    config = default_config()
    config.update_from_flattened_dict(EDM | changes)
    run = Experiment.from_config(config, (2,), None, purposes=("train", "sample"))
    state = run.init_state() if start is None else run.fresh_state(start)
    loss = run.loss if start is None else taught(run.loss, start)
    step = run.train_step
    if "training.init_from" in changes:
        step = configured_step(run.settings, loss, run.tx, prepare=run.prepare, mesh=run.mesh)

    examples = jnp.asarray(data())

    def one(state, key):
        return step(state, examples[jax.random.randint(key, (BATCH,), 0, len(examples))])

    keys = jax.random.split(jax.random.key(7), STEPS)
    return run, jax.jit(lambda state: jax.lax.scan(one, state, keys)[0])(state).ema_params


def shares(run, params, num_steps):
    """The share of the samples within three deviations of a center, and of those the smallest share of a center."""
    sampler = dataclasses.replace(run, settings=run.settings.with_("sampling", num_steps=num_steps)).sampler
    x = np.asarray(jax.jit(lambda params: sampler(params, jax.random.key(1), (4000, 2)).y)(params))
    angles = 2.0 * np.pi * np.arange(8) / 8.0
    centers = GAUSSIANS_RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    distances = np.linalg.norm(x[:, None] - centers[None], axis=2)
    near = distances.min(axis=1) < 3.0 * GAUSSIANS_STD
    counts = np.bincount(distances.argmin(axis=1)[near], minlength=8)
    return float(near.mean()), float(counts.min() / max(counts.sum(), 1))


@functools.cache
def teacher():
    return trained({})


def test_the_teacher_needs_more_steps():
    run, params = teacher()
    assert shares(run, params, 24)[0] > 0.7
    assert shares(run, params, 1)[0] < 0.1


def test_the_end_of_the_flow_is_one_step_away():
    run, params = trained(ENDS, teacher()[1])
    for num_steps in (1, 2):
        near, least = shares(run, params, num_steps)
        assert near > 0.6 and least > 0.06


def test_students_take_half_the_steps_of_their_teachers():
    params = teacher()[1]
    for steps in (8, 4, 2, 1):
        fields = {"objective.student_steps": steps, "sampling.num_steps": steps}
        run, params = trained(STUDENT | fields, params)
        near, least = shares(run, params, steps)
        assert near > 0.6 and least > 0.06


def test_an_average_velocity_takes_one_step():
    run, params = trained(AVERAGES)
    near, least = shares(run, params, 1)
    assert near > 0.5 and least > 0.05
