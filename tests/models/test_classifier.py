"""The noise-conditional classifier: its size, what it must not see, and what it must."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.models.classifier import WideResNet, WideResnetBlock, shortcut, standardize_images

SMALL = WideResNet(num_classes=7, num_blocks=2, widening=1, embedding_features=8)


def _jit(function):
    """Compiled in a hurry: these programs run once or twice."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def _images(seed=0, batch=3):
    return jnp.asarray(np.random.RandomState(seed).standard_normal((batch, 8, 8, 3)), jnp.float32)


CONDITION = jnp.array([-2.0, 0.0, 3.0])


@pytest.fixture(scope="module")
def classifier():
    params = _jit(SMALL.init)(jax.random.key(0), _images(), CONDITION)
    return lambda x, condition: SMALL.apply(params, x, condition)


@pytest.fixture(scope="module")
def logits(classifier):
    return _jit(classifier)


def test_the_published_network_has_its_published_size():
    tree = jax.eval_shape(lambda: WideResNet().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jnp.zeros(1)))[
        "params"
    ]
    sizes = {jax.tree_util.keystr(path): leaf.size for path, leaf in jax.tree.leaves_with_path(tree)}
    # The noise embedding with its 128 frequencies, and a dense layer in every block.
    embedding = 2 * 256 * 256 + 512 + 512 * 513 + 128 + 4 * 513 * (160 + 320 + 640)
    assert sum(sizes.values()) - embedding == 36_220_634
    assert embedding == 2_692_608


def test_brightness_and_contrast_of_an_image_do_not_matter(logits):
    x = _images()
    contrast = jnp.array([0.3, 5.0, 20.0])[:, None, None, None]
    np.testing.assert_allclose(logits(contrast * x - 4.0, CONDITION), logits(x, CONDITION), rtol=1e-3, atol=1e-4)
    # The sign of the contrast does.
    assert float(jnp.abs(logits(-x, CONDITION) - logits(x, CONDITION)).max()) > 1e-2


def test_a_standardized_image_has_mean_zero_and_variance_one():
    x = standardize_images(3.0 * _images() + 2.0)
    np.testing.assert_allclose(x.mean(axis=(1, 2, 3)), 0.0, atol=1e-5)
    np.testing.assert_allclose(x.var(axis=(1, 2, 3)), 1.0, rtol=1e-5)
    faint = 1e-3 * _images()  # below the bound on the deviation, 1 / sqrt(192)
    np.testing.assert_allclose(
        standardize_images(faint), (faint - faint.mean(axis=(1, 2, 3), keepdims=True)) * 192**0.5, rtol=1e-4, atol=1e-6
    )


def test_an_example_depends_on_its_own_noise_level_and_not_on_its_neighbors(logits):
    x = _images()
    base = logits(x, CONDITION)
    other = logits(x.at[1:].set(0.5 * x[1:, ::-1]), CONDITION.at[1].set(-4.0))
    np.testing.assert_allclose(other[0], base[0], rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(logits(x, CONDITION.at[0].set(1.0))[0] - base[0]).max()) > 1e-2


@pytest.mark.sweep
@pytest.mark.parametrize("constant", [False, True], ids=["noise", "constant image"])
def test_the_gradient_that_guides_a_sampler_is_finite_and_sums_to_nothing(classifier, constant):
    # Adding a constant to the image changes no logit, so the gradient has mean zero.
    x = jnp.full((3, 8, 8, 3), 0.25) if constant else _images()
    grads = _jit(jax.grad(lambda x: jax.nn.log_softmax(classifier(x, CONDITION))[:, 2].sum()))(x)
    assert bool(jnp.isfinite(grads).all())
    np.testing.assert_allclose(grads.sum(axis=(1, 2, 3)), 0.0, atol=1e-4 * float(jnp.abs(grads).sum()))
    assert bool(jnp.any(grads)) != constant  # the standard deviation of a constant image is held from below


def test_every_weight_but_the_frequencies_is_trained():
    x = _images()
    params = _jit(SMALL.init)(jax.random.key(0), x, CONDITION)
    grads = _jit(jax.grad(lambda p: (SMALL.apply(p, x, CONDITION) ** 2).sum()))(params)
    still = [jax.tree_util.keystr(path) for path, g in jax.tree.leaves_with_path(grads) if not np.any(g)]
    assert still == ["['params']['GaussianFourierProjection_0']['W']"]


def test_the_shortcut_averages_pixels_and_appends_empty_channels():
    x = jnp.arange(8.0).reshape(1, 2, 4, 1)
    output = shortcut(x, jnp.zeros((1, 1, 2, 3)))
    np.testing.assert_allclose(output[0, 0], [[2.5, 0.0, 0.0], [4.5, 0.0, 0.0]])


@pytest.mark.parametrize("activated", [False, True])
def test_a_block_without_convolutions_is_its_shortcut(activated):
    x, embedding = jnp.tile(_images(), (1, 1, 1, 4)), jnp.ones((3, 5))
    block = WideResnetBlock(12, activate_before_shortcut=activated)
    params = block.init(jax.random.key(0), x, embedding)["params"]
    params = {**params, "conv2": jax.tree.map(jnp.zeros_like, params["conv2"])}
    output = block.apply({"params": params}, x, embedding)
    assert bool((output == x).all()) != activated
    assert bool((output >= 0.0).all()) == activated


def test_weights_start_as_published():
    params = _jit(SMALL.init)(jax.random.key(0), _images(), CONDITION)["params"]
    kernel = params["WideResnetGroup_2"]["WideResnetBlock_0"]["conv2"]["kernel"]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2.0 / (9 * 64)), rtol=0.02)
    head = params["Dense_2"]["kernel"]
    assert 0.95 / np.sqrt(7.0) < float(jnp.abs(head).max()) <= 1.0 / np.sqrt(7.0)
    assert float(head.min()) < -0.9 / np.sqrt(7.0)
