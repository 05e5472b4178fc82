"""Published checkpoints: the networks of the originals with their weights give the originals' outputs."""

import json
import re

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.interop import write_safetensors
from score_sde.interop.checkpoints import export_checkpoint, import_checkpoint
from score_sde.interop.convert import (
    _unet_torch_names,
    expected_shapes,
    fit,
    flatten,
    from_flax_names,
    from_torch_names,
)
from score_sde.interop.safetensors_files import read_safetensors
from score_sde.models.adapters import LinenNetwork
from tests.interop import originals
from tests.interop import torch_writer as writer


def _output(case, network, params, name):
    with np.load(originals.DATA / "unets.npz") as file:
        x, labels, expected = (file[f"{name}/{key}"] for key in ("x", "labels", "out"))
    model = case["model"]
    fourier = model["embedding_type"] == "fourier"
    condition = np.log(labels) if fourier else np.asarray(labels, np.float32)
    output = np.asarray(jax.jit(network.apply)(params, jnp.asarray(x), jnp.asarray(condition)))
    if model["scale_by_sigma"]:
        sigmas = np.geomspace(model["sigma_max"], model["sigma_min"], model["num_scales"])
        output = output / (labels if fourier else sigmas[labels])[:, None, None, None]
    return np.abs(output - expected).max() / np.abs(expected).max()


@pytest.mark.sweep
@pytest.mark.parametrize("name", originals.CASES)
def test_the_network_with_the_original_weights_gives_the_original_output(name):
    case, network = originals.CASES[name], originals.network(originals.CASES[name])
    shapes = expected_shapes(network, originals.SHAPE)
    params = fit(from_torch_names(originals.torch_state(case), shapes), shapes, "the state dict")
    assert _output(case, network, params, name) < 5e-6
    # The Flax names lead to the same tree, so its output needs no second look.
    jax.tree.map(
        np.testing.assert_array_equal, fit(from_flax_names(originals.flax_tree(case)), shapes, "the tree"), params
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpmpp", "ncsnpp_ve_skip", "ddpm_vp"])
def test_bfloat16_is_within_two_percent_of_the_original(name):
    case, network = originals.CASES[name], originals.network(originals.CASES[name])
    shapes = expected_shapes(network, originals.SHAPE)
    params = fit(from_torch_names(originals.torch_state(case), shapes), shapes, "the state dict")
    assert 1e-4 < _output(case, LinenNetwork(network.module, "bfloat16"), params, name) < 2e-2


@pytest.mark.sweep
@pytest.mark.parametrize("layout", writer.LAYOUTS)
def test_a_pytorch_checkpoint_gives_model_average_and_step(tmp_path, layout):
    case, network = originals.CASES["ncsnpp_ve"], originals.network(originals.CASES["ncsnpp_ve"])
    averaged = originals.torch_file(tmp_path / "checkpoint.pth", case, layout=layout)
    imported = import_checkpoint(tmp_path / "checkpoint.pth", network, originals.SHAPE)
    shapes = expected_shapes(network, originals.SHAPE)
    raw = from_torch_names(originals.torch_state(case), shapes)
    ema = from_torch_names(originals.torch_state(case) | averaged, shapes)
    assert imported.step == 7
    jax.tree.map(np.testing.assert_array_equal, imported.params, fit(raw, shapes, ""))
    jax.tree.map(np.testing.assert_array_equal, imported.ema_params, fit(ema, shapes, ""))
    frequencies = flatten(imported.ema_params)["TimeEmbedding_0/FourierEmbedding_0/W"]
    np.testing.assert_array_equal(frequencies, flatten(imported.params)["TimeEmbedding_0/FourierEmbedding_0/W"])


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
    case = json.loads(json.dumps(originals.CASES["ncsnpp_vp"]))
    case["names"] = [changed for entry in case["names"] if (changed := change(entry)) is not None]
    originals.torch_file(tmp_path / "checkpoint.pth", case)
    with pytest.raises(UserError, match=message):
        import_checkpoint(tmp_path / "checkpoint.pth", originals.network(case), originals.SHAPE)


def test_the_unused_frequencies_of_a_network_without_embedding_are_passed_over():
    """The originals make them whenever the embedding is called fourier, also for an unconditional network."""
    case = json.loads(json.dumps(originals.CASES["ncsnpp_ve"]))
    case["model"]["embedding_type"] = "none"
    shapes = expected_shapes(originals.network(case), originals.SHAPE)
    places = {path: name for name, path in _unet_torch_names(shapes).items()}
    rng, state, expected = np.random.RandomState(0), {"all_modules.0.W": np.ones(16, np.float32)}, {}
    for path, shape in shapes.items():
        rank, rest = places[path].split(".", 1)
        expected[path] = rng.randn(*shape).astype(np.float32)
        turned = path.endswith("/kernel") and rest.endswith("weight")
        axes = ((3, 2, 0, 1) if len(shape) == 4 else (1, 0)) if turned else range(len(shape))
        state[f"all_modules.{int(rank) + 1}.{rest}"] = expected[path].transpose(axes)
    params = fit(from_torch_names(state, shapes), shapes, "the state dict")
    jax.tree.map(np.testing.assert_array_equal, flatten(params), expected)
    tree = {"GaussianFourierProjection_0": {"W": np.ones(16, np.float32)}}
    named = from_flax_names(tree) | expected
    jax.tree.map(np.testing.assert_array_equal, flatten(fit(named, shapes, "the tree")), expected)


def test_other_safetensors_are_refused(tmp_path):
    write_safetensors(tmp_path / "other.safetensors", {"a": np.zeros(2, np.float32)}, {})
    with pytest.raises(UserError, match="no whole number as score_sde_step in its metadata"):
        import_checkpoint(
            tmp_path / "other.safetensors", originals.network(originals.CASES["ncsnpp_vp"]), originals.SHAPE
        )


BIAS = "ResidualBlock_0/Conv_0/bias"


def _renamed(tensors, old, new):
    return {name.replace(old, new): value for name, value in tensors.items()}


# What is done to the arrays and the step of a file that was exported, and what must be said.
NOT_OURS = {
    "a step beyond any": (lambda t: t, "1" + 12 * "0", "has the step 1000000000000; expected a whole number from 0"),
    "a step of many digits": (lambda t: t, "9" * 5000, "no whole number as score_sde_step"),
    "a step that is no number": (lambda t: t, "abc", "no whole number as score_sde_step"),
    "a negative step": (lambda t: t, "-5", "no whole number as score_sde_step"),
    "digits of another script": (lambda t: t, "\u0663", "no whole number as score_sde_step"),
    "another array": (lambda t: t | {"extra.w": np.zeros(2, np.float32)}, "9", "has the array 'extra.w'"),
    "a leading one": (
        lambda t: t | {f"ema_params/{BIAS}": t[f"ema_params/{BIAS}"][None]},
        "9",
        rf"'ema_params/{BIAS}' with shape \(1, 16\); the configuration expects \(16,\)",
    ),
    "no average": (
        lambda t: {n: v for n, v in t.items() if not n.startswith("ema_params/")},
        "9",
        "no array under ema_params/; expected the average",
    ),
    "one parameter less": (
        lambda t: {n: v for n, v in t.items() if n != f"params/{BIAS}"},
        "9",
        f"no parameter 'params/{BIAS}'",
    ),
    "another name": (
        lambda t: _renamed(t, BIAS, BIAS.replace("Conv", "Konv")),
        "9",
        f"no parameter 'params/{BIAS}', which .* Did you mean 'params/",
    ),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network and the arrays of a file that was exported of it."""
    case, path = originals.CASES["ncsnpp_vp"], tmp_path_factory.mktemp("exported") / "model.safetensors"
    shapes = expected_shapes(originals.network(case), originals.SHAPE)
    params = fit(from_torch_names(originals.torch_state(case), shapes), shapes, "")
    export_checkpoint(path, params, params, 9)
    return originals.network(case), read_safetensors(path)[0]


@pytest.mark.sweep
@pytest.mark.parametrize("kind", NOT_OURS)
def test_a_file_that_is_not_as_we_export_it_is_refused_by_what_is_wrong_with_it(tmp_path, exported, kind):
    (network, tensors), (change, step, message) = exported, NOT_OURS[kind]
    path = tmp_path / "changed.safetensors"
    write_safetensors(path, tensors, {"score_sde_step": "9"})
    assert import_checkpoint(path, network, originals.SHAPE).step == 9
    write_safetensors(path, change(tensors), {"score_sde_step": step})
    with pytest.raises(UserError, match=message):
        import_checkpoint(path, network, originals.SHAPE)


def test_a_type_that_does_not_hold_a_parameter_is_refused_by_the_name_of_the_parameter(tmp_path):
    large = {"Dense_0": {"bias": np.full(2, -7e4, np.float32)}}
    with pytest.raises(UserError, match=r"'params/Dense_0/bias' has values up to 7e\+04, and .*float16 holds none"):
        export_checkpoint(tmp_path / "model.safetensors", large, large, 9, dtype="float16")
    assert not (tmp_path / "model.safetensors").exists()


def test_other_contents_are_refused_by_what_they_hold(tmp_path):
    network = originals.network(originals.CASES["ncsnpp_vp"])
    (tmp_path / "list.pth").write_bytes(writer.archive(writer.assemble([1, 2]), {}))
    with pytest.raises(UserError, match="holds a list; expected a checkpoint of score_sde_pytorch"):
        import_checkpoint(tmp_path / "list.pth", network, originals.SHAPE)
    (tmp_path / "flax").write_bytes(msgpack.packb({"params": {"a": 1}}))
    with pytest.raises(UserError, match="holds the entries 'params'; expected a training state of score_sde"):
        import_checkpoint(tmp_path / "flax", network, originals.SHAPE)
