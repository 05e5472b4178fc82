"""A dequantizer learns the density within the bins of its model, and its training goes on bit for bit."""

import dataclasses
import functools
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.stats import norm

from score_sde.checkpointing import Checkpoints, CheckpointWriter
from score_sde.cli import load_config, main
from score_sde.errors import UserError
from score_sde.keys import example_keys
from score_sde.likelihood import Quantization, UniformDequantizer, dequantize_with
from score_sde.models.adapters import LinenDequantizer
from score_sde.models.flowpp import FlowPP
from score_sde.modes.dequantizer import dequantizer_loss, load_dequantizer, train_dequantizer
from score_sde.modes.workdir import build_experiment, trained_state
from score_sde.sdes import VP
from score_sde.state import state_of
from score_sde.training import loop
from score_sde.training.step import make_train_step

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "vp" / "digits_ddpmpp.py"
MODEL = {
    **{"model.features": 4, "model.channel_multipliers": "(1,)", "model.attention_resolutions": "()"},
    **{"training.num_steps": 2, "training.batch_size": 4, "training.log_every": 2, "training.eval_every": 2},
    **{"training.checkpoint_every": 2, "optim.warmup": 1, "optim.schedule": "constant"},
}
FLOW = {
    **{"name": "flowpp", "filters": 4, "components": 2, "blocks": 1, "num_flows": 1, "heads": 2},
    **{"context_features": 2, "dropout": 0.1, "warmup": 2, "lr": 1e-3, "num_steps": 6, "batch_size": 4},
    **{"log_every": 1, "eval_every": 3, "checkpoint_every": 3, "offset": False},  # the offset takes as long to compile
}

UNOPTIMIZED = {"xla_backend_optimization_level": 0}  # for what runs once


def _overrides(**changes):
    fields = MODEL | {f"dequantizer.{name}": value for name, value in FLOW.items()} | changes
    return [f"--config.{name}={value}" for name, value in fields.items()]


def _experiment(**changes):
    return build_experiment(load_config(CONFIG, _overrides(**changes)))


def _save_model(workdir, step):
    """What a training of the model leaves behind; the weights are as they were drawn."""
    experiment = _experiment()
    state = jax.jit(experiment.init_state, compiler_options=UNOPTIMIZED)()
    with CheckpointWriter(workdir) as checkpoints:
        checkpoints.save(dataclasses.replace(state, step=jnp.asarray(step, jnp.int32)), {}, {})
    (workdir / "config.json").write_text(json.dumps(experiment.settings.to_dict()))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A working directory with a model."""
    workdir = tmp_path_factory.mktemp("model")
    _save_model(workdir, 2)
    return workdir


def _train(workdir, **changes):
    experiment = _experiment(**changes)
    return train_dequantizer(experiment, trained_state(experiment, workdir), workdir)


@pytest.fixture(scope="module")
def uninterrupted(model, tmp_path_factory):
    workdir = shutil.copytree(model, tmp_path_factory.mktemp("uninterrupted") / "run")
    return workdir, _train(workdir)


def _check_same_end(workdir, state, uninterrupted):
    whole, expected = uninterrupted
    for name in ("params", "ema_params", "opt_state", "step"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(expected, name))
    metrics = [(directory / "dequantizer" / "metrics.jsonl").read_bytes() for directory in (workdir, whole)]
    assert metrics[0] == metrics[1] and metrics[0].count(b"\n") == 6


@pytest.mark.slow
def test_a_stopped_and_continued_training_ends_in_the_same_bits(uninterrupted, model, tmp_path):
    workdir = shutil.copytree(model, tmp_path / "run")
    _train(workdir, **{"dequantizer.num_steps": 3})
    _check_same_end(workdir, _train(workdir), uninterrupted)


@pytest.mark.slow
def test_an_interrupted_training_saves_where_it_is_and_goes_on_from_there(
    uninterrupted, model, tmp_path, monkeypatch, capfd
):
    workdir, make = shutil.copytree(model, tmp_path / "run"), loop.jit_step

    def jit_step(*args, **kwargs):
        compiled = make(*args, **kwargs)

        def run(state, batch):
            if int(state.step) == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return compiled(state, batch)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(loop, "jit_step", jit_step)
        arguments = [f"--config={CONFIG}", f"--workdir={workdir}", "--mode=train_dequantizer"]
        assert main([*arguments, *_overrides()]) == 130
    assert "interrupted at step 4, which is saved; the same command goes on" in capfd.readouterr().err
    assert Checkpoints(workdir / "dequantizer").steps[-1] == 4
    assert not (workdir / "dequantizer.json").exists()
    _check_same_end(workdir, _train(workdir), uninterrupted)


@pytest.mark.slow
def test_the_averaged_parameters_are_what_is_loaded_and_the_model_stays_as_it_was(uninterrupted, model):
    workdir, state = uninterrupted
    experiment = _experiment()
    trained = load_dequantizer(experiment, workdir)
    jax.tree.map(np.testing.assert_array_equal, trained.params, state.ema_params)
    assert (trained.step, trained.model_step) == (6, 2)
    before, after = (trained_state(experiment, directory).ema_params for directory in (model, workdir))
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.slow
def test_another_configuration_is_refused_field_by_field(uninterrupted):
    workdir, _ = uninterrupted
    message = r"differs from that of the dequantizer in .*\n  dequantizer.heads: 2 -> 1\n.*or remove"
    with pytest.raises(UserError, match=message):
        load_dequantizer(_experiment(**{"dequantizer.heads": 1}), workdir)
    with pytest.raises(UserError, match=message):
        _train(workdir, **{"dequantizer.heads": 1})
    load_dequantizer(_experiment(**{"likelihood.num_probes": 3, "dequantizer.num_steps": 9}), workdir)


@pytest.mark.slow
def test_a_dequantizer_goes_on_with_its_own_model_only(uninterrupted, tmp_path):
    workdir = shutil.copytree(uninterrupted[0], tmp_path / "run")
    _save_model(workdir, 4)
    with pytest.raises(UserError, match=r"learns to suit the model of step 2, and .* of step 4\. Remove"):
        _train(workdir, **{"dequantizer.num_steps": 9})
    assert load_dequantizer(_experiment(), workdir).model_step == 2


@pytest.mark.slow
def test_a_dequantizer_goes_on_with_its_own_parameters_and_data_only(uninterrupted, tmp_path):
    workdir = shutil.copytree(uninterrupted[0], tmp_path / "run")
    record = workdir / "dequantizer" / "model.json"
    found = json.loads(record.read_text())
    for name, message in {"parameters": "another model of step 2", "data": "other training data"}.items():
        record.write_text(json.dumps(found | {name: "0"}))
        with pytest.raises(UserError, match=message):
            _train(workdir, **{"dequantizer.num_steps": 9})
    record.write_text(json.dumps({"step": 2}))  # as earlier versions left it
    _train(workdir)
    assert json.loads(record.read_text()) == found


def test_what_is_missing_is_named(model, tmp_path):
    with pytest.raises(UserError, match=r"no trained dequantizer in .*--mode=train_dequantizer"):
        load_dequantizer(_experiment(), model)
    with pytest.raises(UserError, match=r"config.dequantizer.name is none"):
        load_dequantizer(_experiment(**{"dequantizer.name": "none"}), model)


@pytest.mark.slow
def test_a_damaged_record_of_the_model_is_named(uninterrupted, tmp_path):
    workdir = shutil.copytree(uninterrupted[0], tmp_path / "run")
    path = workdir / "dequantizer" / "model.json"
    for content in (b"{", b"{}", b"[2]", b'{"step": 1e999}', b'{"step": "\xff"}'):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.json cannot be read .*remove .* to train another"):
            load_dequantizer(_experiment(), workdir)
    path.unlink()
    with pytest.raises(UserError, match=r"model\.json cannot be read \(there is no such file\)"):
        load_dequantizer(_experiment(), workdir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "There is no trained model in"),
        ({"dequantizer.name": "none"}, "config.dequantizer.name is none"),
        ({"dequantizer.name": "flow"}, "name is 'flow'; expected one of none, flowpp. Did you mean 'flowpp'?"),
        ({"data.shape": "(7,7,1)"}, "Images of 7x7 have more even columns than odd ones"),
        ({"dequantizer.heads": 3}, "dequantizer.filters is 4; expected a multiple of config.dequantizer.heads, 3"),
        ({"dequantizer.log_every": 2}, "config.dequantizer.eval_every is 3; expected a multiple of"),
        ({"dequantizer.ema_rate": 1.0}, "config.dequantizer.ema_rate is 1.0; expected 0, or a number from"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes, message, tmp_path, capsys):
    arguments = [f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", "--mode=train_dequantizer"]
    assert main([*arguments, *_overrides(**changes)]) == 2
    assert message in capsys.readouterr().err


def test_continuous_data_are_refused(tmp_path, capsys):
    arguments = [f"--config={ROOT / 'configs/vp/toy_mlp.py'}", f"--workdir={tmp_path}", "--mode=train_dequantizer"]
    assert main([*arguments, "--config.dequantizer.name=flowpp"]) == 2
    assert "takes images (H, W, C) of gray levels" in capsys.readouterr().err


def test_the_program_measures_what_it_has_trained(uninterrupted, tmp_path, caplog):
    """A finished training is left as it is, and its last held-out loss is the bound that is reported."""
    workdir = shutil.copytree(uninterrupted[0], tmp_path / "run")
    arguments = [f"--config={CONFIG}", f"--workdir={workdir}", "--mode=train_dequantizer"]
    caplog.set_level("INFO")
    assert main([*arguments, *_overrides()]) == 0
    report = json.loads((workdir / "dequantizer.json").read_text())
    metrics = json.loads((workdir / "dequantizer" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (report["step"], report["dequantizer_step"], metrics["step"]) == (2, 6, 6)
    np.testing.assert_allclose(report["bits_per_dim"], metrics["eval_loss"], rtol=1e-5)
    gain = report["uniform_bits_per_dim"] - report["bits_per_dim"]
    np.testing.assert_allclose(report["gain_bits_per_dim"], gain, atol=1e-4)
    assert (workdir / "dequantizer" / "loss.png").is_file()
    assert "(dequantizer.json)" in (workdir / "summary.md").read_text()  # the page of the run, renewed
    said = "lower" if gain > 0.0 else "higher"  # than uniform noise, which so short a training may not beat
    assert f"the bound is {said} by {abs(report['gain_bits_per_dim']):.4f} +- " in caplog.text


class GaussianNetwork:
    """The exact noise prediction for scaled pixels that are N(0, 0.3^2), whatever the gray levels."""

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, label=None, key=None):
        m, s = (c.reshape(-1, 1, 1, 1) for c in VP().marginal(condition / 999.0))
        return s * x / (m**2 * 0.3**2 + s**2)


@pytest.mark.slow
def test_training_takes_the_noise_from_uniform_to_what_the_model_has_within_the_bins():
    """Two bins of a Gaussian: -log2 P is one bit, and uniform noise, unlike the half-normal, costs 1.26 bits more."""
    flow = FlowPP(filters=8, components=4, blocks=1, num_flows=2, heads=2, context_features=4)
    experiment = dataclasses.replace(
        _experiment(), network=GaussianNetwork(), quantization=Quantization(num_grey_levels=2), event_shape=(2, 2, 1)
    )
    dequantizer, tx = LinenDequantizer(flow, 2), optax.adam(optax.cosine_decay_schedule(1e-2, 300))
    params = jax.jit(lambda: dequantizer.init(jax.random.key(0), (1, 2, 2, 1)), compiler_options=UNOPTIMIZED)()
    loss = dequantizer_loss(experiment, dequantizer, {})
    step = make_train_step(loss, tx, prepare=lambda key, levels: levels, ema_rate=0.98)
    step = jax.jit(step, compiler_options=UNOPTIMIZED)
    state, levels = state_of(params, tx, 0), jax.random.bernoulli(jax.random.key(1), shape=(300, 128, 2, 2, 1))
    for batch in levels.astype(jnp.int32):
        state, _ = step(state, batch)

    images = levels[:20].reshape(-1, 2, 2, 1)

    @functools.partial(jax.jit, compiler_options=UNOPTIMIZED)
    def exact_bits(params):
        keys = example_keys(jax.random.key(2), images)
        x, log_q = dequantize_with(experiment.quantization, dequantizer, params, keys, images)
        logp = norm.logpdf(x, scale=0.3).sum(axis=(1, 2, 3))
        return jnp.mean(experiment.quantization.bits_per_dim(logp - log_q, 4))

    start, end = float(exact_bits(params)), float(exact_bits(state.ema_params))
    uniform = (np.log(0.3 * np.sqrt(2.0 * np.pi)) + 1.0 / (6.0 * 0.3**2)) / np.log(2.0)
    least = -float(jnp.log2(norm.cdf(1.0 / 0.3) - 0.5))
    assert abs(start - uniform) < 0.1
    assert least - 0.01 < end < least + 0.1 < uniform - 1.0


def test_the_loss_is_the_cost_of_the_images_in_bits():
    """Of uniform noise under a model that is exact, within the error of so many draws."""
    experiment = dataclasses.replace(
        _experiment(), network=GaussianNetwork(), quantization=Quantization(num_grey_levels=2)
    )
    levels = jnp.ones((20_000, 2, 2, 1), jnp.int32)
    loss = dequantizer_loss(experiment, UniformDequantizer(), {})
    bits = jax.jit(lambda: loss({}, jax.random.key(3), levels, train=False))()
    uniform = (np.log(0.3 * np.sqrt(2.0 * np.pi)) + 1.0 / (6.0 * 0.3**2)) / np.log(2.0)
    assert abs(float(bits.mean()) - uniform) < 4.0 * float(bits.std()) / np.sqrt(20_000) < 0.5
