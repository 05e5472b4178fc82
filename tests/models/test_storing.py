"""A fence changes no number and no derivative; on a CPU nothing behind it is computed twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from score_sde.distributed import jit
from score_sde.models.layers import Conv
from score_sde.models.storing import stored, stored_gradient

FENCES = [stored, stored_gradient]
SHAPE = (2, 8, 8, 16)


def _normal(seed, *shape):
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("first", [1.0, np.nan, np.inf])
@pytest.mark.parametrize("fence", FENCES)
def test_values_and_derivatives_pass_unchanged(fence, first):
    x, weights = _normal(0, *SHAPE).at[0, 0, 0, 0].set(jnp.nan), jnp.array([first, 2.0])
    tangent = _normal(1, *SHAPE)
    value, derivative = jax.jit(lambda x, v, w: jax.jvp(lambda x: fence(x, w), (x,), (v,)))(x, tangent, weights)
    gradient = jax.jit(lambda x, v, w: jax.vjp(lambda x: fence(x, w), x)[1](v)[0])(x, tangent, weights)
    for found, expected in ((value, x), (derivative, tangent), (gradient, tangent)):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(jax.jit(stored)(x > 0, weights), x > 0)


@pytest.mark.parametrize("fence", FENCES)
def test_batched_and_second_derivatives_pass(fence):
    x, weights = _normal(0, 5, 3), _normal(1, 5, 2)

    def cubes(x, weights):
        return jnp.sum(fence(fence(x, weights) ** 3, weights))

    second = jax.jit(jax.vmap(jax.hessian(cubes)))(x, weights)
    np.testing.assert_allclose(second, jax.vmap(jnp.diag)(6.0 * x), rtol=1e-6)
    unbatched = jax.vmap(lambda x: fence(x, weights[0]))(x)
    np.testing.assert_array_equal(unbatched, x)
    np.testing.assert_array_equal(jax.vmap(lambda w: fence(x[0], w))(weights), jnp.tile(x[0], (5, 1)))


def test_on_a_cpu_an_array_with_several_users_is_computed_once():
    x, weights = _normal(0, *SHAPE), jnp.ones(1)

    def products(fence):
        def users(x, weights):  # constant weights would show XLA that the loop is empty
            y = fence(x * x + x, weights)
            return jnp.sum(y, axis=(1, 2)), jnp.transpose(y, (3, 1, 2, 0)), y - 3.0

        text = jit(users).lower(x, weights).compile().as_text()
        return sum(" multiply(" in line and "f32[2,8,8,16]" in line for line in text.splitlines())

    assert products(stored) == 1 < products(lambda y, weights: y)


def test_an_array_is_stored_once_for_all_and_without_a_copy():
    x, weights = _normal(0, *SHAPE), jnp.arange(3.0)

    def users(x, weights):
        y = x * x + x
        one, other = stored(y, weights), stored_gradient(stored(y, 2.0 * weights), weights)
        return jnp.sum(one, axis=(1, 2)), jnp.transpose(other, (3, 1, 2, 0)), stored(one, weights) - 3.0

    def gradient(x, weights):
        def loss(x):
            y = x * x
            one, other = stored_gradient(y, weights), stored_gradient(y, 2.0 * weights)
            return jnp.vdot(jnp.sin(one + other), x)

        return jax.grad(loss)(x)

    for function in (users, gradient):
        lowered = jit(function).lower(x, weights)
        assert lowered.as_text().count("stablehlo.while") == 1
        copies = [line for line in lowered.compile().as_text().splitlines() if " copy(" in line and "2,8,8,16" in line]
        assert not copies


def test_a_fence_in_the_body_of_a_loop_is_not_the_one_outside():
    x, weights = _normal(0, 4, 3), jnp.ones(1)

    def users(x, weights):
        def body(total, _):
            return total + stored(x, weights), None

        inside = jax.lax.scan(body, jnp.zeros_like(x), length=3)[0]
        chosen = jax.lax.cond(weights[0] > 0, lambda: stored(x, weights), lambda: -stored(x, weights))
        with set_xla_metadata(mine="doubling"):
            doubled = jax.lax.while_loop(lambda y: y[0, 0] < 100.0, lambda y: 2.0 * y, x)
        return inside + chosen + stored(x, weights) + 0.0 * doubled

    x = x.at[0, 0].set(1.0)
    np.testing.assert_allclose(jax.jit(users)(x, weights), 5.0 * x, rtol=1e-6)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_other_devices_get_no_fence(platform):
    def both(x, weights):
        return jax.grad(lambda x: jnp.sum(stored_gradient(stored(x, weights) ** 2, weights) ** 2))(x)

    traced = jax.jit(both).trace(_normal(0, *SHAPE), jnp.ones(1))
    assert "while" not in traced.lower(lowering_platforms=(platform,)).as_text()
    assert "while" in traced.lower(lowering_platforms=("cpu",)).as_text()


def test_a_program_for_several_devices_has_the_same_values():
    x, weights = _normal(0, *SHAPE), jnp.ones(1)
    function = jax.jit(lambda x, weights: stored(x**2, weights) + jnp.sin(stored(x**2, weights)))
    program = jax.export.export(function, platforms=("cpu", "tpu", "cuda"))(x, weights)
    np.testing.assert_allclose(program.call(x, weights), x**2 + jnp.sin(x**2), rtol=1e-6)


def test_a_fence_sends_nothing_between_devices():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    split, same = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    conv = Conv(4)
    x = _normal(0, *SHAPE)
    params = conv.init(jax.random.key(0), x)
    losses = jax.jit(lambda p, x: jnp.sum(conv.apply(p, x) ** 2, axis=(1, 2, 3)), in_shardings=(same, split))
    text = losses.lower(params, x).compile().as_text()
    assert "while" in text
    assert not [name for name in ("all-reduce", "all-gather", "collective-permute", "all-to-all") if name in text]
