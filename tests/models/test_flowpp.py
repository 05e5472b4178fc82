"""The flow of the dequantizer: a bijection with the density that it says it has, at any values of its parameters."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.config import default_config
from score_sde.errors import UserError
from score_sde.keys import example_keys
from score_sde.models.adapters import LinenDequantizer
from score_sde.models.flowpp import ActNorm, ChannelMix, Coupling, FlowPP
from score_sde.models.logistic_mixture import MIN_LOG_SCALE, LogisticMixture, inverse_logit_cdf, logit_cdf
from score_sde.models.registry import make_dequantizer

SMALL = {"filters": 4, "components": 3, "blocks": 1, "num_flows": 2, "heads": 2, "context_features": 4}
SHAPE = (2, 2, 3)


def _perturbed(params, dtype=None, scale=0.1):
    """Parameters well away from the identity that a flow starts at."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    moved = [leaf + scale * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, [leaf.astype(dtype or leaf.dtype) for leaf in moved])


def _compiled(function, **options):
    """Under jit, because a flow takes seconds operation by operation; unoptimized, because it runs once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)


@functools.cache
def _flow(shape):
    """A small flow with parameters, in float32."""
    module, example = FlowPP(**SMALL), jnp.zeros((1, *shape))
    return module, _perturbed(_compiled(module.init)(jax.random.key(0), example, example)["params"])


@pytest.fixture(params=[jnp.float32, jnp.float64], ids=["float32", "float64"])
def precision(request):
    """Types and their tolerance."""
    with jax.enable_x64(request.param == jnp.float64):
        yield request.param, 1e-8 if request.param == jnp.float64 else 2e-4


def test_the_sizes_of_the_original_are_the_defaults():
    fields = dict(default_config().dequantizer) | {"name": "flowpp"}
    dequantizer = make_dequantizer(fields, (32, 32, 3), 256)
    params = jax.eval_shape(lambda key: dequantizer.init(key, (1, 32, 32, 3)), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 3_466_976


def _mixture(key, shape, dtype):
    logits, means, log_scales = (scale * jax.random.normal(k, (*shape, 5)).astype(dtype) for k, scale in key)
    return LogisticMixture.of(logits, means, log_scales)


@pytest.mark.sweep
def test_the_transform_by_a_mixture_is_increasing_and_its_inverse_undoes_it(precision, key):
    dtype, tolerance = precision
    mixture = _mixture(zip(jax.random.split(key, 3), (1.0, 1.5, 0.5), strict=True), (400,), dtype)
    x = jnp.linspace(-12.0, 12.0, 400, dtype=dtype)
    y, log_slope = _compiled(logit_cdf)(mixture, x)
    np.testing.assert_allclose(_compiled(inverse_logit_cdf)(mixture, y), x, atol=tolerance)
    slope = _compiled(jax.grad(lambda x: logit_cdf(mixture, x)[0].sum()))(x)  # elementwise
    np.testing.assert_allclose(log_slope, jnp.log(slope), atol=tolerance)


def test_far_from_its_components_a_mixture_is_an_affine_map():
    """In the tail the widest component is all there is: y = (x - mu) / s + log w, with nothing lost to rounding."""
    mixture = LogisticMixture.of(jnp.log(jnp.array([0.9, 0.1])), jnp.array([0.0, 1.0]), jnp.array([-9.0, 0.0]))
    assert float(mixture.log_scales.min()) == MIN_LOG_SCALE
    for x in (-80.0, 80.0):
        sign = math.copysign(1.0, x)
        y, log_slope = logit_cdf(mixture, jnp.asarray(x))
        np.testing.assert_allclose(float(y), (x - 1.0) - sign * math.log(0.1), rtol=1e-6)
        np.testing.assert_allclose(float(log_slope), 0.0, atol=1e-5)
        gradients = jax.grad(lambda m, x=x: sum(logit_cdf(m, jnp.asarray(x))))(mixture)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in gradients)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "layer", [ActNorm(2.0), ChannelMix(), Coupling(4, 3, 1, 2, 0.0)], ids=lambda layer: type(layer).__name__
)
def test_the_inverse_of_a_layer_undoes_it_and_its_log_determinant(layer, precision, key):
    dtype, tolerance = precision
    first, second, third = (jax.random.normal(k, (5, *SHAPE)).astype(dtype) for k in jax.random.split(key, 3))
    values = (first,) if not isinstance(layer, Coupling) else ((first, second), third)
    params = _perturbed(_compiled(layer.init)(key, *values)["params"], dtype)
    apply = _compiled(layer.apply, static_argnames="inverse")
    outputs, log_det = apply({"params": params}, *values)
    again, inverse_log_det = apply({"params": params}, outputs, *values[1:], inverse=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), again, values[0])
    np.testing.assert_allclose(inverse_log_det, -log_det, atol=10 * tolerance)
    assert not np.allclose(jax.tree.leaves(outputs)[-1], jax.tree.leaves(values[0])[-1], atol=1e-2)


@pytest.mark.slow
def test_the_inverse_of_the_flow_undoes_it(precision, key):
    dtype, tolerance = precision
    module, params = _flow(SHAPE)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    noise, image = (jax.random.normal(k, (20, *SHAPE)).astype(dtype) for k in jax.random.split(key))
    apply = _compiled(module.apply, static_argnames="inverse")
    u, log_det = apply({"params": params}, noise, image)
    again, inverse_log_det = apply({"params": params}, u, image, inverse=True)
    np.testing.assert_allclose(again, noise, atol=tolerance)
    np.testing.assert_allclose(inverse_log_det, -log_det, atol=10 * tolerance)


@pytest.mark.slow
def test_log_q_is_the_density_of_the_noise_over_the_jacobian(key):
    with jax.enable_x64(True):
        module, params = _flow(SHAPE)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        levels = jax.random.randint(key, (2, *SHAPE), 0, 16)
        image = (levels + 0.5) / 16 - 0.5
        noise = jnp.stack([jax.random.normal(jax.random.fold_in(key, i), SHAPE) for i in range(2)])

        def jacobian(noise, image):
            return jax.jacfwd(lambda e: module.apply({"params": params}, e[None], image[None])[0].ravel())(noise)

        log_det = jnp.linalg.slogdet(_compiled(jax.vmap(jacobian))(noise, image).reshape(2, noise[0].size, -1))[1]
        expected = jax.scipy.stats.norm.logpdf(noise).sum(axis=(1, 2, 3)) - log_det
        _, log_q = _compiled(LinenDequantizer(module, 16).sample)(params, example_keys(key, levels), levels)
        np.testing.assert_allclose(log_q, expected, rtol=0.0, atol=1e-9)


@pytest.mark.slow
def test_the_density_of_two_pixels_integrates_to_one(key):
    with jax.enable_x64(True):
        module, params = _flow((1, 2, 1))
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        h = jnp.linspace(-24.0, 24.0, 97)  # u = sigmoid(h): the trapezoidal rule converges fast on the whole line
        u = jax.nn.sigmoid(jnp.stack(jnp.meshgrid(h, h, indexing="ij"), axis=-1)).reshape(-1, 1, 2, 1)
        inverse = _compiled(module.apply, static_argnames="inverse")
        noise, log_det = inverse({"params": params}, u, jnp.full(u.shape, 0.1), inverse=True)
        log_q = jax.scipy.stats.norm.logpdf(noise).sum(axis=(1, 2, 3)) + log_det
        mass = jnp.exp(log_q) * jnp.prod(u * (1.0 - u), axis=(1, 2, 3)) * (h[1] - h[0]) ** 2
        np.testing.assert_allclose(mass.sum(), 1.0, atol=1e-5)


@pytest.mark.slow
def test_u_lies_inside_the_interval_whatever_the_flow_does(key):
    module, params = _flow(SHAPE)
    wild = jax.tree.map(lambda leaf: 8.0 * leaf, params)
    dequantizer, levels = LinenDequantizer(module, 16), jax.random.randint(key, (50, *SHAPE), 0, 16)

    def total(params):
        u, log_q = dequantizer.sample(params, example_keys(key, levels), levels)
        return jnp.sum(u) + jnp.sum(log_q), (u, log_q)

    gradients, (u, log_q) = _compiled(jax.grad(total, has_aux=True))(wild)
    assert 0.0 < float(u.min()) < 1e-6 and 1.0 - 1e-6 < float(u.max()) < 1.0
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((gradients, log_q)))


@pytest.mark.slow
def test_a_fresh_flow_is_all_but_uniform_noise(key):
    """Its divergence from uniform noise is that of the sigmoid of normal noise with gain 1.7: 0.010 nats per pixel."""
    fields = dict(default_config().dequantizer) | {"name": "flowpp", **SMALL}
    dequantizer = make_dequantizer(fields, (8, 8, 1), 16)
    levels = jax.random.randint(key, (100, 8, 8, 1), 0, 16)
    params = _compiled(lambda key: dequantizer.init(key, (1, 8, 8, 1)))(key)
    _, log_q = _compiled(dequantizer.sample)(params, example_keys(key, levels), levels)
    np.testing.assert_allclose(float(log_q.mean()) / 64, 0.010, atol=0.01)


@pytest.mark.slow
def test_an_image_gets_noise_that_depends_on_its_key_and_on_itself_but_not_on_its_batch(key):
    module, params = _flow(SHAPE)
    compiled = _compiled(LinenDequantizer(module, 16).sample)
    sample = lambda levels: compiled(params, example_keys(key, levels), levels)  # noqa: E731
    levels = jax.random.randint(key, (6, *SHAPE), 0, 16)
    whole, log_q = sample(levels)
    part, part_log_q = sample(levels[:3])
    np.testing.assert_allclose(part, whole[:3], atol=1e-6)
    np.testing.assert_allclose(part_log_q, log_q[:3], atol=1e-4)
    others, _ = sample(levels.at[3:].set((levels[3:] + 8) % 16))
    np.testing.assert_allclose(others[:3], whole[:3], atol=1e-6)
    assert float(jnp.abs(others[3:] - whole[3:]).max()) > 1e-3


@pytest.mark.slow
def test_dropout_is_for_training_only(key):
    dequantizer = LinenDequantizer(FlowPP(**SMALL, dropout=0.5), 16)
    module, params = _flow(SHAPE)
    sample, levels, keys = _compiled(dequantizer.sample), jnp.full((3, *SHAPE), 3), jax.random.split(key, 3)
    quiet, _ = sample(params, keys, levels)
    plain, _ = _compiled(LinenDequantizer(module, 16).sample)(params, keys, levels)
    np.testing.assert_allclose(quiet, plain, atol=1e-6)
    loud, _ = sample(params, keys, levels, dropout_key=jax.random.key(1))
    assert float(jnp.abs(loud - quiet).max()) > 1e-3


@pytest.mark.parametrize(
    ("changes", "shape", "levels", "message"),
    [
        ({"name": "flopp"}, (8, 8, 1), 17, "Unknown dequantizer 'flopp'.*Did you mean 'flowpp'"),
        ({}, (7, 7, 1), 17, "Images of 7x7 have more even columns than odd ones.*an even width"),
        ({}, (8, 8, 1), None, "the data have shape .8, 8, 1. and are continuous"),
        ({}, (2,), 17, "takes images .H, W, C. of gray levels; the data have shape .2,."),
        ({"filters": 6}, (8, 8, 1), 17, "filters is 6; expected a multiple of config.dequantizer.heads, 4"),
    ],
)
def test_what_a_flow_cannot_take_is_refused(changes, shape, levels, message):
    fields = dict(default_config().dequantizer) | {"name": "flowpp"} | changes
    with pytest.raises(UserError, match=message):
        make_dequantizer(fields, shape, levels)


def test_no_dequantizer_is_no_error():
    assert make_dequantizer(dict(default_config().dequantizer), (7, 7, 1), None) is None
