"""Sums over pixels against float64, their derivatives against one another, and the programs of other devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from score_sde.models.layers import GroupNorm
from score_sde.models.normalization import ConditionalInstanceNorm2dPlus, InstanceNorm2d
from score_sde.models.pixels import add_everywhere, centered_moments, per_pixel, pixel_sum, rescale
from tests.laws import float64

SHAPES = [(2, 8, 8, 16), (3, 5, 7, 3), (1, 1, 1, 1), (4, 1, 1, 6), (2, 33, 17, 5), (1, 64, 64, 2)]
SHAPES += [(2, 40, 3), (3, 7, 2), (2, 4, 6, 5, 3)]  # series and volumes
ACCELERATORS = ("tpu", "cuda", "rocm")


def _normal(seed, *shape):
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), jnp.float32)


def _lowered(function, *arguments, platform):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def _counts(text):
    """How often a program multiplies matrices and how often it reduces an image."""
    images = [line for line in text.splitlines() if "stablehlo.reduce(" in line and "x8x8x16x" in line]
    return text.count("stablehlo.dot_general"), len(images)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_sum_is_exact_up_to_the_rounding_of_float32(shape):
    x = 3.0 + _normal(0, *shape)
    exact = np.asarray(x, np.float64).sum(axis=tuple(range(1, x.ndim - 1)))
    np.testing.assert_allclose(jax.jit(pixel_sum)(x), exact, rtol=2e-6)


def test_a_sum_of_rounded_numbers_is_not_rounded_on_the_way():
    """In bfloat16 itself a running sum of ones ends at 256."""
    total = jax.jit(pixel_sum)(jnp.ones((1, 32, 32, 2), jnp.bfloat16))
    np.testing.assert_array_equal(total.astype(jnp.float32), 1024.0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_summing_and_repeating_are_transposes_of_one_another_in_both_modes(shape):
    x, values = _normal(0, *shape), _normal(1, shape[0], shape[-1])
    size = shape[1:-1]

    def repeat(values):
        return per_pixel(values, size)

    total, sum_transposed = jax.vjp(pixel_sum, x)
    repeated, repeat_transposed = jax.vjp(repeat, values)
    np.testing.assert_array_equal(repeated, np.broadcast_to(values.reshape(shape[0], *(1 for _ in size), -1), shape))
    np.testing.assert_array_equal(sum_transposed(values)[0], repeated)
    np.testing.assert_allclose(repeat_transposed(x)[0], total, rtol=1e-5, atol=1e-5)
    # Both are linear: they are their own derivatives.
    np.testing.assert_allclose(jax.jvp(pixel_sum, (x,), (x,))[1], total, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(jax.jvp(repeat, (values,), (values,))[1], repeated)


def test_a_batch_of_batches_is_summed_one_by_one():
    x, values = _normal(0, 3, 2, 4, 5, 6), _normal(1, 3, 2, 6)
    np.testing.assert_allclose(jax.vmap(pixel_sum)(x), x.sum(axis=(2, 3)), rtol=1e-5, atol=1e-5)
    repeat = jax.vmap(jax.grad(lambda v, x: jnp.vdot(per_pixel(v, (4, 5)), x)))
    np.testing.assert_allclose(repeat(values, x), x.sum(axis=(2, 3)), rtol=1e-5, atol=1e-5)


FORMS = {
    "group": lambda x: GroupNorm().apply(
        {"params": {"scale": jnp.ones(x.shape[-1]), "bias": jnp.ones(x.shape[-1])}}, x
    ),
    "instance": lambda x: InstanceNorm2d(bias=False).apply({"params": {"scale": jnp.ones(x.shape[-1])}}, x),
    "conditional": lambda x: ConditionalInstanceNorm2dPlus(1).apply(
        {"params": {"Embed_0": {"embedding": jnp.ones((1, 3 * x.shape[-1]))}}}, x, jnp.zeros(len(x), jnp.int32)
    ),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (1, 1, 1, 4), (3, 2, 2, 1), (2, 5, 8), (1, 2, 3, 2, 4)], ids=str)
def test_forward_and_backward_derivatives_of_a_normalization_agree(name, shape):
    x, tangent, cotangent = (_normal(seed, *shape) for seed in range(3))
    forward = jax.jit(lambda x, v: jax.jvp(FORMS[name], (x,), (v,))[1])(x, tangent)
    backward = jax.jit(lambda x, w: jax.vjp(FORMS[name], x)[1](w)[0])(x, cotangent)
    np.testing.assert_allclose(np.vdot(forward, cotangent), np.vdot(tangent, backward), rtol=1e-3, atol=1e-3)


def test_the_gradient_of_rescaling_is_that_of_its_formula():
    with float64():
        x, weight = (_normal(seed, 2, 3, 4, 5).astype(jnp.float64) for seed in range(2))
        mean, gain, shift = (_normal(seed, 2, 5).astype(jnp.float64) for seed in range(2, 5))

        def formula(x, mean, gain, shift):
            return (x - mean[:, None, None]) * gain[:, None, None] + shift[:, None, None]

        every = (0, 1, 2, 3)
        ours, plain = (
            jax.grad(lambda *args, f=f: jnp.sum(weight * jnp.sin(f(*args))), every)(x, mean, gain, shift)
            for f in (rescale, formula)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), ours, plain)


def test_on_a_cpu_no_image_is_reduced_by_a_loop_and_elsewhere_none_is_multiplied_by_ones():
    x, bias = _normal(0, 2, 8, 8, 16), _normal(1, 1, 16)
    forms = {
        **FORMS,
        "sum": pixel_sum,
        "moments": lambda x: sum(centered_moments(x)),
    }
    for form in forms.values():
        gradient = jax.grad(lambda x, form=form: jnp.sum(jnp.cos(form(x))[:, :1] ** 2))
        products, reductions = _counts(_lowered(gradient, x, platform="cpu"))
        assert products and not reductions
        for platform in ACCELERATORS:
            assert not _counts(_lowered(gradient, x, platform=platform))[0]

    biased = jax.grad(lambda bias, x: jnp.sum(jnp.cos(add_everywhere(x, bias))[:, :1]))
    assert _counts(_lowered(biased, bias, x, platform="cpu")) == (1, 0)
    for platform in ACCELERATORS:
        assert _counts(_lowered(biased, bias, x, platform=platform)) == (0, 1)


def test_other_devices_reduce_no_more_images_than_the_plain_formula_of_group_normalization():
    x, ones = _normal(0, 2, 8, 8, 16), jnp.ones(16)

    def plain(x, scale, bias):
        groups = x.reshape(2, 8, 8, 4, 4)
        axes = {"axis": (1, 2, 4), "keepdims": True}
        h = (groups - groups.mean(**axes)) * jax.lax.rsqrt(groups.var(**axes) + 1e-6)
        return h.reshape(x.shape) * scale[None, None, None] + bias[None, None, None]

    def ours(x, scale, bias):
        return GroupNorm().apply({"params": {"scale": scale, "bias": bias}}, x)

    counts = []
    for form in (ours, plain):
        gradient = jax.grad(lambda *args, form=form: jnp.vdot(args[0], form(*args)), (0, 1, 2))
        text = _lowered(gradient, x, ones, ones, platform="tpu")
        counts.append(sum("stablehlo.reduce(" in line and "tensor<2x8x8x" in line for line in text.splitlines()))
    assert 0 < counts[0] <= counts[1]


def test_the_images_of_a_batch_stay_on_their_devices():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    x = _normal(0, 4, 8, 8, 16)

    def both(x):
        return pixel_sum(x), jax.grad(lambda bias: jnp.sum(jnp.cos(add_everywhere(x, bias)) * x))(jnp.zeros((1, 16)))

    whole = jax.jit(both)(x)
    program = jax.jit(both, in_shardings=split).lower(x).compile()
    shared = program(jax.device_put(x, split))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), shared, whole)
    assert shared[0].sharding.is_equivalent_to(split, 2)
    assert "all-gather" not in program.as_text()


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("varying", [True, False])
def test_derivatives_are_taken_inside_and_outside_of_a_map_over_devices(kind, varying):
    """Types that say how an array is split, or that it varies over devices, pass through sums and their transposes."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
    spec, x = PartitionSpec("data"), _normal(0, 4, 8, 8, 16)

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(jnp.sin(FORMS["group"](x))))(x)

    whole = gradient(x)
    with jax.set_mesh(mesh):
        split = jax.device_put(x, NamedSharding(mesh, spec))
        mapped = jax.shard_map(gradient, mesh=mesh, in_specs=(spec,), out_specs=spec, check_vma=varying)
        for found in (jax.jit(gradient)(split), jax.jit(mapped)(split)):
            np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)
