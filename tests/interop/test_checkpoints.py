"""Published checkpoints: the networks of the originals with their weights give the originals' outputs.

``data/unets.npz`` holds inputs and outputs of the original score_sde (revision 0acb9e0e, run unmodified) for nine small
U-Nets that between them use every option; ``data/unets.json.gz`` holds their configurations and the names of their
parameters in score_sde_pytorch and in score_sde. Their weights follow a rule, so they need not be stored.
"""

import gzip
import json
import re
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

from score_sde.cli import main
from score_sde.config import default_config
from score_sde.errors import UserError
from score_sde.interop import write_safetensors
from score_sde.interop.checkpoints import import_checkpoint
from score_sde.interop.convert import expected_shapes, fit, flatten, from_flax_names, from_torch_names
from score_sde.models.adapters import LinenNetwork
from score_sde.models.registry import make_network
from tests.interop import torch_writer as writer

DATA = Path(__file__).parent / "data"
CASES = json.loads(gzip.decompress((DATA / "unets.json.gz").read_bytes()))
SHAPE = (16, 16, 3)
OURS = {
    **{"nf": "features", "ch_mult": "channel_multipliers", "num_res_blocks": "num_blocks"},
    **{"attn_resolutions": "attention_resolutions", "resamp_with_conv": "resample_with_conv"},
    **{"embedding_type": "embedding", "nonlinearity": "activation"},
}


def _config(case):
    config = default_config()
    config.data.centered, config.data.shape = case["centered"], SHAPE
    for name, value in case["model"].items():
        if (ours := OURS.get(name, name)) in config.model:
            config.model[ours] = tuple(value) if isinstance(value, list) else value
    return config


def _network(case):
    config = _config(case)
    return make_network(dict(config.model), SHAPE, num_scales=1000, centered=config.data.centered)


def _weights(name, shape):
    """The rule: uniform of variance 1 / fan-in, gains about 1, small biases, frequencies of scale 16."""
    rng, leaf = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF), name.rsplit(".", 1)[-1]
    if leaf == "W" and len(shape) == 1:
        draw = 16 * rng.randn(*shape)
    elif leaf in ("W", "weight") and len(shape) > 1:
        fan_in = shape[0] if leaf == "W" else np.prod(shape[1:])
        draw = rng.uniform(-1, 1, shape) * np.sqrt(3 / fan_in)
    else:
        draw = 1 + 0.2 * rng.randn(*shape) if leaf == "weight" else 0.1 * rng.randn(*shape)
    return draw.astype(np.float32)


def _torch_state(case):
    return {name: _weights(name, tuple(shape)) for name, _, shape in case["names"]}


def _flax_tree(case):
    """The same weights under the names and in the layout of the JAX original, (1, 1, 1, C) normalisations included."""
    tree = {}
    for (_, path, _), value in zip(case["names"], _torch_state(case).values(), strict=True):
        turned = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim) if path.endswith(("kernel", "weight")) else None
        value = np.ascontiguousarray(value.transpose(turned)) if turned else value
        node, parts = tree, path.split("/")
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1]] = value[None, None, None] if "GroupNorm" in path else value
    return tree


def _output(case, network, params, name):
    with np.load(DATA / "unets.npz") as file:
        x, labels, expected = (file[f"{name}/{key}"] for key in ("x", "labels", "out"))
    model = case["model"]
    fourier = model["embedding_type"] == "fourier"
    condition = np.log(labels) if fourier else np.asarray(labels, np.float32)
    output = np.asarray(jax.jit(network.apply)(params, jnp.asarray(x), jnp.asarray(condition)))
    if model["scale_by_sigma"]:
        sigmas = np.geomspace(model["sigma_max"], model["sigma_min"], model["num_scales"])
        output = output / (labels if fourier else sigmas[labels])[:, None, None, None]
    return np.abs(output - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("name", CASES)
def test_the_network_with_the_original_weights_gives_the_original_output(name):
    case, network = CASES[name], _network(CASES[name])
    shapes = expected_shapes(network, SHAPE)
    params = fit(from_torch_names(_torch_state(case), shapes), shapes, "the state dict")
    assert _output(case, network, params, name) < 5e-6
    # The Flax names lead to the same tree, so its output needs no second look.
    jax.tree.map(np.testing.assert_array_equal, fit(from_flax_names(_flax_tree(case)), shapes, "the tree"), params)


@pytest.mark.parametrize("name", ["ddpmpp", "ncsnpp_ve_skip", "ddpm_vp"])
def test_bfloat16_is_within_two_percent_of_the_original(name):
    case, network = CASES[name], _network(CASES[name])
    shapes = expected_shapes(network, SHAPE)
    params = fit(from_torch_names(_torch_state(case), shapes), shapes, "the state dict")
    assert 1e-4 < _output(case, LinenNetwork(network.module, "bfloat16"), params, name) < 2e-2


def _torch_file(path, case, *, layout="zip", shadow_of=lambda value: value + 1.0):
    """As score_sde_pytorch saves: the model behind DataParallel, averages as a list without the frequencies."""
    state = _torch_state(case)
    storages = {str(i): value.ravel() for i, value in enumerate(state.values())}
    frequencies = [name for name, value in state.items() if name.endswith(".W") and value.ndim == 1]
    averaged = {name: shadow_of(value) for name, value in state.items() if name not in frequencies}
    storages |= {f"s{i}": value.ravel() for i, value in enumerate(averaged.values())}
    storages["sigmas"] = np.geomspace(50, 0.01, 10)

    def tensor(key, value):
        strides = tuple(int(np.prod(value.shape[axis + 1 :])) for axis in range(value.ndim))
        return writer.tensor(key, storages[key], 0, value.shape, strides)

    model = {"module.sigmas": writer.tensor("sigmas", storages["sigmas"])}
    model |= {f"module.{name}": tensor(str(i), value) for i, (name, value) in enumerate(state.items())}
    shadow = [tensor(f"s{i}", value) for i, value in enumerate(averaged.values())]
    ema = {"decay": 0.999, "num_updates": 7, "shadow_params": shadow}
    pickled = writer.assemble({"optimizer": {"state": {}}, "model": model, "ema": ema, "step": 7})
    path.write_bytes(writer.LAYOUTS[layout](pickled, storages))
    return averaged


def _flax_file(path, tree, ema):
    """As flax.training.checkpoints.save_checkpoint writes."""

    def pack(value):
        if isinstance(value, np.ndarray):
            inner = msgpack.packb((value.shape, value.dtype.name, value.tobytes("C")), use_bin_type=True)
            return msgpack.ExtType(1, inner)
        raise TypeError(type(value))

    state = {"step": 9, "optimizer": {"target": tree, "state": {"step": 9}}, "params_ema": ema, "ema_rate": 0.999}
    path.write_bytes(msgpack.packb(state, default=pack, strict_types=True))


@pytest.mark.parametrize("layout", writer.LAYOUTS)
def test_a_pytorch_checkpoint_gives_model_average_and_step(tmp_path, layout):
    case, network = CASES["ncsnpp_ve"], _network(CASES["ncsnpp_ve"])
    averaged = _torch_file(tmp_path / "checkpoint.pth", case, layout=layout)
    imported = import_checkpoint(tmp_path / "checkpoint.pth", network, SHAPE)
    shapes = expected_shapes(network, SHAPE)
    raw = from_torch_names(_torch_state(case), shapes)
    ema = from_torch_names(_torch_state(case) | averaged, shapes)
    assert imported.step == 7
    jax.tree.map(np.testing.assert_array_equal, imported.params, fit(raw, shapes, ""))
    jax.tree.map(np.testing.assert_array_equal, imported.ema_params, fit(ema, shapes, ""))
    frequencies = flatten(imported.ema_params)["TimeEmbedding_0/FourierEmbedding_0/W"]
    np.testing.assert_array_equal(frequencies, flatten(imported.params)["TimeEmbedding_0/FourierEmbedding_0/W"])


def test_a_flax_checkpoint_becomes_a_run_and_safetensors_and_a_run_again_bit_for_bit(tmp_path, capsys):
    case = CASES["ncsnpp_resblock_ddpm"]
    tree = _flax_tree(case)
    _flax_file(tmp_path / "checkpoint_1", tree, jax.tree.map(lambda value: value * 2, tree))
    config = tmp_path / "config.py"
    fields = {f"{part}.{name}": value for part in ("model", "data") for name, value in _config(case)[part].items()}
    config.write_text(
        "from score_sde.config import default_config\n\n\ndef get_config():\n    config = default_config()\n"
        + "".join(f"    config.{name} = {value!r}\n" for name, value in fields.items())
        + "    return config\n"
    )

    def run(mode, workdir, *extra):
        code = main([f"--config={config}", f"--workdir={tmp_path / workdir}", f"--mode={mode}", *extra])
        assert code == 0, capsys.readouterr().err

    run("import", "first", f"--checkpoint={tmp_path / 'checkpoint_1'}")
    run("export", "first")
    run("import", "second", f"--checkpoint={tmp_path / 'first' / 'model.safetensors'}")
    run("export", "second")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second
    network = _network(case)
    imported = import_checkpoint(tmp_path / "second" / "model.safetensors", network, SHAPE)
    shapes = expected_shapes(network, SHAPE)
    assert imported.step == 9
    expected = fit(from_flax_names(tree), shapes, "")
    jax.tree.map(np.testing.assert_array_equal, imported.params, expected)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 2 * b), imported.ema_params, expected)


BLOCK = "all_modules.3.Conv_0.weight"
WRONG = {
    "a parameter is missing": (
        lambda entry: None if entry[0] == BLOCK else entry,
        r"no parameter 'ResidualBlock_0/Conv_0/kernel', which the configuration expects with shape \(3, 3, 16, 16\)",
    ),
    "another shape": (
        lambda entry: [entry[0], entry[1], [16, 8, 3, 3]] if entry[0] == BLOCK else entry,
        r"'ResidualBlock_0/Conv_0/kernel' with shape \(3, 3, 8, 16\); the configuration expects \(3, 3, 16, 16\)",
    ),
    "another name": (
        lambda entry: [re.sub("Conv_0", "Konv_0", entry[0]), *entry[1:]] if entry[0] == BLOCK else entry,
        "no parameter 'ResidualBlock_0/Conv_0/kernel'",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_first_parameter_that_does_not_fit_is_named(tmp_path, kind):
    change, message = WRONG[kind]
    case = json.loads(json.dumps(CASES["ncsnpp_vp"]))
    case["names"] = [changed for entry in case["names"] if (changed := change(entry)) is not None]
    _torch_file(tmp_path / "checkpoint.pth", case)
    with pytest.raises(UserError, match=message):
        import_checkpoint(tmp_path / "checkpoint.pth", _network(case), SHAPE)


def test_weights_of_another_architecture_are_refused_and_leave_no_working_directory(tmp_path, capsys):
    _torch_file(tmp_path / "checkpoint.pth", CASES["ncsnpp_vp"])
    workdir = tmp_path / "run"
    arguments = ["--config=configs/vp/digits_ddpmpp.py", f"--workdir={workdir}", "--mode=import"]
    assert main([*arguments, f"--checkpoint={tmp_path / 'checkpoint.pth'}"]) == 2
    assert "the configuration expects" in capsys.readouterr().err
    assert not workdir.exists()
    assert main(arguments) == 2
    assert "--checkpoint=FILE" in capsys.readouterr().err
    assert main([*arguments, f"--checkpoint={tmp_path / 'nowhere.pth'}"]) == 2
    assert "nowhere.pth" in capsys.readouterr().err


def test_other_safetensors_are_refused(tmp_path):
    write_safetensors(tmp_path / "other.safetensors", {"a": np.zeros(2, np.float32)}, {})
    with pytest.raises(UserError, match="not written by --mode=export"):
        import_checkpoint(tmp_path / "other.safetensors", _network(CASES["ncsnpp_vp"]), SHAPE)


def test_other_contents_are_refused_by_what_they_hold(tmp_path):
    network = _network(CASES["ncsnpp_vp"])
    (tmp_path / "list.pth").write_bytes(writer.archive(writer.assemble([1, 2]), {}))
    with pytest.raises(UserError, match="holds a list; expected a checkpoint of score_sde_pytorch"):
        import_checkpoint(tmp_path / "list.pth", network, SHAPE)
    (tmp_path / "flax").write_bytes(msgpack.packb({"params": {"a": 1}}))
    with pytest.raises(UserError, match="holds the entries 'params'; expected a training state of score_sde"):
        import_checkpoint(tmp_path / "flax", network, SHAPE)
