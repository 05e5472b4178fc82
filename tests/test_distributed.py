"""What distributed.py promises beyond the training step, which tests/training/test_step.py covers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import distributed
from score_sde.compiler import protect
from score_sde.distributed import compiler_options, jit


@pytest.fixture
def unprotected(monkeypatch):
    """A process that XLA_FLAGS does not protect."""
    monkeypatch.setattr(distributed, "protect", lambda: False)
    compiler_options.cache_clear()
    yield
    compiler_options.cache_clear()


def test_an_option_that_this_compiler_does_not_know_is_dropped(monkeypatch, unprotected):
    monkeypatch.setattr(distributed, "CPU_OPTIONS", {"xla_cpu_no_such_option": ""})
    assert compiler_options() == {}
    assert jit(lambda x: x + 1)(1) == 2


def test_other_backends_get_no_options(monkeypatch, unprotected):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler_options() == {}


@pytest.mark.skipif(not protect(), reason="XLA_FLAGS has no option here")
def test_a_program_has_the_same_bits_whether_xla_flags_or_its_own_options_protect_it(unprotected):
    def loss(kernel, x):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.mean(jnp.tanh(y @ kernel[0, 0]) ** 2)

    kernel, x = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(3, 3, 8, 8), (4, 8, 8, 8)]))
    assert compiler_options() == distributed.CPU_OPTIONS
    np.testing.assert_array_equal(*(compile_(jax.grad(loss))(kernel, x) for compile_ in (jit, jax.jit)))
