"""Langevin Monte Carlo: its bias in closed form, none with Metropolis' test, and what annealing is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import chains, sampling
from score_sde.solvers import (
    AnnealedLangevin,
    NoPredictor,
    PredictorCorrector,
    langevin_monte_carlo,
    metropolis_langevin,
)
from tests.analytic import Gaussian, Mixture

N = 20_000
DENSITY = Gaussian.correlated(3)
INVERSE = jnp.asarray(np.linalg.inv(DENSITY.covariance), jnp.float32)
MEAN = jnp.asarray(DENSITY.mean, jnp.float32)
START = jnp.asarray(DENSITY.sample(N), jnp.float32)
KEYS = sampling.sample_keys(jax.random.key(0), 0, N)


def log_density(x):
    return -0.5 * jnp.sum((x - MEAN[None]) @ INVERSE * (x - MEAN[None]), axis=1)


def score(x):
    return -(x - MEAN[None]) @ INVERSE


def along_axes(x):
    """Variances along the axes of the covariance, in units of the density's."""
    return ((np.asarray(x) - DENSITY.mean) @ DENSITY.basis).var(axis=0) / DENSITY.eigenvalues


#: Step sizes as fractions of the smallest variance; the last is beyond the half of what is stable.
FRACTIONS = (0.5, 1.0, 2.5)


@pytest.mark.slow
def test_the_stationary_variance_is_that_of_the_discretization():
    """v / (1 - e / (4 v)) on every axis, for x <- (1 - e / 2 v) x + sqrt(e) z; one program for all step sizes."""
    traces = []

    def run(step_size):
        traces.append(1)
        return langevin_monte_carlo(KEYS, score, START, step_size=step_size, num_steps=300)

    compiled = jax.jit(run)
    for fraction in FRACTIONS:
        step_size = fraction * DENSITY.eigenvalues.min()
        expected = 1.0 / (1.0 - step_size / (4.0 * DENSITY.eigenvalues))
        measured = along_axes(compiled(jnp.float32(step_size)))
        np.testing.assert_allclose(measured, expected, rtol=5 * np.sqrt(2 / N))
        assert measured[0] > 1.0 + 5 * np.sqrt(2 / N)  # the bias is seen where the density is narrow
    assert len(traces) == 1


@pytest.mark.slow
def test_metropolis_test_takes_the_bias_away():
    compiled = jax.jit(lambda e: metropolis_langevin(KEYS, log_density, START, step_size=e, num_steps=300))
    for fraction in FRACTIONS:
        adjusted = compiled(jnp.float32(fraction * DENSITY.eigenvalues.min()))
        np.testing.assert_allclose(along_axes(adjusted.x), 1.0, rtol=5 * np.sqrt(2 / N))
        np.testing.assert_allclose(np.asarray(adjusted.x).mean(axis=0), DENSITY.mean, atol=5 * 0.5 / np.sqrt(N))
        assert 0.3 < float(adjusted.acceptance.mean()) < 1.0
    assert float(compiled(jnp.float32(1e-8)).acceptance.mean()) > 1.0 - 1e-4  # a step of no length is no question


def test_metropolis_finds_a_density_from_afar_that_is_no_gaussian():
    """The logistic density, whose variance is pi^2 / 3, from a start at 5."""
    adjusted = metropolis_langevin(
        KEYS[:8000],
        lambda x: jnp.sum(-x - 2.0 * jax.nn.softplus(-x), axis=1),
        jnp.full((8000, 1), 5.0),
        step_size=4.0,
        num_steps=200,
    )
    x = np.asarray(adjusted.x)
    variance = np.pi**2 / 3
    assert abs(x.mean()) < 5 * np.sqrt(variance / 8000)
    assert abs(x.var() - variance) < 5 * variance * np.sqrt((4.2 - 1) / 8000)  # kurtosis 4.2


@pytest.mark.sweep
@pytest.mark.parametrize("kernel", ["plain", "adjusted"])
def test_a_chain_ignores_its_neighbors(kernel):
    def run(rows):
        if kernel == "plain":
            return langevin_monte_carlo(KEYS[rows], score, START[rows], step_size=0.02, num_steps=20)
        return metropolis_langevin(KEYS[rows], log_density, START[rows], step_size=0.02, num_steps=20).x

    np.testing.assert_allclose(run(slice(0, 8))[3:6], run(slice(3, 6)), rtol=1e-4, atol=1e-6)


# The toy of Song & Ermon 2019, section 3.2.2 and figure 3: four fifths of the mass at one mode, one fifth far away.
TOY = Mixture(np.array([0.8, 0.2]), np.array([[5.0, 5.0], [-5.0, -5.0]]), np.array([1.0, 1.0]))
CHAIN = chains.NCSN(sigmas=chains.geometric_sigmas(20, 0.1, 20.0))


def share(x):
    return float((np.asarray(x).sum(axis=1) > 0).mean())


@pytest.mark.slow
def test_annealing_finds_the_weights_that_plain_langevin_misses():
    n = 5000
    start = jnp.asarray(np.random.RandomState(0).uniform(-8, 8, (n, 2)), jnp.float32)
    process = CHAIN.reverse(TOY.score(CHAIN))
    error = 5 * np.sqrt(0.8 * 0.2 / n)
    plain = langevin_monte_carlo(
        KEYS[:n], lambda x: process.score(x, jnp.float32(0.0)), start, step_size=0.1, num_steps=1000
    )
    # It ends in the mode on whose side it began: half of a square that is symmetric about both.
    assert abs(share(plain) - share(start)) < error
    assert abs(share(plain) - 0.8) > 5 * error
    solver = PredictorCorrector(predictor=NoPredictor(), corrector=AnnealedLangevin(snr=0.15), num_corrections=300)
    start = sampling.prior_samples(KEYS[:n], CHAIN, (2,))
    levels = CHAIN.times[::-1][:13]  # to a noise of 0.7, where the modes are long apart and their shares settled
    annealed = sampling.integrate(KEYS[:n], solver, process, start, levels).x
    assert abs(share(annealed) - 0.8) < error, share(annealed)
