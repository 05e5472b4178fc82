"""What distributed.py promises beyond the training step, which tests/training/test_step.py covers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import distributed
from score_sde.distributed import compiler_options, jit


@pytest.fixture
def forget():
    compiler_options.cache_clear()
    yield
    compiler_options.cache_clear()


def test_an_option_that_this_compiler_does_not_know_is_dropped(monkeypatch, forget):
    monkeypatch.setattr(distributed, "CPU_OPTIONS", {"xla_cpu_no_such_option": ""})
    assert compiler_options() == {}
    assert jit(lambda x: x + 1)(1) == 2


def test_other_backends_get_no_options(monkeypatch, forget):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler_options() == {}


def test_the_options_change_no_result():
    def loss(kernel, x):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.mean(jnp.tanh(y) ** 2)

    kernel, x = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(3, 3, 8, 8), (4, 8, 8, 8)]))
    gradients = [compile_(jax.grad(loss))(kernel, x) for compile_ in (jit, jax.jit)]
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-7)


def test_sums_with_two_exponentials_come_out_right():
    """With the library that XLA gives reductions to by default, they do not, from 4096 rows on."""

    def product(b, x):
        return jnp.expm1(2.0 * b) * jnp.sum(x * jnp.expm1(b)[:, None], axis=1)

    b, x = jnp.linspace(0.1, 2.0, 8192), jnp.ones((8192, 2))
    expected = np.expm1(2.0 * np.asarray(b, np.float64)) * 2.0 * np.expm1(np.asarray(b, np.float64))
    np.testing.assert_allclose(jit(product)(b, x), expected, rtol=1e-5)
