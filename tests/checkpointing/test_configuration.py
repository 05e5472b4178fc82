"""A checkpoint goes on only under the configuration that it was saved under, wherever that is written."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import pytest

from score_sde.checkpointing import Checkpoints, CheckpointWriter, newest_config
from score_sde.cli import main
from score_sde.errors import UserError
from score_sde.modes.training import run_train
from score_sde.modes.workdir import trained_state
from tests.checkpointing.small import save, state_at
from tests.training.test_resume import _experiment

SHORT = {"training.eval_every": 100, "training.log_every": 10}


def _config(num_steps=10, **changes):
    return _experiment(num_steps, **SHORT, **changes).settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    run_train(_config(), workdir, "command")
    return workdir


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.mark.slow
def test_without_its_record_a_run_knows_its_configuration_and_writes_it_anew(run):
    record = run / "config.json"
    text = record.read_text()
    record.unlink()
    with pytest.raises(UserError, match=r"optim\.lr: .* -> 0\.5"):
        run_train(_config(20, **{"optim.lr": 0.5}), run, "command")
    assert not record.exists()
    assert int(trained_state(_experiment(), run).step) == 10
    run_train(_config(), run, "command")
    assert record.read_text() == text


@pytest.mark.slow
def test_without_its_record_a_run_needs_no_config_flag(run, capsys):
    flags = [f"--workdir={run}", "--mode=export"]
    (run / "config.json").write_text("[1, 2]")
    assert main(flags) == 2
    assert "config.json cannot be read (it is JSON, but no object); remove it, and" in capsys.readouterr().err
    (run / "config.json").unlink()
    assert main(flags) == 0
    assert (run / "model.safetensors").is_file()
    shutil.rmtree(run / "checkpoints")
    assert main(flags) == 2
    assert f"There is no run in {run} whose configuration could be taken" in capsys.readouterr().err


@pytest.mark.sweep
@pytest.mark.parametrize("changes", [{"optim.lr": 0.5}, {"seed": 7}])
def test_a_checkpoint_of_another_run_is_refused_by_the_names_of_its_fields(changes, run, tmp_path):
    other = json.loads((run / "config.json").read_text())
    for name, value in changes.items():
        group, _, field = name.rpartition(".")
        (other[group] if group else other)[field] = value
    state = dataclasses.replace(trained_state(_experiment(), run), step=jnp.asarray(12, jnp.int32))
    with CheckpointWriter(run) as writer:
        writer.save(state, {}, other)
    field = next(iter(changes)).replace(".", r"\.")
    message = (
        rf"The checkpoint .*/12 was saved under another configuration[\s\S]*{field}: {next(iter(changes.values()))}"
    )
    with pytest.raises(UserError, match=message):
        trained_state(_experiment(), run)
    with pytest.raises(UserError, match=message):
        run_train(_config(20), run, "command")
    shutil.rmtree(run / "checkpoints" / "12")
    run_train(_config(20), run, "command")
    assert Checkpoints(run).steps == [10, 20]


@pytest.mark.parametrize("text", ["null", "[1, 2]", "{", ""])
def test_a_damaged_record_is_neither_no_run_nor_another_one(text, run):
    record = run / "config.json"
    record.write_text(text)
    with pytest.raises(UserError, match=r"config\.json cannot be read .*; remove it, and the checkpoints tell"):
        run_train(_config(), run, "command")
    record.unlink()
    assert newest_config(run) == json.loads(json.dumps(_config().to_dict()))


def test_the_precision_of_a_run_stays_what_it_was(tmp_path):
    save(tmp_path, 10)
    with jax.enable_x64():
        double = jax.eval_shape(lambda: state_at(0))
        with pytest.raises(UserError, match=r"has float32 .* makes float64 .*with JAX_ENABLE_X64 as it was"):
            Checkpoints(tmp_path).restore_newest(double)


@pytest.mark.slow
def test_a_run_that_goes_on_in_another_precision_says_so(run, caplog):
    run_train(_config(20), run, "command")
    assert "JAX_ENABLE_X64" not in caplog.text
    with jax.enable_x64():
        run_train(_config(20), run, "command")
        assert "JAX_ENABLE_X64" not in caplog.text  # nothing is left to train
        run_train(_config(30), run, "command")
    assert "To step 20 the run was trained with JAX_ENABLE_X64=0, and it goes on with JAX_ENABLE_X64=1" in caplog.text
    caplog.clear()
    run_train(_config(40), run, "command")
    assert "To step 30 the run was trained with JAX_ENABLE_X64=1, and it goes on with JAX_ENABLE_X64=0" in caplog.text
