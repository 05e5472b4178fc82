"""Posterior scores of linear observations of Gaussian data: the exact law, the laws of the approximations, limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.conditioning import operators, posterior_score
from score_sde.errors import UserError
from score_sde.likelihood import log_likelihood, log_likelihood_on_grid
from score_sde.parameterization import denoise
from score_sde.sdes import VP
from score_sde.solvers import DDIM, Ancestral, DPMSolverMultistep
from score_sde.solvers.adaptive_sde import solve_sde
from tests.analytic import SDES, Gaussian
from tests.laws import float64

each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
DENSITY = Gaussian.correlated(2, std=1.0)
FIRST = np.array([[1.0, 0.0]])  # the first value is observed
VALUES = (0.97, -0.4)  # of the first and the second half of a batch, observed with
NOISES = (0.1, 0.5)


def observe(matrix):
    return operators.dense(matrix, (matrix.shape[1],))


def gain(density, matrix, noise_std):
    noise = noise_std**2 * np.eye(len(matrix))
    return density.covariance @ matrix.T @ np.linalg.inv(matrix @ density.covariance @ matrix.T + noise)


def posterior(density, matrix, y, noise_std):
    """The law of the data given the observation (Kalman's update)."""
    K = gain(density, matrix, noise_std)
    covariance = density.covariance - K @ matrix @ density.covariance
    values, basis = np.linalg.eigh(0.5 * (covariance + covariance.T))
    return Gaussian(density.mean + K @ (y - matrix @ density.mean), basis, np.maximum(values, 0.0))


def halves(values, n):
    """A column for a batch whose two halves have their own values."""
    return jnp.repeat(jnp.asarray(values, jnp.float32), n // 2)[:, None]


def start(sde, laws, n, seed=3):
    """Draws of the exact marginals at t = 1, so that nothing is measured but the way from there."""
    z, parts = np.random.RandomState(seed).randn(n, 2), []
    for half, law in zip(np.split(z, 2), laws, strict=True):
        m, variance = (np.asarray(c) for c in law.variances(sde, jnp.ones(1)))
        parts.append(half * np.sqrt(variance) @ law.basis.T + m * law.mean)
    return jnp.asarray(np.concatenate(parts), jnp.float32)


def assert_law(x, mean, covariance, *, bias=0.0):
    """Mean and covariance within five standard errors, and a bias of the solver in units of the std."""
    n, std = len(x), np.sqrt(np.diag(covariance))
    assert (np.abs(x.mean(axis=0) - mean) < 5 * std / np.sqrt(n) + bias * std).all(), (x.mean(axis=0), mean)
    unit = np.outer(std, std)
    error = np.abs(np.cov(x.T) - covariance) / unit
    assert (error < 5 * np.sqrt(2 / n) + bias).all(), (np.cov(x.T), covariance)


EXACT = [posterior(DENSITY, FIRST, np.array([y]), noise) for y, noise in zip(VALUES, NOISES, strict=True)]
SAMPLERS = {
    "flow": (DPMSolverMultistep(order=2, follows="flow"), 60),
    "sde": (DPMSolverMultistep(order=2), 100),
}


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", SAMPLERS)
@each_sde
def test_moment_matching_draws_from_the_exact_posterior(sde, name):
    n, (solver, steps) = 20_000, SAMPLERS[name]
    score = posterior_score(sde, DENSITY.score(sde), observe(FIRST), halves(VALUES, n), halves(NOISES, n), iterations=1)
    times, keys = sampling.log_snr_times(sde, steps, 1e-3), sampling.sample_keys(jax.random.key(0), 0, n)
    run = jax.jit(lambda x: sampling.integrate(keys, solver, sde.reverse(score), x, times).x)
    m, s = (float(c[0]) for c in sde.marginal(times[-1:]))
    for x, law in zip(np.split(np.asarray(run(start(sde, EXACT, n))), 2), EXACT, strict=True):
        assert_law(x, m * law.mean, m**2 * law.covariance + s**2 * np.eye(2), bias=0.01)


MATRICES = {
    "a sum": np.array([[1.0, -2.0, 0.5, 0.0]]),
    "two": np.random.RandomState(0).randn(2, 4),
    "more than there are values": np.random.RandomState(2).randn(6, 4),
}


@pytest.mark.sweep(4)
@each_sde
@pytest.mark.parametrize("name", MATRICES)
def test_moment_matching_is_the_posterior_score_at_every_time(sde, name):
    matrix = MATRICES[name]
    density = Gaussian.correlated(matrix.shape[1], std=0.7)
    rng = np.random.RandomState(4)
    y, noise_std = rng.randn(len(matrix)), 0.3
    with float64():
        t, x = jnp.asarray(rng.uniform(1e-3, 1.0, 8)), jnp.asarray(rng.randn(8, matrix.shape[1]))
        score = posterior_score(
            sde, density.score(sde), lambda x: x @ matrix.T, jnp.asarray(y)[None], noise_std, iterations=8
        )
        exact = posterior(density, matrix, y, noise_std).score(sde)(x, t)
        np.testing.assert_allclose(score(x, t), exact, rtol=1e-5, atol=1e-5)


def affine(sde, method, t, y, noise_std):
    """The guided score of a method at one time, ``score(x) = M x + c``, from the closed forms of its gradient."""
    m, s = (float(c) for c in sde.marginal(jnp.asarray(t)))
    S, mean, A = DENSITY.covariance, DENSITY.mean, FIRST
    precision = np.linalg.inv(m**2 * S + s**2 * np.eye(2))
    jacobian = m * S @ precision  # of the denoised sample
    spread = {"mmps": s**2 / m * jacobian, "pigdm": s**2 / (s**2 + m**2) * np.eye(2), "dps": 0.0 * S}[method]
    pulled = jacobian.T @ A.T @ np.linalg.inv(A @ spread @ A.T + noise_std**2 * np.eye(1))
    matrix = -precision - pulled @ A @ jacobian
    return matrix, m * precision @ mean + pulled @ (y - A @ mean + A @ jacobian @ (m * mean))


def law_of_steps(sde, method, times, law, y, noise_std, *, eta):
    """Mean and covariance after DDIM's steps along an affine score: each is an affine map and noise of its own."""
    m, s = (np.asarray(c, np.float64) for c in sde.marginal(times))
    mean, covariance = m[0] * law.mean, m[0] ** 2 * law.covariance + s[0] ** 2 * np.eye(2)
    for i in range(len(times) - 1):
        matrix, offset = affine(sde, method, float(times[i]), y, noise_std)
        noise = eta * s[i + 1] / s[i] * np.sqrt(s[i] ** 2 - (m[i] / m[i + 1] * s[i + 1]) ** 2)
        a, b = m[i + 1] / m[i], s[i] * (m[i + 1] / m[i] * s[i] - np.sqrt(s[i + 1] ** 2 - noise**2))
        step = a * np.eye(2) + b * matrix
        mean, covariance = step @ mean + b * offset, step @ covariance @ step.T + noise**2 * np.eye(2)
    return mean, covariance


@pytest.mark.sweep(9)
@pytest.mark.parametrize("eta", [0.0, 1.0], ids=["flow", "sde"])
@pytest.mark.parametrize("method", ["pigdm", "dps"])
@each_sde
def test_the_approximations_have_the_law_of_their_update_which_is_not_the_posterior(sde, method, eta):
    n = 20_000
    score = posterior_score(
        sde, DENSITY.score(sde), observe(FIRST), halves(VALUES, n), halves(NOISES, n), method=method
    )
    times, keys = sampling.log_snr_times(sde, 200, 1e-2), sampling.sample_keys(jax.random.key(0), 0, n)
    solver = DDIM(eta=eta)
    run = jax.jit(lambda x: sampling.integrate(keys, solver, sde.reverse(score), x, times).x)
    errors = []
    for x, law, y, noise in zip(np.split(np.asarray(run(start(sde, EXACT, n))), 2), EXACT, VALUES, NOISES, strict=True):
        mean, covariance = law_of_steps(sde, method, times, law, y, noise, eta=eta)
        assert_law(x, mean, covariance)
        m, s = (float(c) for c in sde.marginal(times[-1]))
        errors += [np.abs(mean - m * law.mean).max()]
        errors += [np.abs(covariance - m**2 * law.covariance - s**2 * np.eye(2)).max()]
    assert max(errors) > 0.01, errors


RUNS = {
    "adaptive": lambda sde, score, x, **options: log_likelihood(
        jax.random.key(0), sde, score, x, t0=1e-3, num_probes=None, **options
    ),
    "on a grid": lambda sde, score, x, **options: log_likelihood_on_grid(
        jax.random.key(0), sde, score, x, sampling.log_snr_times(sde, 80, 1e-3), num_probes=None, **options
    ),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", RUNS)
def test_the_likelihood_of_the_posterior_is_its_density_for_the_observation_of_every_example(name):
    """The examples of a batch are solved one by one, and each has an observation and a noise of its own."""
    sde, n = VP(), 6
    score = posterior_score(sde, DENSITY.score(sde), observe(FIRST), halves(VALUES, n), halves(NOISES, n))
    x = jnp.asarray(np.concatenate([law.sample(n // 2, seed=5) for law in EXACT]), jnp.float32)

    def logp(t, x):
        return jnp.where(jnp.arange(n) < n // 2, *(law.logp(sde, jnp.full(n, t), x) for law in EXACT))

    run = jax.jit(lambda x: RUNS[name](sde, score, x, terminal_logp=lambda z: logp(1.0, z)))
    result = run(x)
    np.testing.assert_allclose(result.logp, logp(1e-3, x), atol=3e-3)
    codes = [law.flow(sde, half, 1e-3, 1.0) for law, half in zip(EXACT, np.split(x, 2), strict=True)]
    np.testing.assert_allclose(result.latents, np.concatenate(codes), atol=3e-3)


@pytest.mark.slow
def test_the_adaptive_solver_of_the_reverse_sde_draws_from_the_posteriors_of_a_batch():
    sde, n = VP(), 4000
    score = posterior_score(sde, DENSITY.score(sde), observe(FIRST), halves(VALUES, n), halves(NOISES, n))
    keys = sampling.sample_keys(jax.random.key(0), 0, n)
    run = jax.jit(lambda x: solve_sde(keys, sde.reverse(score), x, t1=1e-3, rtol=0.01, atol=0.01).y)
    for x, law in zip(np.split(np.asarray(run(start(sde, EXACT, n))), 2), EXACT, strict=True):
        assert_law(x, law.mean, law.covariance, bias=0.06)


@pytest.mark.slow
@each_sde
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("noise_std", NOISES)
def test_moment_matching_is_exact_in_64_dimensions(sde, name, noise_std):
    """Sixteen random projections of AR(1) data; the draws in the eigenbasis of the posterior."""
    dim, n, (solver, steps) = 64, 4000, SAMPLERS[name]
    density = Gaussian.correlated(dim, std=1.0)
    matrix = np.random.RandomState(5).randn(16, dim) / 8.0
    y = matrix @ density.sample(1, seed=6)[0] + noise_std * np.random.RandomState(7).randn(16)
    law, row = posterior(density, matrix, y, noise_std), jnp.asarray(y, jnp.float32)[None]
    score = posterior_score(sde, density.score(sde), observe(matrix), row, noise_std, iterations=16)
    m, variance = (np.asarray(c) for c in law.variances(sde, jnp.ones(1)))
    z = np.random.RandomState(8).randn(n, dim) * np.sqrt(variance) @ law.basis.T + m * law.mean
    times, keys = sampling.log_snr_times(sde, steps, 1e-3), sampling.sample_keys(jax.random.key(0), 0, n)
    run = jax.jit(lambda x: sampling.integrate(keys, solver, sde.reverse(score), x, times).x)
    m, variance = (np.asarray(c)[0] for c in law.variances(sde, times[-1:]))
    x = (np.asarray(run(jnp.asarray(z, jnp.float32))) - m * law.mean) @ law.basis
    assert_law(x, np.zeros(dim), np.diag(variance), bias=0.02)


@pytest.mark.slow
def test_the_truth_has_a_uniform_rank_among_the_draws_given_its_observation():
    """Simulation-based calibration (Talts et al. 2018): 500 data with observations of their own, 19 draws for each."""
    sde, pairs, draws = VP(), 500, 19
    truth = DENSITY.sample(pairs, seed=9)
    y = truth @ FIRST.T + NOISES[1] * np.random.RandomState(10).randn(pairs, 1)
    score = posterior_score(
        sde, DENSITY.score(sde), observe(FIRST), jnp.asarray(np.repeat(y, draws, axis=0), jnp.float32), NOISES[1]
    )
    keys, times = sampling.sample_keys(jax.random.key(0), 0, pairs * draws), sampling.log_snr_times(sde, 60, 1e-3)
    solver = DPMSolverMultistep(order=2)
    run = jax.jit(lambda x: sampling.integrate(keys, solver, sde.reverse(score), x, times).x)
    x = np.asarray(run(sampling.prior_samples(keys, sde, (2,)))).reshape(pairs, draws, 2)
    for direction in np.random.RandomState(11).randn(3, 2):
        ranks = ((x @ direction) < (truth @ direction)[:, None]).sum(axis=1)
        counts = np.bincount(ranks, minlength=draws + 1)
        expected = pairs / (draws + 1)
        assert ((counts - expected) ** 2 / expected).sum() < 43.8  # the 99.9 % quantile of chi^2 with 19 degrees


ALL = ("mmps", "pigdm", "dps")
NOTHING = {"no operator": (lambda x: 0.0 * x, 0.5), "infinite noise": (lambda x: x, np.inf)}


@pytest.mark.sweep(4)
@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("name", NOTHING)
def test_an_observation_that_says_nothing_leaves_every_bit_of_the_score(method, name):
    operator, noise_std = NOTHING[name]
    x, t = jnp.asarray(DENSITY.sample(5), jnp.float32), jnp.linspace(0.01, 1.0, 5)
    for sde in SDES.values():
        score = posterior_score(sde, DENSITY.score(sde), operator, jnp.ones((5, 2)), noise_std, method=method)
        np.testing.assert_array_equal(score(x, t), DENSITY.score(sde)(x, t))


@pytest.mark.parametrize("method", ["mmps", "ddnm"])
def test_exact_observations_of_everything_are_the_denoised_sample(method):
    x, t = jnp.asarray(DENSITY.sample(5), jnp.float32), jnp.linspace(0.01, 1.0, 5)
    y = jnp.asarray(DENSITY.sample(5, seed=1), jnp.float32)
    for sde in SDES.values():
        score = posterior_score(sde, DENSITY.score(sde), lambda x: x, y, 0.0, method=method)
        np.testing.assert_allclose(denoise(sde, score, x, t), y, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("method", ["mmps", "pigdm", "ddnm"])
def test_exact_observations_hold_at_the_end(method):
    sde, n, matrix = VP(), 6, np.array([[1.0, 1.0]])
    y = jnp.linspace(-1.0, 2.0, n)[:, None]
    score = posterior_score(sde, DENSITY.score(sde), lambda x: x @ matrix.T, y, 0.0, method=method)
    keys, times = sampling.sample_keys(jax.random.key(0), 0, n), sampling.log_snr_times(sde, 50, 1e-3)
    x = sampling.prior_samples(keys, sde, (2,))
    x = jax.jit(lambda x: sampling.integrate(keys, Ancestral(), sde.reverse(score), x, times).x)(x)
    found = jax.jit(lambda x: denoise(sde, score, x, jnp.full(n, 1e-3)))(x) @ matrix.T
    np.testing.assert_allclose(found, y, atol=2e-3)


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["mmps", "pigdm"])
def test_the_order_of_the_observations_does_not_matter(method):
    matrix, order = MATRICES["more than there are values"], np.array([3, 0, 5, 1, 4, 2])
    density = Gaussian.correlated(4)
    with float64():
        x, t, y = jnp.asarray(density.sample(3)), jnp.linspace(0.1, 1.0, 3), jnp.linspace(-1.0, 1.0, 6)[None]
        scores = [
            posterior_score(
                VP(), density.score(VP()), observe(matrix[rows]), y[:, rows], 0.2, method=method, iterations=6
            )(x, t)
            for rows in (np.arange(6), order)
        ]
        np.testing.assert_allclose(*scores, rtol=1e-6, atol=1e-6)


def test_a_nonlinear_observation_pulls_towards_itself():
    """By DPS, the gradient of -|y - x_1^2|^2 / (2 v) at the denoised sample, chain rule included."""
    sde, x, t = VP(), jnp.array([[0.7, -0.2]]), jnp.array([0.4])
    plain = DENSITY.score(sde)

    def log_prob(x):
        return -0.5 * jnp.sum((2.0 - denoise(sde, plain, x, t)[:, :1] ** 2) ** 2) / 0.3**2

    score = posterior_score(sde, plain, lambda x: x[:, :1] ** 2, jnp.array([[2.0]]), 0.3, method="dps")
    np.testing.assert_allclose(score(x, t) - plain(x, t), jax.grad(log_prob)(x), rtol=1e-4)


Y = jnp.zeros((3, 1))
WRONG = {
    "method": ({"method": "mmsp"}, r"Unknown method 'mmsp'. Did you mean 'mmps'\?"),
    "negative noise": ({"noise_std": -1.0}, "noise_std is -1.0; expected 0 or more"),
    "noise that is nan": ({"noise_std": np.nan}, "noise_std is nan; expected 0 or more"),
    "noise-free dps": ({"noise_std": 0.0, "method": "dps"}, "noise_std is 0.0; expected a number above 0, by which"),
    "noisy ddnm": ({"noise_std": 0.1, "method": "ddnm"}, "noise_std is 0.1; expected 0, since ddnm takes"),
    "noise of another rank": ({"noise_std": np.ones(3)}, r"noise_std has shape \(3,\); expected a number"),
    "noise of another batch": ({"noise_std": np.ones((2, 1))}, r"noise_std has shape \(2, 1\); expected a number"),
    "noise of another size": (
        {"noise_std": np.ones((3, 2)), "method": "pigdm"},
        r"noise_std has shape \(3, 2\); expected a number, or the shape \(3, 1\) of y",
    ),
    "observations that are nan": ({"y": Y.at[0].set(jnp.nan)}, "Some observations are no finite numbers"),
    "whole numbers": ({"y": jnp.zeros((3, 1), int)}, "The observations are of type int32"),
    "no iterations": ({"iterations": 0}, "iterations is 0; expected a whole number of at least 1"),
    "no data": ({"data_std": 0.0}, "data_std is 0.0; expected a number above 0"),
    "another batch": ({"y": jnp.zeros((2, 1))}, r"shape \(2, 1\), and the operator makes \(3, 1\) of a batch"),
    "another observation": ({"y": jnp.zeros((3, 2))}, r"expected \(3, 1\), or \(1, 1\) for one observation"),
    "no batch": ({"operator": lambda x: x[:1, :1]}, r"makes \(1, 1\) of a batch of shape \(3, 2\)"),
    "a square": ({"operator": lambda x: x[:, :1] ** 2}, "The operator is not linear"),
    "a shift": (
        {"operator": lambda x: x[:, :1] + 1.0, "method": "pigdm"},
        'expected a linear function, or method="dps"',
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_told(name):
    arguments, message = WRONG[name]
    given = {"operator": lambda x: x[:, :1], "y": Y, "noise_std": 0.5, "method": "mmps"} | arguments
    with pytest.raises(UserError, match=message):
        score = posterior_score(VP(), DENSITY.score(VP()), **given)
        jax.jit(score)(jnp.zeros((3, 2)), jnp.ones(3))
