"""The classifier of CIFAR-10 that is published with score_sde: its names and shapes, and the images that it takes."""

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.cli import main
from score_sde.errors import UserError
from score_sde.interop.checkpoints import import_classifier
from score_sde.interop.convert import expected_shapes, flatten, unflatten
from score_sde.models.adapters import LinenClassifier
from score_sde.models.classifier import Cifar10Classifier, WideResNet


def published_shapes(blocks=4, widening=10):
    """Parameters of the original by path: WRN-28-10 by default."""
    shapes = {"GaussianFourierProjection_0/W": (128,), "init_conv/kernel": (3, 3, 3, 16)}
    shapes |= {f"Dense_{index}/kernel": (width, 512) for index, width in enumerate((256, 512))}
    shapes |= {"Dense_2/kernel": (64 * widening, 10), "Dense_2/bias": (10,)}
    shapes |= {f"Dense_{index}/bias": (512,) for index in (0, 1)}
    shapes |= {f"pre-pool-bn/{name}": (64 * widening,) for name in ("scale", "bias")}
    before = 16
    for group, channels in enumerate((16 * widening, 32 * widening, 64 * widening)):
        for block in range(blocks):
            at = f"WideResnetGroup_{group}/WideResnetBlock_{block}/"
            shapes |= {f"{at}init_bn/{name}": (before,) for name in ("scale", "bias")}
            shapes |= {f"{at}bn_2/{name}": (channels,) for name in ("scale", "bias")}
            shapes |= {f"{at}conv1/kernel": (3, 3, before, channels), f"{at}conv2/kernel": (3, 3, channels, channels)}
            shapes |= {f"{at}Dense_0/kernel": (512, channels), f"{at}Dense_0/bias": (channels,)}
            before = channels
    return shapes


def swapped(shapes):
    """Our names: the second layer of the noise embedding is called first."""
    ours = {f"Dense_{i}/{name}": f"Dense_{1 - i}/{name}" for i in (0, 1) for name in ("kernel", "bias")}
    return {ours.get(name, name): shape for name, shape in shapes.items()}


def state(shapes, **changes):
    rng = np.random.RandomState(0)
    return unflatten({name: rng.randn(*shape).astype(np.float32) for name, shape in (shapes | changes).items()})


SMALL = WideResNet(num_blocks=1, widening=1)


def file_of(tree, tmp_path):
    path = tmp_path / "checkpoint_1"
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    return path


def test_our_parameters_are_the_published_ones():
    shapes = swapped(published_shapes())
    assert expected_shapes(LinenClassifier(WideResNet(), 10), (32, 32, 3)) == shapes
    assert sum(np.prod(shape) for shape in shapes.values()) == 38_913_242


@pytest.mark.parametrize("wrap", [lambda tree: tree, lambda tree: {"params": tree}])
def test_a_checkpoint_comes_back_by_names(wrap, tmp_path):
    tree = state(published_shapes(1, 1))
    found = import_classifier(file_of(wrap(tree), tmp_path), LinenClassifier(SMALL, 10), (32, 32, 3))
    ours = unflatten(swapped(flatten(tree)))
    assert jax.tree.structure(found) == jax.tree.structure(ours)
    jax.tree.map(np.testing.assert_array_equal, found, ours)


def test_another_network_is_told(tmp_path):
    path = file_of(state(published_shapes(1, 1), **{"Dense_2/bias": (7,)}), tmp_path)
    with pytest.raises(
        UserError, match=r"parameter 'Dense_2/bias' with shape \(7,\); the configuration expects \(10,\)"
    ):
        import_classifier(path, LinenClassifier(SMALL, 10), (32, 32, 3))


def convolved(x, kernel, stride):
    """A 3 x 3 convolution, padded to ``ceil(n / stride)`` pixels as evenly as there are pixels, the rest at the end."""
    missing = max((-(-x.shape[1] // stride) - 1) * stride + 3 - x.shape[1], 0)
    sides = (missing // 2, missing - missing // 2)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), sides, sides, (0, 0))), (3, 3), axis=(1, 2))
    return np.einsum("nhwcij,ijcd->nhwd", windows[:, ::stride, ::stride], kernel)


def normalized(x, norm):
    """Group normalization (Wu & He 2018, eq. 1 and 2) and ReLU."""
    groups = min(x.shape[-1] // 4, 32)
    parts = x.reshape(*x.shape[:3], groups, -1)
    mean, variance = (f(parts, axis=(1, 2, 4), keepdims=True) for f in (np.mean, np.var))
    unit = ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    return np.maximum(unit * norm["scale"] + norm["bias"], 0.0)


def swish(x):
    return x / (1.0 + np.exp(-x))


def dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def residual(x, block, embedding, stride):
    """``W_2 r(W_1 r(x) + e)`` with ``r`` normalization and ReLU (He et al. 2016, identity mappings, figure 4e)."""
    h = convolved(normalized(x, block["init_bn"]), block["conv1"]["kernel"], stride)
    h = h + dense(swish(embedding), block["Dense_0"])[:, None, None]
    return convolved(normalized(h, block["bn_2"]), block["conv2"]["kernel"], 1)


def embedded(log_sigma, tree):
    """Song et al. 2021, appendix C: sines and cosines of ``2 pi w log sigma``, and two dense layers, named in order."""
    angles = 2.0 * np.pi * log_sigma[:, None] * tree["GaussianFourierProjection_0"]["W"]
    first = dense(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), tree["Dense_0"])
    return dense(swish(first), tree["Dense_1"])


def published_logits(x, log_sigma, tree):
    """``x_{l+1} = x_l + F(x_l)`` (Zagoruyko & Komodakis 2016, eq. 1), in double precision and by the published names.

    A step to fewer pixels averages pairs of them, and new channels are zero. The first shortcut starts after ReLU.
    """
    embedding, size = embedded(log_sigma, tree), x[0].size
    center, deviation = (f(x, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
    h = convolved((x - center) / np.maximum(deviation, size**-0.5), tree["init_conv"]["kernel"], 1)
    for group in range(3):
        blocks = tree[f"WideResnetGroup_{group}"]
        for index in range(len(blocks)):
            block, stride = blocks[f"WideResnetBlock_{index}"], 2 if group and not index else 1
            kept = h if group or index else normalized(h, block["init_bn"])
            change = residual(h, block, embedding, stride)
            kept = sum(kept[:, i::stride, j::stride] for i in range(stride) for j in range(stride)) / stride**2
            change[..., : kept.shape[-1]] += kept
            h = change
    return dense(normalized(h, tree["pre-pool-bn"]).mean(axis=(1, 2)), tree["Dense_2"])


def test_published_weights_have_the_logits_of_the_published_equations(tmp_path):
    """Two blocks in a group, images of 8 x 8 pixels; weights of the usual size, so that every layer matters."""
    blocks, widening = 2, 2
    tree = {
        name: value / np.sqrt(np.prod(value.shape[:-1])) if value.ndim > 1 else value
        for name, value in flatten(state(published_shapes(blocks, widening))).items()
    }
    network = LinenClassifier(WideResNet(num_blocks=blocks, widening=widening), 10)
    params = import_classifier(file_of(unflatten(tree), tmp_path), network, (32, 32, 3))
    rng = np.random.RandomState(1)
    x, log_sigma = rng.rand(3, 8, 8, 3), np.log([0.01, 0.5, 20.0])
    expected = published_logits(x, log_sigma, unflatten({name: np.float64(value) for name, value in tree.items()}))
    found = network.logits(params, jnp.asarray(x, jnp.float32), jnp.asarray(log_sigma, jnp.float32))
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


class Seen(nn.Module):
    """Logits that are the image and the noise themselves."""

    @nn.compact
    def __call__(self, x, condition):
        return jnp.concatenate([x.reshape(len(x), -1), condition[:, None]], axis=1)


def test_the_network_sees_standardized_channels_and_the_noise_of_images_from_zero_to_one():
    from_zero, centered = (Cifar10Classifier(Seen(), 10, centered) for centered in (False, True))
    x, condition = jax.random.uniform(jax.random.key(0), (2, 4, 4, 3)), jnp.array([-1.0, 0.5])
    seen = from_zero.logits({}, x, condition)
    np.testing.assert_allclose(centered.logits({}, 2.0 * x - 1.0, condition + jnp.log(2.0)), seen, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(seen[:, -1], condition)
    # The mean and the deviations of the training images, which become 0 and 1.
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    for image, value in ((mean, 0.0), (mean + std, 1.0)):
        flat = from_zero.logits({}, jnp.full((1, 1, 1, 3), jnp.asarray(image, jnp.float32)), condition[:1])[0, :-1]
        np.testing.assert_allclose(flat, value, atol=1e-3)


@pytest.mark.slow
def test_it_guides_images_of_its_own_shape_alone(trained, tmp_path, capsys):
    path = file_of(state(published_shapes(1, 1)), tmp_path)
    flags = [f"--config.conditioning.classifier={path}", f"--out={tmp_path}"]
    assert main([f"--workdir={trained}", "--mode=sample", *flags]) == 2
    said = capsys.readouterr().err
    assert "is of data of shape (2,); expected images of (32, 32, 3), or a directory of" in said


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of points."""
    workdir = tmp_path_factory.mktemp("points")
    few = {"num_steps": 1, "batch_size": 4, "log_every": 1, "eval_every": 1, "checkpoint_every": 1}
    fields = {"data.name": "toy:rings", "model.name": "mlp", "model.features": 8, "likelihood.batch_size": 5000}
    fields |= {f"training.{name}": value for name, value in few.items()}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    assert main(["--config=configs/default.py", f"--workdir={workdir}", "--mode=train", *overrides]) == 0
    return workdir
