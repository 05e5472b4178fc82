"""The divergence: exact over the standard basis, unbiased over random probes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.likelihood import log_likelihood, nll_bound
from score_sde.likelihood.divergence import draw_probes, value_and_quadratic_forms
from score_sde.sdes import VP


def field(x):
    return jnp.stack([jnp.sin(x[0, 0]) * x[1, 0], x[0, 0] * x[1, 0] ** 2])[:, None]


def test_basis_gives_the_trace_of_the_jacobian(key):
    x = jnp.array([[0.7], [1.3]])
    jacobian = np.asarray(jax.jacobian(field)(x)).reshape(2, 2)
    value, forms = value_and_quadratic_forms(field, x, draw_probes(key, None, (2, 1), "rademacher"))
    np.testing.assert_allclose(value, field(x))
    np.testing.assert_allclose(forms.sum(), np.trace(jacobian), rtol=1e-6)


def test_probes_are_unbiased_with_the_known_variance(key):
    """Var e^T J e = 2 |offdiagonal of sym J|^2 for Rademacher probes, 2 |sym J|^2 for Gaussian ones."""
    x = jnp.array([[0.7], [1.3]])
    jacobian = np.asarray(jax.jacobian(field)(x)).reshape(2, 2)
    symmetric = (jacobian + jacobian.T) / 2
    variances = {
        "rademacher": 2 * (np.sum(symmetric**2) - np.sum(np.diag(symmetric) ** 2)),
        "gaussian": 2 * np.sum(symmetric**2),
    }
    for kind, variance in variances.items():
        _, forms = value_and_quadratic_forms(field, x, draw_probes(key, 40_000, (2, 1), kind))
        assert abs(float(forms.mean()) - np.trace(jacobian)) < 5 * np.sqrt(variance / 40_000)
        np.testing.assert_allclose(forms.var(), variance, rtol=0.05)


@pytest.mark.parametrize("count", [0, -1])
def test_probes_that_estimate_nothing_are_refused(key, count):
    sde, x = VP(), jnp.zeros((1, 2))
    with pytest.raises(UserError, match="1 or more, or None"):
        log_likelihood(key, sde, lambda x, t: -x, x, num_probes=count)
    with pytest.raises(UserError, match="1 or more, or None"):
        nll_bound(key, sde, lambda x, t: -x, x, form="sliced", num_probes=count)
