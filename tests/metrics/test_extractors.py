"""What holds for every extractor, the layers they are made of, the shipped classifiers, and the registry."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from sklearn.datasets import load_digits

from score_sde.data import load_source
from score_sde.errors import UserError
from score_sde.interop import read_safetensors, write_safetensors
from score_sde.metrics.extractors import EXTRACTORS, Extractor, make_extractor
from score_sde.metrics.extractors import classifier as classifiers
from score_sde.metrics.extractors.base import NO_WEIGHTS, ImageExtractor, make_pixels
from score_sde.metrics.extractors.classifier import ARCHITECTURES, WEIGHTS, make_classifier
from score_sde.metrics.extractors.layers import (
    Layer,
    Tensors,
    convolve,
    convolve_each,
    fold,
    kernels_of,
    mean_pool,
    tensors_of,
    to_rgb,
)

OWN = {
    "pixels": lambda: make_pixels((5, 4, 3), 256, batch_size=4),
    **{
        f"classifier-{data}": lambda data=data: make_classifier(data, batch_size=4)  # fewer than the images below
        for data in ARCHITECTURES
    },
}
each_extractor = pytest.mark.parametrize("make", OWN.values(), ids=OWN)


def draw(extractor, count):
    return np.random.RandomState(0).randint(0, extractor.num_levels, (count, *extractor.shape)).astype(np.uint8)


@each_extractor
def test_features_of_an_image_are_the_same_in_every_batch(make):
    extractor = make()
    images = draw(extractor, 11)
    together = extractor(images)
    assert together.features.dtype == np.float32 and together.features.shape == (11, extractor.num_features)
    order = np.random.RandomState(1).permutation(11)
    assert_same_but_for_rounding(extractor(images[order]).features, together.features[order])
    for index in (0, 6, 10):
        alone = extractor(images[index : index + 1])
        assert_same_but_for_rounding(alone.features[0], together.features[index])
        if together.logits is not None:
            assert_same_but_for_rounding(alone.logits[0], together.logits[index])


def assert_same_but_for_rounding(found, expected):
    """The kernels of some processors sum in an order that depends on the place of an image in its batch."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@each_extractor
def test_an_extractor_says_what_it_is(make):
    extractor = make()
    assert isinstance(extractor, Extractor)
    empty = extractor(np.zeros((0, *extractor.shape), np.uint8))
    assert empty.features.shape == (0, extractor.num_features)
    assert (empty.logits is None) == (extractor.num_classes is None)


@each_extractor
def test_images_of_another_kind_are_refused(make):
    extractor = make()
    with pytest.raises(UserError, match=r"given images of shape \(9, 9, 1\), expected"):
        extractor(np.zeros((2, 9, 9, 1), np.uint8))


def test_levels_that_the_data_do_not_have_are_refused():
    with pytest.raises(UserError, match="the level 255, expected levels below 17"):
        make_classifier("digits")(np.full((1, 8, 8, 1), 255, np.uint8))


def test_one_program_serves_batches_of_all_sizes():
    traced = []

    def forward(params, images):
        traced.append(images.shape)
        return images.astype("float32").mean((1, 2)) * params, None

    extractor = ImageExtractor(
        name="mean",
        sha256=NO_WEIGHTS,
        num_features=3,
        num_classes=None,
        forward=forward,
        params=np.float32(2),
        shape=(4, 4, 3),
        num_levels=256,
        batch_size=4,
    )
    for count in (1, 4, 5, 13):
        images = draw(extractor, count)
        np.testing.assert_allclose(extractor(images).features, 2 * images.mean((1, 2)), rtol=1e-6)
    assert traced == [(4, 4, 4, 3)]


@pytest.mark.sweep
@pytest.mark.parametrize(("size", "stride"), [((7, 6), 1), ((7, 6), 2), ((1, 4), 2)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_shifted_images_sum_to_a_grouped_convolution(size, stride, kernel):
    rng = np.random.RandomState(0)
    x, weights = (jnp.asarray(rng.randn(*shape), jnp.float32) for shape in ((2, *size, 3), (kernel, kernel, 1, 3)))
    bias = jnp.asarray(rng.randn(3), jnp.float32)
    numbers = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(
        x, weights, (stride, stride), "SAME", dimension_numbers=numbers, feature_group_count=3
    ) + bias.reshape(1, 1, 1, 3)
    np.testing.assert_allclose(convolve_each(x, weights, bias, stride=stride), expected, atol=2e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 4)])
def test_means_do_not_count_what_lies_outside(size):
    x = np.random.RandomState(0).randn(2, *size, 3).astype(np.float32)

    def total(array):
        return scipy.ndimage.correlate(array, np.ones((1, 3, 3, 1)), mode="constant")

    np.testing.assert_allclose(mean_pool(jnp.asarray(x)), total(x) / total(np.ones_like(x)), atol=1e-5)


def test_a_folded_convolution_is_the_convolution_then_the_normalization():
    rng = np.random.RandomState(0)
    names = Tensors("conv.weight", "bn")
    kernels = kernels_of(lambda conv, x: conv(Layer("conv", 5, (3, 3)), x), (6, 6, 2))
    shapes = tensors_of(kernels, lambda name: names)
    tensors = {name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in shapes.items()}
    x = jnp.asarray(rng.randn(1, 6, 6, 2), jnp.float32)
    plain = convolve(x, jnp.asarray(tensors["conv.weight"].transpose(2, 3, 1, 0)), jnp.zeros(5))
    weight, bias, mean, variance = (tensors[f"bn.{p}"] for p in ("weight", "bias", "running_mean", "running_var"))
    expected = (np.asarray(plain) - mean) / np.sqrt(variance + 0.1) * weight + bias
    kernel, folded_bias = fold(tensors, names, epsilon=0.1)
    np.testing.assert_allclose(convolve(x, jnp.asarray(kernel), jnp.asarray(folded_bias)), expected, atol=2e-5)


def test_gray_images_get_three_equal_channels():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(to_rgb(x), np.repeat(np.asarray(x), 3, axis=-1))
    np.testing.assert_array_equal(to_rgb(to_rgb(x)), to_rgb(x))


# The shipped classifiers.


@pytest.mark.parametrize("data", ARCHITECTURES)
def test_shipped_weights_are_small_and_named_by_their_hash(data):
    path = WEIGHTS / f"{data}.safetensors"
    assert path.stat().st_size <= 300_000
    assert make_classifier(data).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_digits_classifier_knows_the_digits_it_was_not_trained_on():
    source = load_source("digits", "test")
    index = np.arange(len(source))
    logits = make_classifier("digits")(source.gather(index)).logits
    assert np.mean(logits.argmax(axis=1) == source.labels(index)) >= 0.97


def test_the_mnist_classifier_knows_digits_of_another_origin():
    # Those of scikit-learn, which other people wrote, in the format of MNIST: 20 pixels high, in the middle of 28.
    digits = load_digits()
    large = scipy.ndimage.zoom(digits.images[:400] / 16, (1, 2.5, 2.5), order=1)
    images = np.pad(np.round(255 * np.clip(large, 0, 1)), ((0, 0), (4, 4), (4, 4))).astype(np.uint8)[..., None]
    logits = make_classifier("mnist")(images).logits
    assert np.mean(logits.argmax(axis=1) == digits.target[:400]) > 0.7


def test_weights_of_ones_own_make_an_extractor_of_another_hash(tmp_path):
    tensors, metadata = read_safetensors(WEIGHTS / "digits.safetensors")
    path = tmp_path / "mine.safetensors"
    write_safetensors(path, {name: 2 * array for name, array in tensors.items()}, metadata)
    mine = make_extractor("classifier-digits", shape=(8, 8, 1), num_levels=17, weights=path)
    assert mine.sha256 != make_classifier("digits").sha256
    with pytest.raises(UserError, match="does not hold the weights of classifier-mnist"):
        make_classifier("mnist", weights=path)


# The registry.


def test_auto_takes_the_classifier_of_the_data_set_or_else_what_there_is(monkeypatch, tmp_path):
    assert make_extractor("auto", source="mnist", shape=(28, 28, 1), num_levels=256).name == "classifier-mnist"
    monkeypatch.setattr(classifiers, "ARCHITECTURES", {})
    assert make_extractor("auto", source="digits", shape=(8, 8, 1), num_levels=17).name == "pixels"
    with pytest.raises(UserError, match="for extractor inception-2015"):
        make_extractor("auto", source="cifar10", shape=(32, 32, 3), num_levels=256, weights=tmp_path / "none.pth")


def test_an_unknown_name_is_answered_with_the_nearest_one():
    with pytest.raises(UserError, match="Did you mean 'inception-2015'"):
        make_extractor("inception2015", shape=(32, 32, 3), num_levels=256)
    with pytest.raises(UserError, match="Did you mean 'digits'"):
        make_classifier("digit")


@pytest.mark.parametrize("name", EXTRACTORS)
def test_data_that_are_no_images_are_refused(name):
    with pytest.raises(UserError, match=f"Extractor {name}.* cannot take data of shape"):
        make_extractor(name, shape=(2,), num_levels=None)


@pytest.mark.parametrize("name", [name for name in EXTRACTORS if name not in ("pixels", "classifier-digits")])
def test_images_of_other_levels_are_refused(name):
    with pytest.raises(UserError, match=f"Extractor {name}.* cannot take .* with 17 levels"):
        make_extractor(name, shape=(28, 28, 1), num_levels=17)


def test_pixels_take_no_weights(tmp_path):
    with pytest.raises(UserError, match="has no weights, and was given"):
        make_extractor("pixels", shape=(8, 8, 1), num_levels=17, weights=tmp_path / "weights.pth")
