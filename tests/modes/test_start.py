"""Training that starts from another model: its parameters, a new optimizer, and a record of what came from where."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import score_sde
from score_sde.cli import main
from score_sde.errors import UserError
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.modes.models import start_from

SMALL = {"model.name": "mlp", "model.features": 8, "model.num_blocks": 1}
TINY = (
    *("--config=configs/vp/toy_mlp.py", "--mode=train", "--config.model.features=8", "--config.model.num_blocks=1"),
    *("--config.training.batch_size=8", "--config.training.log_every=10", "--config.training.eval_every=10"),
    *("--config.training.checkpoint_every=10", "--config.training.sample_every=0", "--config.optim.warmup=5"),
    *("--config.likelihood.batch_size=500", "--config.training.num_steps=10"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of eight Gaussians in the plane, handed on."""
    place = tmp_path_factory.mktemp("start")
    assert main([*TINY, f"--workdir={place / 'run'}"]) == 0
    return score_sde.load(place / "run").save(place / "folder")


def experiment(shape=(2,), num_classes=None, **changes):
    settings = Settings().with_fields(SMALL | changes)
    return Experiment.from_config(settings, shape, None, num_classes=num_classes, purposes={"train"})


def test_training_starts_from_the_average_with_a_fresh_optimizer(folder):
    start, model = start_from(experiment(), str(folder), anew=False), score_sde.load(folder)
    state, fresh = start.init_state(), experiment().init_state()
    for found in (state.params, state.ema_params):
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), found, model.params))
    assert int(state.step) == 0
    assert jax.tree.all(jax.tree.map(jnp.array_equal, state.opt_state, fresh.opt_state))
    assert (start.record["step"], start.record["data"], start.record["anew"]) == (10, "toy:gaussians", [])


UNLIKE = {
    "width": ({"model.features": 12}, (2,), r"'Dense_0/kernel' has shape \(2, 8\), and the network expects \(2, 12\)"),
    "depth": ({"model.num_blocks": 2}, (2,), "it lacks 'Dense_.*and [0-9]+ more"),
    "dimensions": ({}, (3,), r"'Dense_0/kernel' has shape \(2, 8\), and the network expects \(3, 8\)"),
}


@pytest.mark.parametrize("kind", UNLIKE)
def test_what_does_not_fit_is_named(folder, kind):
    changes, shape, message = UNLIKE[kind]
    with pytest.raises(UserError, match=message) as caught:
        start_from(experiment(shape, **changes), str(folder), anew=False)
    assert "config.training.init_anew=True" in str(caught.value)


def test_what_does_not_fit_is_initialized_anew_on_request(folder):
    """For data of another dimension only the first and the last layer are new."""
    wanted = experiment((3,))
    start, model = start_from(wanted, str(folder), anew=True), score_sde.load(folder)
    state, fresh = start.init_state(), wanted.init_state()
    same = {name for name in state.params if jax.tree.all(jax.tree.map(_equal, state.params[name], fresh.params[name]))}
    kept = set(model.params) - same
    assert {name.split("/")[0] for name in start.record["anew"]} <= same | kept
    assert "Dense_0/kernel" in start.record["anew"] and kept and same
    with pytest.raises(UserError, match="No parameter of"):
        start_from(experiment((3,), **{"model.features": 12}), str(folder), anew=True)


def _equal(a, b):
    return a.shape == b.shape and bool((a == b).all())


@pytest.mark.slow
def test_a_run_says_where_it_started_and_goes_on_without_it(folder, tmp_path):
    source = shutil.copytree(folder, tmp_path / "source")
    command = [*TINY, f"--workdir={tmp_path / 'run'}", f"--config.training.init_from={source}"]
    assert main([*command, "--config.data.name=toy:moons"]) == 0
    record = json.loads((tmp_path / "run" / "init.json").read_text())
    assert record["from"] == str(source) and record["step"] == 10
    shutil.rmtree(source)
    further = ["--config.data.name=toy:moons", "--config.training.num_steps=20"]
    assert main([*command, *further]) == 0
    assert "toy:gaussians" in score_sde.load(tmp_path / "run").save(tmp_path / "out").joinpath("README.md").read_text()
    assert main([*command, "--config.optim.lr=1.0"]) == 2  # another run


def test_a_model_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="There is no model"):
        start_from(experiment(), str(tmp_path / "nothing"), anew=False)
    with pytest.raises(UserError, match="no model in"):
        start_from(experiment(), str(tmp_path), anew=False)
    (tmp_path / "model.pth").write_bytes(np.zeros(100).tobytes())
    with pytest.raises(UserError):
        start_from(experiment(), str(tmp_path / "model.pth"), anew=False)
