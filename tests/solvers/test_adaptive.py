"""Adaptive solvers: the error falls with the tolerance, steps are per sample or shared, and giving up is said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.distributed import batch_sharding, make_mesh
from score_sde.likelihood import transport
from score_sde.solvers.adaptive import solve_ode
from score_sde.solvers.adaptive_sde import solve_sde
from tests.analytic import SDES, Gaussian

each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
DENSITY = Gaussian.correlated(4)


def prior(sde, n=16):
    return jnp.asarray(np.random.RandomState(1).randn(n, 4), jnp.float32) * sde.prior_std


@pytest.mark.sweep
@each_sde
@pytest.mark.parametrize("joint", [False, True])
def test_the_flow_reaches_its_tolerance(sde, joint):
    z = prior(sde)
    exact = DENSITY.flow(sde, z, 1.0, 1e-3)
    errors = []
    for tolerance in (1e-3, 1e-5):
        options = {"rtol": tolerance, "atol": tolerance, "joint": joint}
        solution = transport(sde, DENSITY.score(sde), z, t0=1.0, t1=1e-3, **options)
        assert bool(solution.success.all())
        errors.append(float(jnp.abs(solution.y - exact).max()))
    assert errors[1] < 1e-3 and errors[1] < errors[0]


@pytest.mark.slow
def test_adaptive_counts_every_evaluation():
    sde, count = SDES["vp"], []

    def score(x, t):
        jax.debug.callback(lambda: count.append(1))
        return DENSITY.score(sde)(x, t)

    x = jnp.ones((1, 4)) * 0.3
    solution = transport(sde, score, x, t0=1e-3, t1=1.0)
    jax.effects_barrier()
    assert len(count) == int(solution.num_evals[0])
    count.clear()
    keys = sampling.sample_keys(jax.random.key(0), 0, 1)
    solution = solve_sde(keys, sde.reverse(score), prior(sde, 1), t1=1e-3)
    jax.effects_barrier()
    assert len(count) == int(solution.num_evals[0])


def stiff(t, y, _):
    return 50.0 * jnp.cos(50.0 * t) * y


@pytest.mark.sweep
@pytest.mark.parametrize("joint", [False, True])
def test_giving_up_is_reported_and_not_raised(joint):
    solution = solve_ode(stiff, jnp.ones((2, 1)), None, t0=0.0, t1=1.0, max_steps=3, joint=joint)
    assert not bool(solution.success.any())
    sde, keys = SDES["vp"], sampling.sample_keys(jax.random.key(0), 0, 2)
    process = sde.reverse(DENSITY.score(sde))
    solution = solve_sde(keys, process, prior(sde, 2), t1=1e-3, max_steps=3, joint=joint)
    assert not bool(solution.success.any()) and solution.num_evals.tolist() == [6, 6]


@pytest.mark.sweep
@pytest.mark.parametrize("joint", [False, True])
def test_a_score_that_is_no_number_stops_the_solver_and_not_its_neighbors(joint):
    """Sample 1 is poisoned below t = 0.5."""
    sde, keys = SDES["vp"], sampling.sample_keys(jax.random.key(0), 0, 3)
    z = prior(sde, 3).at[1].set(40.0)

    def score(x, t):
        bad = (jnp.abs(x).max(axis=1) > 10) & (t < 0.9)
        return jnp.where(bad[:, None], jnp.nan, DENSITY.score(sde)(x, t))

    solution = solve_sde(keys, sde.reverse(score), z, t1=1e-3, joint=joint)
    healthy = [False] * 3 if joint else [True, False, True]
    assert solution.success.tolist() == healthy
    assert bool(jnp.isnan(solution.y[1]).all()) and bool(jnp.isfinite(solution.y[0]).all()) != joint
    assert int(solution.num_evals[1]) < 8000  # it did not go on until the bound


@pytest.mark.sweep
@pytest.mark.parametrize("solve", ["ode", "sde"])
def test_steps_are_per_sample_or_those_of_the_hardest_one(solve):
    """Jointly all take as many steps as the sample with the largest error asks for, wherever they are computed."""
    sde, keys = SDES["ve"], sampling.sample_keys(jax.random.key(0), 0, 16)
    z = prior(sde).at[3].multiply(20.0)  # far out the absolute error is larger

    def run(keys, z, joint):
        if solve == "ode":
            return transport(sde, DENSITY.score(sde), z, t0=1.0, t1=1e-3, rtol=1e-6, atol=1e-6, joint=joint)
        return solve_sde(keys, sde.reverse(DENSITY.score(sde)), z, t1=1e-3, rtol=1e-3, atol=1e-3, joint=joint)

    run = jax.jit(run, static_argnums=2)
    alone, together = run(keys, z, False), run(keys, z, True)
    assert len(set(alone.num_evals.tolist())) > 1
    assert len(set(together.num_evals.tolist())) == 1
    assert int(together.num_evals[0]) > 0.9 * float(alone.num_evals.mean())
    one = run(keys[5:6], z[5:6], False)
    # Rounding can move a step across its tolerance: the paths are the same, the steps along them not quite.
    np.testing.assert_allclose(one.num_evals[0], alone.num_evals[5], rtol=0.05)
    np.testing.assert_allclose(one.y[0], alone.y[5], atol=1e-4 if solve == "ode" else 1e-2)
    sharding = batch_sharding(make_mesh())
    split = run(jax.device_put(keys, sharding), jax.device_put(z, sharding), True)
    assert len(split.y.sharding.device_set) == jax.device_count() > 1
    assert len(set(split.num_evals.tolist())) == 1
    np.testing.assert_allclose(split.num_evals, together.num_evals, rtol=0.05)
    np.testing.assert_allclose(split.y, together.y, atol=1e-3 if solve == "ode" else 1e-2)


def solve_on_marginal(sde, n, tolerance, t_end=1e-3):
    """From the exact marginal at t = 1, so that what is measured is the solver and not the prior."""
    keys = sampling.sample_keys(jax.random.key(0), 0, n)
    m, variance = (np.asarray(c) for c in DENSITY.variances(sde, jnp.ones(1)))
    z = np.random.RandomState(3).randn(n, 4) * np.sqrt(variance) @ DENSITY.basis.T + m * DENSITY.mean
    process = sde.reverse(DENSITY.score(sde))
    solve = jax.jit(lambda x, tolerance: solve_sde(keys, process, x, t1=t_end, rtol=tolerance, atol=tolerance))
    solution = solve(jnp.asarray(z, jnp.float32), tolerance)
    assert bool(solution.success.all())
    return solution


@pytest.mark.slow
@each_sde
def test_the_error_of_the_adaptive_sde_solver_falls_with_its_tolerance(sde):
    """On the same Brownian paths, against a much smaller tolerance."""
    truth, *coarser = (solve_on_marginal(sde, 64, tolerance) for tolerance in (1e-3, 1e-1, 1e-2))
    errors = [float(jnp.sqrt(jnp.mean((solution.y - truth.y) ** 2))) for solution in coarser]
    costs = [float(solution.num_evals.mean()) for solution in coarser]
    assert costs[1] > 2 * costs[0]
    assert errors[1] < 0.5 * errors[0] and errors[1] < 0.02, errors


@pytest.mark.slow
@each_sde
def test_the_adaptive_sde_solver_reaches_the_moments(sde):
    n = 10_000
    x = np.asarray(solve_on_marginal(sde, n, 0.02).y)
    m, variance = (np.asarray(c) for c in DENSITY.variances(sde, jnp.full(1, 1e-3)))
    exact = (DENSITY.basis * variance[0]) @ DENSITY.basis.T
    std_error = np.sqrt(2.0 / n) * exact.max()  # of a variance; 0.015 of it for the error at this tolerance
    assert np.abs(np.cov(x.T) - exact).max() < 4.0 * std_error + 0.015 * exact.max()
    assert np.abs(x.mean(axis=0) - m[0] * DENSITY.mean).max() < 4.0 * np.sqrt(exact.max() / n) + 0.005


def test_without_noise_it_is_heuns_method_with_error_control():
    sde = SDES["vp"]
    keys, z = sampling.sample_keys(jax.random.key(0), 0, 16), prior(sde)
    solution = solve_sde(keys, sde.probability_flow(DENSITY.score(sde)), z, t1=1e-3, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(solution.y, DENSITY.flow(sde, z, 1.0, 1e-3), atol=5e-3)
