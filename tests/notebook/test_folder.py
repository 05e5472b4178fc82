"""A model that is handed on: the same bits after a folder, a run or an export, and damage that ends in a message."""

import json
import shutil

import jax
import numpy as np
import pytest

import score_sde
from score_sde.cli import main
from score_sde.errors import UserError
from score_sde.evaluation.base import Purpose, root_key
from tests.notebook.test_fit import fit, gaussian

TINY = (
    *("--config.model.features=8", "--config.model.num_blocks=1", "--config.training.num_steps=20"),
    *("--config.training.batch_size=8", "--config.training.log_every=10", "--config.training.eval_every=20"),
    *("--config.training.checkpoint_every=10", "--config.training.sample_every=0", "--config.optim.warmup=5"),
    *("--config.sampling.num_steps=4", "--config.sampling.num_samples=6", "--config.sampling.batch_size=6"),
    *("--config.likelihood.batch_size=40", "--config.data.name=toy:moons"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the command line, and its export."""
    place = tmp_path_factory.mktemp("handed")
    flags = [f"--workdir={place / 'run'}", "--config=configs/vp/toy_mlp.py", *TINY]
    for mode in ("train", "sample"):
        assert main([*flags, f"--mode={mode}"]) == 0
    out = [f"--out={place / 'folder'}", "--config.export.license=apache-2.0"]
    assert main([f"--workdir={place / 'run'}", "--mode=export", *out]) == 0
    return place


def same(one, other, key):
    """Whether two models draw and measure the same bits."""
    x = one.sample(key, 3)
    pairs = [(model.sample(key, 3), model.log_likelihood(key, x, tolerance=1e-2).logp) for model in (one, other)]
    return all(np.array_equal(a, b) for a, b in zip(*pairs, strict=True))


def test_a_model_of_a_folder_is_the_model_of_the_run_to_the_bit(run, key):
    whole, handed = score_sde.load(run / "run"), score_sde.load(str(run / "folder"))
    assert same(whole, handed, key)
    assert handed.step == whole.step == 20


def test_a_loaded_run_draws_the_samples_of_the_command_line(run):
    model = score_sde.load(run / "run")
    with np.load(run / "run" / "samples.npz") as found:
        assert np.array_equal(model.sample(root_key(model.experiment, Purpose.SAMPLES), 6), found["samples"])


@pytest.mark.slow
def test_a_model_that_was_fitted_survives_a_folder_to_the_bit_with_its_scale(tmp_path, key):
    model = fit(gaussian(100), steps=3)
    again = score_sde.load(model.save(tmp_path / "model"))
    assert same(model, again, key)
    assert same(model, score_sde.load(again.save(tmp_path / "again")), key)
    assert (tmp_path / "again" / "README.md").read_text() == (tmp_path / "model" / "README.md").read_text()


def test_a_card_has_front_matter_and_the_numbers_of_the_run_with_their_commands(run):
    card = (run / "folder" / "README.md").read_text()
    front = card.split("---\n")[1].splitlines()
    assert "license: apache-2.0" in front and "library_name: score_sde" in front and "- vp" in front
    assert "toy:moons" in card and "fingerprint" in card
    assert "loss" in card.lower().split("## measured")[1] and "--mode=sample" in card


def test_a_folder_may_be_written_again_and_a_run_stays_one(run, tmp_path):
    again = [f"--workdir={run / 'run'}", "--mode=export"]
    assert main([*again, f"--out={run / 'folder'}"]) == 0
    other = shutil.copytree(run / "run", tmp_path / "other")
    assert main([*again, f"--out={other}"]) == 2
    with pytest.raises(UserError, match="holds a run with its checkpoints"):
        score_sde.load(run / "folder").save(other)


def exported(run, out, *flags):
    assert main([f"--workdir={run / 'run'}", "--mode=export", f"--out={out}", *flags]) == 0
    return out


@pytest.mark.slow
def test_the_average_alone_is_the_model_to_the_bit_in_half_of_the_room(run, tmp_path, key):
    whole = score_sde.load(run / "run")
    folder = exported(run, tmp_path / "average", "--config.export.average_only=True")
    handed = score_sde.load(folder)
    assert same(whole, handed, key)
    sizes = [(place / "model.safetensors").stat().st_size for place in (run / "folder", folder)]
    assert sizes[1] < 0.6 * sizes[0]
    again = score_sde.load(handed.save(tmp_path / "again"))
    assert same(whole, again, key)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    card = (folder / "README.md").read_text()
    assert "the average that is sampled, under `ema_params/`" in card and "stored in float32." in card
    began = [f"--config={folder / 'config.json'}", f"--checkpoint={folder / 'model.safetensors'}", "--mode=import"]
    assert main([f"--workdir={tmp_path / 'imported'}", *began]) == 0
    assert same(whole, score_sde.load(tmp_path / "imported"), key)


def test_half_precision_rounds_the_parameters_once(run, tmp_path, key):
    whole = score_sde.load(run / "run")
    flags = ["--config.export.average_only=True", "--config.export.dtype=float16"]
    half = score_sde.load(exported(run, tmp_path / "half", *flags))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.astype(np.float16), b), whole.params, half.params)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(half.params))
    assert same(half, score_sde.load(half.save(tmp_path / "again")), key)
    assert "stored in float16, and rounded to it." in (tmp_path / "half" / "README.md").read_text()


def _remove(name):
    return lambda folder: (folder / name).unlink()


def _cut(name, size=100):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def _change(name, *keys, value):
    def change(folder):
        record = json.loads((folder / name).read_text())
        where = record
        for key in keys[:-1]:
            where = where[key]
        where[keys[-1]] = value
        (folder / name).write_text(json.dumps(record))

    return change


DAMAGE = {
    "no configuration": (_remove("config.json"), r"has model.safetensors and no config.json; write the folder anew"),
    "no data": (_remove("data.json"), "no data.json"),
    "no parameters": (_remove("model.safetensors"), "There is no model in"),
    "half of the parameters": (_cut("model.safetensors"), "safetensors"),
    "half of the configuration": (_cut("config.json"), "config.json"),
    "another network": (_change("config.json", "model", "features", value=12), "the configuration expects"),
    "an unknown field": (_change("config.json", "model", "featurs", value=12), "Did you mean 'model.features'"),
    "another shape": (_change("data.json", "shape", value=[3]), "model.safetensors has the parameter"),
    "a part from elsewhere": (_change("config.json", "model", "name", value="torch.hub:load"), "nothing is imported"),
    "no shape": (_change("data.json", "shape", value=None), "data.json"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_ends_in_a_message(run, tmp_path, kind):
    damage, message = DAMAGE[kind]
    folder = shutil.copytree(run / "folder", tmp_path / "folder")
    damage(folder)
    with pytest.raises(UserError, match=message):
        score_sde.load(folder)


def test_a_model_that_does_not_exist_is_told_with_what_there_is(tmp_path):
    with pytest.raises(UserError, match="There is no model"):
        score_sde.load("no-such-model")
    with pytest.raises(UserError, match="There is no model in"):
        score_sde.load(tmp_path)


def test_a_file_of_parameters_is_loaded_with_its_configuration(run, key):
    """The configuration of the folder; without one, the message asks for it."""
    file = run / "folder" / "model.safetensors"
    with pytest.raises(UserError, match="give config="):
        score_sde.load(file)
    model = score_sde.load(file, config=run / "folder" / "config.json")
    assert np.array_equal(model.sample(key, 2), score_sde.load(run / "run").sample(key, 2))


def test_a_linen_module_or_any_network_can_be_trained_and_loaded_again(tmp_path, key):
    class Net:  # a linear map of the data, which needs no library
        def init(self, key, shape):
            return {"w": jax.numpy.zeros(shape[1:])}

        def apply(self, params, x, condition, *, label=None, key=None):
            return x * params["w"][None]

    model = fit(gaussian(50), network=Net(), steps=2)
    assert set(model.params) == {"w"}
    again = score_sde.load(model.save(tmp_path / "own"), network=Net())
    assert np.array_equal(model.sample(key, 2, steps=4), again.sample(key, 2, steps=4))
