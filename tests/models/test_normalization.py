"""The normalizations of the NCSN family against their definitions in float64, and the invariances they are made for."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.models import layers
from score_sde.models.classifier import WideResNet
from score_sde.models.flowpp import FlowPP
from score_sde.models.mlp import MLP
from score_sde.models.ncsn import NCSNv2
from score_sde.models.ncsnpp import NCSNpp
from score_sde.models.normalization import (
    NORMALIZATIONS,
    ConditionalInstanceNorm2dPlus,
    InstanceNorm2d,
    InstanceNorm2dPlus,
    VarianceNorm2d,
)
from tests.laws import float64

CHANNELS = 32  # GroupNorm has 32 groups


def _images(seed=0, channels=CHANNELS, batch=3):
    """Images whose channels differ in mean and scale."""
    random = np.random.RandomState(seed)
    offset, scale = random.standard_normal(channels), np.exp(random.standard_normal(channels))
    return jnp.asarray(offset + scale * random.standard_normal((batch, 5, 6, channels)), jnp.float32)


def _params(module, *inputs):
    """Random parameters of the shapes that the module wants."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"]
    leaves, tree = jax.tree.flatten(shapes)
    return tree.unflatten(
        [jnp.asarray(np.random.RandomState(i).standard_normal(p.shape)) for i, p in enumerate(leaves)]
    )


def _standardized(x):
    return (x - x.mean(axis=(1, 2), keepdims=True)) / np.sqrt(x.var(axis=(1, 2), keepdims=True) + 1e-5)


def _plus(x, alpha, gamma, beta, ddof=0):
    means = x.mean(axis=(1, 2), keepdims=True)
    variance = means.var(axis=-1, keepdims=True, ddof=ddof)
    return (
        gamma * (_standardized(x) + alpha * (means - means.mean(axis=-1, keepdims=True)) / np.sqrt(variance + 1e-5))
        + beta
    )


DEFINITIONS = {
    "InstanceNorm": (InstanceNorm2d(), lambda x, p: _standardized(x) * p["scale"] + p["bias"]),
    "InstanceNorm, no bias": (InstanceNorm2d(bias=False), lambda x, p: _standardized(x) * p["scale"]),
    "VarianceNorm": (
        VarianceNorm2d(),
        lambda x, p: x / np.sqrt(x.var(axis=(1, 2), keepdims=True) + 1e-5) * p["scale"],
    ),
    "VarianceNorm, bias": (
        VarianceNorm2d(bias=True),
        lambda x, p: x / np.sqrt(x.var(axis=(1, 2), keepdims=True) + 1e-5) * p["scale"] + p["bias"],
    ),
    "InstanceNorm++": (InstanceNorm2dPlus(), lambda x, p: _plus(x, p["alpha"], p["gamma"], p["beta"])),
    "InstanceNorm++, no bias": (InstanceNorm2dPlus(bias=False), lambda x, p: _plus(x, p["alpha"], p["gamma"], 0.0)),
    "InstanceNorm++, unbiased": (
        InstanceNorm2dPlus(unbiased=True),
        lambda x, p: _plus(x, p["alpha"], p["gamma"], p["beta"], ddof=1),
    ),
}


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("channels", [2, 8])
def test_a_normalization_is_its_definition(name, channels):
    module, definition = DEFINITIONS[name]
    x = _images(channels=channels)
    params = _params(module, x)
    expected = definition(np.asarray(x, np.float64), jax.tree.map(lambda p: np.asarray(p, np.float64), params))
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NORMALIZATIONS if name != "VarianceNorm"])
def test_brightness_and_contrast_of_a_whole_image_do_not_matter(name):
    module, x = NORMALIZATIONS[name](), _images()
    params = {"params": _params(module, x)}
    np.testing.assert_allclose(module.apply(params, 40.0 * x - 7.0), module.apply(params, x), rtol=1e-2, atol=1e-3)


def test_variance_norm_forgets_the_contrast_and_keeps_the_mean():
    module, x = VarianceNorm2d(), _images()
    params = {"params": _params(module, x)}
    base = module.apply(params, x)
    np.testing.assert_allclose(module.apply(params, 40.0 * x), base, rtol=1e-2, atol=1e-3)
    assert float(jnp.abs(module.apply(params, x + 7.0) - base).max()) > 1.0


@pytest.mark.parametrize(("module", "sees_it"), [(InstanceNorm2d(), False), (InstanceNorm2dPlus(), True)])
def test_only_instance_norm_plus_plus_sees_how_bright_one_channel_is(module, sees_it):
    x = _images()
    params = {"params": _params(module, x)}
    difference = jnp.abs(module.apply(params, x.at[..., 3].add(2.0)) - module.apply(params, x)).max()
    assert (float(difference) > 0.1) == sees_it


def test_gains_start_around_one_and_shifts_at_zero():
    x = jnp.zeros((1, 2, 2, 4096))
    params = InstanceNorm2dPlus().init(jax.random.key(0), x)["params"]
    table = ConditionalInstanceNorm2dPlus(3).init(jax.random.key(0), x, jnp.zeros(1, jnp.int32))["params"]
    embedding = table["Embed_0"]["embedding"]
    scale = VarianceNorm2d().init(jax.random.key(0), x)["params"]["scale"]
    for gains in (params["alpha"], params["gamma"], embedding[:, :8192], scale):
        # The standard error of the mean is 3e-4, that of the standard deviation 2e-4.
        np.testing.assert_allclose([gains.mean(), gains.std()], [1.0, 0.02], atol=1.5e-3)
    assert float(jnp.abs(params["alpha"] - params["gamma"]).max()) > 0.01
    np.testing.assert_array_equal(params["beta"], 0.0)
    np.testing.assert_array_equal(embedding[:, 8192:], 0.0)


@pytest.mark.parametrize("unbiased", [False, True])
def test_the_conditional_norm_is_the_unconditional_one_with_the_weights_of_the_class(unbiased):
    x, labels = _images(), jnp.array([2, 0, 2])
    module = ConditionalInstanceNorm2dPlus(3, unbiased=unbiased)
    params = _params(module, x, labels)
    output = module.apply({"params": params}, x, labels)
    for i, label in enumerate(labels):
        gamma, alpha, beta = jnp.split(params["Embed_0"]["embedding"][label], 3)
        weights = {"params": {"gamma": gamma, "alpha": alpha, "beta": beta}}
        expected = InstanceNorm2dPlus(unbiased=unbiased).apply(weights, x[i : i + 1])
        np.testing.assert_allclose(output[i : i + 1], expected, rtol=1e-5, atol=1e-5)


def test_a_class_that_does_not_exist_is_not_passed_over():
    x = _images(batch=2)
    module = ConditionalInstanceNorm2dPlus(3)
    output = module.apply({"params": _params(module, x, jnp.zeros(2, jnp.int32))}, x, jnp.array([2, 3]))
    assert bool(jnp.isfinite(output[0]).all())
    assert bool(jnp.isnan(output[1]).all())


@pytest.mark.parametrize("offset", [60.0, -120.0])
@pytest.mark.parametrize("name", [name for name in (*NORMALIZATIONS, "ours") if name != "VarianceNorm"])
def test_what_is_small_beside_the_mean_is_not_lost(name, offset):
    """One image and the same with a distant mean are normalized alike: squares are taken about the mean."""
    fine = jnp.round(_images() * 16.0) / 4096.0  # of so few digits that the sum below is exact
    module = layers.GroupNorm() if name == "ours" else NORMALIZATIONS[name]()
    params = _params(module, fine)
    near, far = (module.apply({"params": params}, x) for x in (fine, fine + offset))
    np.testing.assert_allclose(far, near, atol=0.03 * float(jnp.std(near)))


def test_the_gradient_of_group_normalization_is_that_of_its_definition():
    def reference(x):
        groups = x.reshape(3, 5, 6, 8, 4)
        axes = {"axis": (1, 2, 4), "keepdims": True}
        return ((groups - groups.mean(**axes)) / jnp.sqrt(groups.var(**axes) + 1e-6)).reshape(x.shape)

    with float64():
        x, weight = _images().astype(jnp.float64), _images(1)
        ones = {"scale": jnp.ones(CHANNELS), "bias": jnp.zeros(CHANNELS)}
        ours = jax.grad(lambda x: jnp.sum(weight * layers.GroupNorm().apply({"params": ones}, x)))(x)
        np.testing.assert_allclose(ours, jax.grad(lambda x: jnp.sum(weight * reference(x)))(x), rtol=1e-9, atol=1e-9)


def test_no_network_takes_a_variance_for_a_difference_of_mean_squares():
    """Flax does so unless it is told not to."""
    fast = []

    def note(call, args, kwargs, context):
        if getattr(context.module, "use_fast_variance", False):
            fast.append(type(context.module).__name__)
        return call(*args, **kwargs)

    image, vector, one = jnp.zeros((1, 8, 8, 4)), jnp.zeros((1, 3)), jnp.zeros(1)
    cases = [
        (MLP(features=8, num_blocks=1), (vector, one)),
        (NCSNpp(features=8, channel_multipliers=(1,), num_blocks=1, attention_resolutions=(8,)), (image, one)),
        (NCSNv2(features=32, normalization="GroupNorm"), (image, one)),
        (WideResNet(num_classes=2, num_blocks=1, widening=1, embedding_features=8), (image, one)),
        (FlowPP(filters=4, components=2, blocks=1, num_flows=1, heads=1, context_features=4), (image, image)),
    ]
    for module, inputs in cases:
        with nn.intercept_methods(note):
            jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))  # noqa: B023 -- called at once
    assert not fast
