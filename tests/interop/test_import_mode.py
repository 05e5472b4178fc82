"""The modes import and export: a file becomes a run, or is refused and leaves nothing."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import score_sde
from score_sde.checkpointing import CheckpointWriter
from score_sde.cli import main
from score_sde.config import default_config
from score_sde.errors import UserError
from score_sde.interop.checkpoints import import_checkpoint
from score_sde.interop.convert import expected_shapes, fit, from_flax_names, from_torch_names
from score_sde.models.registry import make_network
from score_sde.modes import exchanging
from tests.interop import originals
from tests.interop import torch_writer as writer
from tests.interop.test_ncsn_names import WIDTH, StateDict


@pytest.mark.slow
def test_a_flax_checkpoint_becomes_a_run_and_safetensors_and_a_run_again_bit_for_bit(tmp_path, capsys):
    case = originals.CASES["ncsnpp_resblock_ddpm"]
    tree = originals.flax_tree(case)
    originals.flax_file(tmp_path / "checkpoint_1", tree, jax.tree.map(lambda value: value * 2, tree))
    config = originals.config_file(tmp_path / "config.py", originals.config(case))

    def run(mode, workdir, *extra):
        code = main([f"--config={config}", f"--workdir={tmp_path / workdir}", f"--mode={mode}", *extra])
        assert code == 0, capsys.readouterr().err

    run("import", "first", f"--checkpoint={tmp_path / 'checkpoint_1'}")
    run("export", "first")
    run("import", "second", f"--checkpoint={tmp_path / 'first' / 'model.safetensors'}")
    run("export", "second")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second
    network = originals.network(case)
    imported = import_checkpoint(tmp_path / "second" / "model.safetensors", network, originals.SHAPE)
    shapes = expected_shapes(network, originals.SHAPE)
    assert imported.step == 9
    expected = fit(from_flax_names(tree), shapes, "")
    jax.tree.map(np.testing.assert_array_equal, imported.params, expected)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 2 * b), imported.ema_params, expected)


def test_weights_of_another_architecture_are_refused_and_leave_no_working_directory(tmp_path, capsys):
    originals.torch_file(tmp_path / "checkpoint.pth", originals.CASES["ncsnpp_vp"])
    workdir = tmp_path / "run"
    arguments = ["--config=configs/vp/digits_ddpmpp.py", f"--workdir={workdir}", "--mode=import"]
    assert main([*arguments, f"--checkpoint={tmp_path / 'checkpoint.pth'}"]) == 2
    assert "the configuration expects" in capsys.readouterr().err
    assert not workdir.exists()
    assert main(arguments) == 2
    assert "--checkpoint=FILE" in capsys.readouterr().err
    assert main([*arguments, f"--checkpoint={tmp_path / 'nowhere.pth'}"]) == 2
    assert "nowhere.pth" in capsys.readouterr().err


@pytest.fixture
def flax_import(tmp_path):
    """Arguments that import a Flax checkpoint, whose first parameter can be spoilt."""

    def arguments(spoil=lambda tree: None):
        case = originals.CASES["ncsnpp_resblock_ddpm"]
        tree = originals.flax_tree(case)
        spoil(tree)
        originals.flax_file(tmp_path / "checkpoint_1", tree, tree)
        config = originals.config_file(tmp_path / "config.py", originals.config(case))
        return [
            f"--config={config}",
            f"--workdir={tmp_path / 'run'}",
            "--mode=import",
            f"--checkpoint={tmp_path}/checkpoint_1",
        ]

    return arguments


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", [(CheckpointWriter, "save"), (exchanging, "atomic_write_json"), (exchanging, "claim")]
)
def test_an_import_cut_off_anywhere_is_given_again(place, flax_import, monkeypatch, capsys):
    arguments = flax_import()

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*place, killed)
        assert main(arguments) == 130
    assert main(arguments) == 0, capsys.readouterr().err


def test_an_import_that_is_complete_stays_and_another_is_refused(flax_import, tmp_path, capsys, caplog):
    assert main(flax_import()) == 0, capsys.readouterr().err
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with caplog.at_level("INFO"):
        assert main(flax_import()) == 0
    assert "was imported to" in caplog.text
    assert main(flax_import(lambda tree: np.add.at(tree["Dense_1"]["bias"], 0, 1.0))) == 2
    assert "There is a run in" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_checkpoint_of_a_diverged_training_is_refused(flax_import, tmp_path, capsys, value):
    def spoil(tree):
        tree["Dense_1"]["bias"][3] = value

    assert main(flax_import(spoil)) == 2
    assert "'TimeEmbedding_0/Dense_1/bias' with values that are not finite" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.sweep
@pytest.mark.parametrize("layout", writer.LAYOUTS)
@pytest.mark.parametrize("averaged", [True, False])
def test_the_list_that_ncsnv2_saves_gives_model_average_and_step(tmp_path, layout, averaged):
    rng = np.random.default_rng(0)
    draw = lambda shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    state = {name: draw(shape) for name, shape in StateDict(64, conditional=False).items()}
    average = {name: draw(value.shape) for name, value in state.items() if name != "sigmas"} if averaged else {}
    originals.ncsnv2_file(
        tmp_path / "checkpoint.pth",
        ({f"module.{name}": value for name, value in state.items()}, average),
        layout=layout,
    )
    config = default_config()
    config.model.name, config.model.features = "ncsnv2_64", WIDTH
    flax, network = (
        make_network(dict(config.model) | {"pytorch": pytorch}, originals.SHAPE, num_scales=10, centered=False)
        for pytorch in (False, True)
    )
    with pytest.raises(UserError, match=r"--config\.model\.pytorch=True"):  # two refinements have other widths there
        import_checkpoint(tmp_path / "checkpoint.pth", flax, originals.SHAPE)
    imported = import_checkpoint(tmp_path / "checkpoint.pth", network, originals.SHAPE)
    shapes = expected_shapes(network, originals.SHAPE)
    assert imported.step == 11
    raw, ema = (fit(from_torch_names(named, shapes), shapes, "") for named in (state, average or state))
    jax.tree.map(np.testing.assert_array_equal, imported.params, raw)
    jax.tree.map(np.testing.assert_array_equal, imported.ema_params, ema)


@pytest.mark.parametrize("named", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_folder_brings_its_configuration_and_its_data_along(tmp_path, capsys, named):
    """The pretrained digits by name, or in a folder, of data that are nowhere but in its record."""
    model, run, checkpoint = score_sde.load("digits-vp"), tmp_path / "run", "digits-vp"
    if not named:
        (checkpoint := tmp_path / "folder").mkdir()
        dataclasses.replace(model, data=model.data._replace(name="array")).save(checkpoint)
    assert main([f"--workdir={run}", "--mode=import", f"--checkpoint={checkpoint}"]) == 0, capsys.readouterr().err
    imported = score_sde.load(run)
    assert (imported.step, imported.experiment.settings) == (model.step, model.experiment.settings)
    jax.tree.map(np.testing.assert_array_equal, imported.params, model.params)
    assert imported.data.name == ("digits" if named else "array")


def test_a_pretrained_model_that_is_almost_named_is_named(tmp_path, capsys):
    assert main([f"--workdir={tmp_path / 'run'}", "--mode=import", "--checkpoint=digits-pv"]) == 2
    assert "Did you mean 'digits-vp'?" in capsys.readouterr().err


def test_a_strangers_folder_is_no_way_to_have_a_module_imported(tmp_path, capsys):
    (folder := tmp_path / "folder").mkdir()
    score_sde.load("digits-vp").save(folder)
    record = json.loads((folder / "config.json").read_text())
    record["model"]["name"] = "stranger:Network"
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    assert main([f"--workdir={tmp_path / 'run'}", "--mode=import", f"--checkpoint={folder}"]) == 2
    assert "names model.name=stranger:Network, which is outside this package" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists() and not (tmp_path / "run").exists()
