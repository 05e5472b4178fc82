"""Law 4: measured orders on the closed-form probability-flow map, moments of the stochastic solvers, adaptive error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.likelihood import transport
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


@each_sde
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_measured_order(sde, name):
    solver, order = DETERMINISTIC[name]
    with float64():
        errors = [flow_error(sde, solver, n) for n in (512, 1024)]
    slopes = np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))
    assert abs(slopes[-1] - order) < 0.1, (errors, slopes)


@each_sde
def test_adaptive_reaches_its_tolerance(sde):
    z = jnp.asarray(np.random.RandomState(1).randn(16, 4), jnp.float32) * sde.prior_std
    exact = DENSITY.flow(sde, z, 1.0, 1e-3)
    errors = []
    for tolerance in (1e-3, 1e-5):
        solution = transport(sde, DENSITY.score(sde), z, t0=1.0, t1=1e-3, rtol=tolerance, atol=tolerance)
        assert bool(solution.success.all())
        errors.append(float(jnp.abs(solution.y - exact).max()))
    assert errors[1] < 1e-3 and errors[1] < errors[0]


def test_adaptive_counts_every_evaluation():
    sde, count = SDES["vp"], []

    def score(x, t):
        jax.debug.callback(lambda: count.append(1))
        return DENSITY.score(sde)(x, t)

    x = jnp.ones((1, 4)) * 0.3
    solution = transport(sde, score, x, t0=1e-3, t1=1.0)
    jax.effects_barrier()
    assert len(count) == int(solution.num_evals[0])


def test_adaptive_reports_failure_instead_of_raising():
    from score_sde.solvers.adaptive import solve_ode

    y = jnp.ones((2, 1))
    solution = solve_ode(lambda t, y, _: 50.0 * jnp.cos(50 * t) * y, y, None, t0=0.0, t1=1.0, max_steps=3)
    assert not bool(solution.success.any())


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


@each_sde
@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_solvers_reach_the_moments(sde, name):
    mean_error, covariance_error = moments(sde, STOCHASTIC[name], 250)
    assert np.abs(mean_error).max() < 0.02
    assert np.abs(covariance_error).max() < 0.02


@each_sde
@pytest.mark.parametrize("name", STOCHASTIC)
def test_weak_order_one(sde, name):
    """The covariance error is first order in the step; its matrix is propagated exactly, without sampling error."""
    with float64():
        errors = [propagated_covariance_error(sde, STOCHASTIC[name], n) for n in (800, 1600, 3200)]
    slope = np.log2(errors[1] / errors[2])
    assert abs(slope - 1.0) < 0.15, errors


def propagated_covariance_error(sde, solver, n):
    """With a linear score each step is affine in x and in z: x' = A x + b + G z; covariances follow exactly."""
    times = sampling.log_snr_times(sde, n, 0.05)
    centered = Gaussian(np.zeros(4), DENSITY.basis, DENSITY.eigenvalues)
    process = sde.reverse(centered.score(sde))
    basis = jnp.asarray(DENSITY.basis.T)  # rows are eigenvectors: every step acts on them by a scalar

    def body(variance, step):
        t, s = step
        state = solver.init(basis)
        keys = sampling.sample_keys(jax.random.key(0), 0, 4)
        after = solver.step(keys, process, state, t, s)
        gain = jnp.sum(after.x_mean * basis, axis=1)
        z = jax.vmap(lambda k: jax.random.normal(k, (4,), basis.dtype))(keys)
        std = jnp.sum((after.x - after.x_mean) * z, axis=1) / jnp.sum(z * z, axis=1)
        return gain**2 * variance + std**2, None

    _, start = centered.variances(sde, jnp.ones(1))
    variance, _ = jax.lax.scan(body, start[0], (times[:-1], times[1:]))
    _, exact = centered.variances(sde, times[-1:])
    return float(jnp.abs(variance / exact[0] - 1).max())
