"""Twisted diffusion: an unbiased evidence for every number of particles, the posterior as they grow, and its parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.conditioning import twisted, twisted_diffusion
from score_sde.errors import UserError
from score_sde.sdes import VE, VP
from tests.analytic import Gaussian, Mixture

DENSITY = Gaussian.correlated(2, std=1.0)
FIRST = np.array([[1.0, 0.0]])
Y, NOISE = 0.97, 0.5
SDES = {"vp": VP(), "ve": VE(sigma_max=10.0)}
each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)


def observe(x):
    return x[:, :1]


def law_of_the_model(sde, times):
    """Mean and covariance of ancestral samples of the Gaussian along a grid, denoised at its end."""
    m, s = (np.asarray(c, np.float64) for c in sde.marginal(times))
    mean, covariance = np.zeros(2), float(sde.prior_std) ** 2 * np.eye(2)

    def scored(i):
        precision = np.linalg.inv(m[i] ** 2 * DENSITY.covariance + s[i] ** 2 * np.eye(2))
        return -precision, precision @ (m[i] * DENSITY.mean)

    for i in range(len(times) - 1):
        matrix, offset = scored(i)
        a = m[i] / m[i + 1]
        noise = s[i] ** 2 - (a * s[i + 1]) ** 2
        step = (np.eye(2) + noise * matrix) / a
        mean = step @ mean + noise * offset / a
        covariance = step @ covariance @ step.T + noise * (s[i + 1] / s[i]) ** 2 * np.eye(2)
    matrix, offset = scored(-1)
    end = (np.eye(2) + s[-1] ** 2 * matrix) / m[-1]
    return end @ mean + s[-1] ** 2 * offset / m[-1], end @ covariance @ end.T


def given_first(mean, covariance):
    """Evidence, mean and covariance of a Gaussian given its first value with noise."""
    total = covariance[0, 0] + NOISE**2
    K = covariance[:, 0] / total
    evidence = np.exp(-0.5 * (Y - mean[0]) ** 2 / total) / np.sqrt(2 * np.pi * total)
    return evidence, mean + K * (Y - mean[0]), covariance - np.outer(K, covariance[0])


def repeated(sde, count, *, num_particles, steps=12, seed=0, resample_below=(0.5,)):
    """Independent runs of few coarse steps, so that the law of the model is not the law of the data."""
    times = sampling.log_snr_times(sde, steps, 1e-2)

    def run(key, below):
        settings = {"shape": (2,), "times": times, "num_particles": num_particles, "resample_below": below}
        return twisted_diffusion(key, sde, DENSITY.score(sde), observe, jnp.array([[Y]]), NOISE, **settings)

    keys = jax.random.split(jax.random.key(seed), count * len(resample_below))
    return jax.jit(jax.vmap(run))(keys, jnp.repeat(jnp.array(resample_below), count)), law_of_the_model(sde, times)


@pytest.mark.sweep
@each_sde
def test_the_evidence_is_unbiased_however_few_the_particles(sde):
    """Without resampling, with some, and with resampling at every step."""
    particles, law = repeated(sde, 3000, num_particles=4, resample_below=(0.0, 0.5, 1.0))
    exact, _, _ = given_first(*law)
    for found in np.split(np.exp(np.asarray(particles.log_evidence, np.float64)), 3):
        error = found.std() / np.sqrt(len(found))
        assert error < 0.03 * exact
        assert abs(found.mean() - exact) < 4.5 * error, (found.mean(), exact, error)


@pytest.mark.sweep
@each_sde
def test_many_particles_have_the_exact_posterior(sde):
    particles, law = repeated(sde, 1, num_particles=20_000)
    _, mean, covariance = given_first(*law)
    weights, x = np.exp(np.asarray(particles.log_weights[0], np.float64)), np.asarray(particles.x[0])
    assert abs(weights.sum() - 1.0) < 1e-4
    np.testing.assert_allclose(weights @ x, mean, atol=0.04)
    np.testing.assert_allclose(np.cov(x.T, aweights=weights), covariance, atol=0.04)
    draws = np.asarray(jax.tree.map(lambda leaf: leaf[0], particles).draws(jax.random.key(1)))
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.05)
    assert (np.asarray(particles.effective_sizes) <= 20_000 * 1.001).all()


@pytest.mark.slow
def test_the_error_falls_like_one_over_the_root_of_the_number():
    """Of the mean and of the log-evidence, between 16 and 256 particles: by a factor of 4."""
    spreads = []
    for count in (16, 256):
        particles, _ = repeated(VP(), 300, num_particles=count, seed=1)
        means = jnp.einsum("rk,rki->ri", jnp.exp(particles.log_weights), particles.x)
        spreads.append([float(means[:, 0].std()), float(particles.log_evidence.std())])
    np.testing.assert_allclose(np.divide(*spreads), 4.0, rtol=0.3)


@pytest.mark.slow
def test_a_mixture_has_its_posterior_weights_and_its_evidence():
    """Three modes, of which the observation excludes one and leaves the others at weights of their own."""
    sde, prior, noise_std, y = VP(), Mixture.three(), 0.5, 0.2
    times = sampling.log_snr_times(sde, 200, 1e-4)

    def run(key):
        settings = {"shape": (2,), "times": times, "num_particles": 4000, "data_std": 0.7}
        return twisted_diffusion(key, sde, prior.score(sde), observe, jnp.array([[y]]), noise_std, **settings)

    particles = jax.jit(run)(jax.random.key(0))
    totals = prior.stds**2 + noise_std**2
    evidences = np.exp(-0.5 * (y - prior.means[:, 0]) ** 2 / totals) / np.sqrt(2 * np.pi * totals)
    exact = prior.weights * evidences
    np.testing.assert_allclose(np.exp(float(particles.log_evidence)), exact.sum(), rtol=0.1)
    nearest = np.abs(np.asarray(particles.x)[:, None] - prior.means[None]).sum(axis=-1).argmin(axis=1)
    found = np.bincount(nearest, weights=np.exp(np.asarray(particles.log_weights)), minlength=3)
    np.testing.assert_allclose(found, exact / exact.sum(), atol=0.05)


def test_resampling_keeps_every_particle_as_often_as_its_weight_says():
    weights = np.random.RandomState(0).dirichlet(np.ones(7))
    draw = jax.jit(jax.vmap(lambda key: twisted.systematic(key, jnp.log(jnp.asarray(weights, jnp.float32)))))
    drawn = draw(jax.random.split(jax.random.key(0), 400))
    counts = np.stack([np.bincount(row, minlength=7) for row in np.asarray(drawn)])
    assert (np.abs(counts - 7 * weights) < 1.0 + 1e-4).all()
    np.testing.assert_allclose(counts.mean(axis=0), 7 * weights, atol=0.1)


WRONG = {
    "no particles": ({"num_particles": 0}, "num_particles is 0; expected a whole number of at least 1"),
    "no share": ({"resample_below": 2.0}, "resample_below is 2.0; expected a share"),
    "exact": ({"noise_std": 0.0}, "noise_std is 0.0; expected a finite number above 0, by which"),
    "infinite noise": ({"noise_std": np.inf}, "noise_std is inf; expected a finite number above 0"),
    "noise of another shape": (
        {"noise_std": jnp.ones((64, 1))},
        r"noise_std has shape \(64, 1\); expected a number, or the shape \(1, 1\) of the observation",
    ),
    "an observation that is nan": ({"y": jnp.full((1, 1), jnp.nan)}, "expected finite observations"),
    "several observations": ({"y": jnp.zeros((3, 1))}, r"The observation has shape \(3, 1\), .* expected \(1, 1\)"),
    "a grid upwards": ({"times": jnp.array([0.1, 1.0])}, "expected times that decrease strictly"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_told(name):
    arguments, message = WRONG[name]
    settings = {"y": jnp.zeros((1, 1)), "noise_std": 0.5, "shape": (2,), "times": sampling.uniform_times(3)} | arguments
    with pytest.raises(UserError, match=message):
        twisted_diffusion(jax.random.key(0), VP(), DENSITY.score(VP()), observe, **settings)
