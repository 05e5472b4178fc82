"""What ``--mode=sample`` leaves: pictures that are data again, drawn in parts, few frames of many steps."""

import os
import shutil
import signal

import jax
import numpy as np
import pytest

from score_sde.checkpointing import CheckpointWriter
from score_sde.cli import load_config, main
from score_sde.data import load_source
from score_sde.evaluation import samples
from score_sde.evaluation.samples import trajectory_program
from score_sde.files import atomic_write_json
from score_sde.modes.sampling import run_sample
from score_sde.modes.workdir import build_experiment
from tests.training.test_resume import ROOT

CONFIG = ROOT / "configs" / "vp" / "digits_ddpmpp.py"
TINY = {
    "model.features": 8,
    "model.channel_multipliers": (1,),
    "model.num_blocks": 1,
    "model.attention_resolutions": (),
    "sampling.predictor": "ddim",
    "sampling.num_steps": 3,
    "sampling.num_samples": 20,
    "sampling.batch_size": 8,
}


def tiny(**changes):
    """The configuration of a small network for the digits."""
    fields = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return load_config(CONFIG, overrides)


def save_model(workdir, config):
    """Make ``workdir`` a run whose newest checkpoint holds parameters that nobody has trained."""
    experiment = build_experiment(config)
    atomic_write_json(workdir / "config.json", config.to_dict())
    state = jax.jit(experiment.init_state)()
    with CheckpointWriter(workdir) as checkpoints:
        checkpoints.save(state, {}, config.to_dict())
    return workdir


@pytest.mark.slow
def test_samples_are_data_again(tmp_path):
    """The file is read back under its path, as bytes, with as many gray levels as the data had."""
    save_model(tmp_path, tiny())
    run_sample(tiny(), tmp_path, "command")
    found = _samples(tmp_path)
    assert found.dtype == np.uint8 and found.shape == (20, 8, 8, 1)
    splits = [load_source(f"npz:{tmp_path / 'samples.npz'}", split) for split in ("train", "test")]
    assert [source.info.num_grey_levels for source in splits] == [17, 17]
    again = np.concatenate([source.gather(np.arange(len(source))) for source in splits])
    np.testing.assert_array_equal(np.sort(again.reshape(20, -1), axis=0), np.sort(found.reshape(20, -1), axis=0))


def _samples(workdir):
    with np.load(workdir / "samples.npz") as file:
        return file["samples"]


def _run(workdir, **changes):
    fields = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return main([f"--config={CONFIG}", f"--workdir={workdir}", "--mode=sample", *overrides])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), tiny())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_samples_that_were_drawn_when_a_signal_came_are_not_drawn_again(
    number, code, model, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ["JAX_COMPILATION_CACHE_DIR"])
    whole, cut = shutil.copytree(model, tmp_path / "whole"), shutil.copytree(model, tmp_path / "cut")
    check, batches = samples.check_samples, []

    def asked(*arguments):
        batches.append(1)
        if len(batches) == 3:
            os.kill(os.getpid(), number)
        check(*arguments)

    monkeypatch.setattr(samples, "check_samples", asked)
    assert _run(cut) == code
    assert capsys.readouterr().err.count("Traceback") == 0
    assert _run(cut) == 0
    assert len(batches) == 3 + 1  # the third of three batches, again
    assert _run(whole) == 0
    assert (whole / "samples.npz").read_bytes() == (cut / "samples.npz").read_bytes()
    assert not list(cut.glob("*.partial*"))


@pytest.mark.slow
def test_samples_are_a_part_of_the_stream_of_their_seed(model, tmp_path):
    """Those from the fifth on are the first ones but for four; another seed's are others; -1 is the run's own."""
    found = {}
    for name, fields in {
        "plain": {},
        "later": {"sampling__first": 4},
        "same seed": {"sampling__seed": 42, "sampling__first": 4, "sampling__batch_size": 20},
        "another": {"sampling__seed": 43},
    }.items():
        workdir = shutil.copytree(model, tmp_path / name)
        run_sample(tiny(**fields), workdir, "command")
        found[name] = _samples(workdir)
    np.testing.assert_array_equal(found["later"][:16], found["plain"][4:])
    np.testing.assert_array_equal(found["later"], found["same seed"])
    assert np.mean(found["plain"] == found["another"]) < 0.9  # many are black or white: nobody has trained the model


@pytest.mark.slow
def test_the_strip_from_noise_to_data_needs_no_memory_for_the_steps_between_its_frames():
    def memory(steps):
        experiment = build_experiment(tiny(sampling__num_steps=steps))
        run, _ = trajectory_program(experiment.sampler, (64, *experiment.event_shape), 10)
        state = experiment.abstract_state()
        needed = run.lower(state.ema_params, jax.random.key(0), 0).compile().memory_analysis()
        return needed.temp_size_in_bytes + needed.output_size_in_bytes

    assert memory(400) - memory(10) < 64 * 64 * 4 * 8  # eight images of each, not four hundred
