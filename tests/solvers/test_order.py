"""Law 4: measured orders on the closed-form probability-flow map, moments of the stochastic solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from tests.analytic import SDES, Gaussian
from tests.laws import DETERMINISTIC, STOCHASTIC, float64

each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
DENSITY = Gaussian.correlated(4)


def flow_error(sde, solver, n):
    """Relative error of n steps from t = 1 to t = 0.05 against the exact map."""
    z = jnp.asarray(np.random.RandomState(1).randn(16, 4)) * sde.prior_std
    times = sampling.log_snr_times(sde, n, 0.05)
    keys = sampling.sample_keys(jax.random.key(0), 0, 16)
    x = sampling.integrate(keys, solver, sde.probability_flow(DENSITY.score(sde)), z, times).x
    exact = DENSITY.flow(sde, z, 1.0, 0.05)
    return float(jnp.linalg.norm(x - exact) / jnp.linalg.norm(exact))


@pytest.mark.sweep(7)
@each_sde
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_measured_order(sde, name):
    solver, order = DETERMINISTIC[name]
    with float64():
        errors = [flow_error(sde, solver, n) for n in (512, 1024)]
    slopes = np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))
    assert abs(slopes[-1] - order) < 0.1, (errors, slopes)


def moments(sde, solver, n, *, samples=10_000, times=None, noise_scale=1.0):
    times = sampling.log_snr_times(sde, n, 1e-3) if times is None else times
    keys = sampling.sample_keys(jax.random.key(0), 0, samples)
    process = sde.reverse(DENSITY.score(sde), noise_scale=noise_scale)
    # Start from the exact marginal at t = 1, so that what is measured is the solver and not the prior.
    m, variance = (np.asarray(c) for c in DENSITY.variances(sde, jnp.ones(1)))
    z = jnp.asarray(np.random.RandomState(3).randn(samples, 4) * np.sqrt(variance) @ DENSITY.basis.T + m * DENSITY.mean)
    x = np.asarray(sampling.integrate(keys, solver, process, z.astype(jnp.float32), times).x)
    m, variance = (np.asarray(c) for c in DENSITY.variances(sde, times[-1:]))
    return x.mean(axis=0) - np.asarray(m[0] * DENSITY.mean), np.cov(x.T) - (
        DENSITY.basis * variance[0]
    ) @ DENSITY.basis.T


@pytest.mark.sweep(5)
@each_sde
@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_solvers_reach_the_moments(sde, name):
    mean_error, covariance_error = moments(sde, STOCHASTIC[name], 250)
    assert np.abs(mean_error).max() < 0.02
    assert np.abs(covariance_error).max() < 0.02
