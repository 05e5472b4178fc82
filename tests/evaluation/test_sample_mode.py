"""What ``--mode=sample`` leaves: pictures that are data again, few frames of many steps."""

import jax
import numpy as np

from score_sde.checkpointing import CheckpointWriter
from score_sde.cli import load_config
from score_sde.data import load_source
from score_sde.evaluation.samples import trajectory_program
from score_sde.files import atomic_write_json
from score_sde.modes.sampling import run_sample
from score_sde.modes.workdir import build_experiment
from tests.training.test_resume import ROOT

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
    return load_config(ROOT / "configs" / "vp" / "digits_ddpmpp.py", overrides)


def save_model(workdir, config, *, seed=None):
    """Make ``workdir`` a run whose newest checkpoint holds parameters that nobody has trained."""
    experiment = build_experiment(config)
    atomic_write_json(workdir / "config.json", config.to_dict())
    state = jax.jit(experiment.init_state)()
    with CheckpointWriter(workdir) as checkpoints:
        checkpoints.save(state, {}, config.to_dict())
    return workdir


def test_samples_are_data_again(tmp_path):
    """The file is read back under its path, as bytes, with as many grey levels as the data had."""
    save_model(tmp_path, tiny())
    run_sample(tiny(), tmp_path, "command")
    with np.load(tmp_path / "samples.npz") as file:
        samples = file["samples"]
    assert samples.dtype == np.uint8 and samples.shape == (20, 8, 8, 1)
    splits = [load_source(f"npz:{tmp_path / 'samples.npz'}", split) for split in ("train", "test")]
    assert [source.info.num_levels for source in splits] == [17, 17]
    again = np.concatenate([source.gather(np.arange(len(source))) for source in splits])
    np.testing.assert_array_equal(np.sort(again.reshape(20, -1), axis=0), np.sort(samples.reshape(20, -1), axis=0))


def test_the_strip_from_noise_to_data_needs_no_memory_for_the_steps_between_its_frames():
    def memory(steps):
        experiment = build_experiment(tiny(sampling__num_steps=steps))
        run, _ = trajectory_program(experiment, count=64, frames=10)
        state = experiment.abstract_state()
        needed = run.lower(state.ema_params, jax.random.key(0)).compile().memory_analysis()
        return needed.temp_size_in_bytes + needed.output_size_in_bytes

    assert memory(400) - memory(10) < 64 * 64 * 4 * 8  # eight images of each, not four hundred
