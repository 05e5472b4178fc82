"""Pictures during training: of the same noise, by the model of that step, without a trace in the training."""

import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import distributed
from score_sde.cli import load_config
from score_sde.evaluation.samples import sketch
from score_sde.modes.training import run_train, train
from score_sde.modes.workdir import build_experiment
from score_sde.sdes import VP
from score_sde.training import loop
from tests.checkpointing.small import bits
from tests.training.test_resume import CONFIG, _overrides


class ScaledGaussian:
    """The noise prediction for data N(0, scale^2), with the scale as the only parameter."""

    def init(self, key, shape):
        return jnp.ones(())

    def apply(self, params, x, condition, *, label=None, key=None):
        m, s = (c.reshape(-1, 1) for c in VP().marginal(condition / 999.0))
        return s * x / (m**2 * params**2 + s**2)


def test_the_same_noise_becomes_samples_of_the_model_that_is_given():
    """The probability flow of a Gaussian is linear: samples of two models differ by the ratio of their scales."""
    experiment = dataclasses.replace(build_experiment(load_config(CONFIG, [])), network=ScaledGaussian())
    samples = sketch(experiment, 1000)
    narrow, wide = samples(jnp.asarray(0.5)), samples(jnp.asarray(2.0))
    assert narrow.shape == wide.shape == (1000, 2)
    np.testing.assert_allclose(wide, 4.0 * narrow, rtol=0.03, atol=0.01)
    assert abs(narrow.std() - 0.5) < 0.03


@pytest.mark.slow
def test_being_watched_changes_no_bit_of_a_run(tmp_path):
    config = load_config(CONFIG, _overrides(**{"training.sample_every": 15, "training.num_steps": 40}))
    seen = []
    experiment = build_experiment(config)
    watched = train(experiment, tmp_path / "watched", watch=lambda step, params: seen.append(step))
    config = load_config(CONFIG, _overrides(**{"training.sample_every": 0, "training.num_steps": 40}))
    alone = train(build_experiment(config), tmp_path / "alone", watch=lambda step, params: seen.append(-step))
    assert seen == [15, 30, 40]
    assert bits(watched) == bits(alone)


@pytest.mark.slow
def test_the_pictures_of_a_run_are_named_by_their_steps(tmp_path):
    config = load_config(CONFIG, _overrides(**{"training.sample_every": 15}))
    run_train(config, tmp_path, "command")
    assert [path.name for path in sorted((tmp_path / "progress").iterdir())] == [
        "step_00000015.png",
        "step_00000030.png",
    ]


def test_two_programs_are_compiled_up_to_the_first_step_and_the_first_of_them_beside_the_second(tmp_path, monkeypatch):
    """Initialization and step, each once: evaluation, pictures and their grids wait until they are needed."""
    compiled = []

    def note(event, duration, **labels):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append((labels["fun_name"], threading.current_thread() is threading.main_thread()))

    def jit_step(*args, **kwargs):
        step = distributed.jit_step(*args, **kwargs)

        def first(state, batch):
            jax.block_until_ready(step(state, batch))
            raise EOFError

        first.lower = step.lower
        return first

    monkeypatch.setattr(loop, "jit_step", jit_step)
    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        with pytest.raises(EOFError):
            run_train(load_config(CONFIG, _overrides(**{"training.sample_every": 15})), tmp_path, "command")
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert sorted(compiled) == [("jit(init_state)", False), ("jit(steps)", True)]
