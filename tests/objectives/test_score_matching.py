"""Laws 5 and 6: the loss at the exact score takes its analytic value and is a minimum; times and weightings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from score_sde.objectives import (
    TIME_SAMPLERS,
    LowDiscrepancyTimes,
    UniformTimes,
    likelihood_weighting,
    score_matching_loss,
    variance_weighting,
)
from score_sde.parameterization import NoisePrediction
from tests.analytic import Gaussian
from tests.laws import SDES

each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
DENSITY = Gaussian.isotropic(2, 0.5)


class TiltedScore:
    """The exact noise prediction of N(0, 1/4), plus ``a + b x`` with trainable a and b."""

    def __init__(self, sde):
        self.sde = sde

    def init(self, key, shape):
        return {"a": jnp.zeros(()), "b": jnp.zeros(())}

    def apply(self, params, x, condition, *, key=None):
        m, s = self.sde.marginal(condition / 999.0)
        exact = x * (s / (0.25 * m**2 + s**2))[:, None]
        return exact + params["a"] + params["b"] * jnp.tanh(x)


def make(sde, *, weighting=variance_weighting, times=None, reduce_mean=True):
    network = TiltedScore(sde)
    times = times or UniformTimes(t0=1e-3)
    return score_matching_loss(
        sde, network, NoisePrediction(), times=times, weighting=weighting, reduce_mean=reduce_mean
    ), network.init(None, None)


def analytic_loss(sde, weighting):
    """E|z - E[z | xt]|^2 per dimension = m^2 v / (m^2 v + s^2), averaged over time."""

    def integrand(t):
        t = jnp.asarray(t, jnp.float32)
        m, s = (float(c) for c in sde.marginal(t))
        weight = float(weighting(sde, t)) / s**2
        return weight * 0.25 * m**2 / (0.25 * m**2 + s**2)

    return integrate.quad(integrand, 1e-3, 1.0, limit=200, epsrel=1e-5)[0] / (1.0 - 1e-3)


@pytest.mark.sweep(5)
@each_sde
@pytest.mark.parametrize("weighting", [variance_weighting, likelihood_weighting])
def test_value_at_the_exact_score(sde, weighting):
    loss_fn, params = make(sde, weighting=weighting, times=LowDiscrepancyTimes(t0=1e-3))
    x = jnp.asarray(DENSITY.sample(100_000), jnp.float32)
    losses = np.asarray(loss_fn(params, jax.random.key(0), x, train=False))
    assert abs(losses.mean() - analytic_loss(sde, weighting)) < 5 * losses.std() / np.sqrt(len(losses))


@pytest.mark.sweep
@each_sde
def test_gradient_vanishes_at_the_exact_score_and_only_there(sde):
    loss_fn, params = make(sde)

    def gradient(params, key):
        data_key, loss_key = jax.random.split(key)
        x = 0.5 * jax.random.normal(data_key, (512, 2))
        return jax.grad(lambda p: loss_fn(p, loss_key, x, train=True).mean())(params)

    keys = jax.random.split(jax.random.key(1), 200)
    at_minimum = jax.lax.map(lambda k: gradient(params, k), keys)
    for name in params:
        g = np.asarray(at_minimum[name])
        assert abs(g.mean()) < 5 * g.std() / np.sqrt(len(g))
    away = jax.lax.map(lambda k: gradient({"a": jnp.float32(0.1), "b": jnp.float32(0.1)}, k), keys)
    for name in params:
        g = np.asarray(away[name])
        assert g.mean() > 20 * g.std() / np.sqrt(len(g))


def test_half_sum_is_half_the_dimension_times_the_mean():
    x = jnp.asarray(DENSITY.sample(64), jnp.float32)
    sde = SDES["ve"]
    mean, params = make(sde)
    half_sum, _ = make(sde, reduce_mean=False)
    key = jax.random.key(3)
    np.testing.assert_allclose(
        half_sum(params, key, x, train=False), mean(params, key, x, train=False) * 2 / 2, rtol=1e-6
    )
    wide = jnp.tile(x, (1, 4))
    np.testing.assert_allclose(
        half_sum(params, key, wide, train=False), mean(params, key, wide, train=False) * 8 / 2, rtol=1e-6
    )


@each_sde
def test_likelihood_weighting_multiplies_by_g2_over_s2(sde):
    x, key = jnp.asarray(DENSITY.sample(256), jnp.float32), jax.random.key(4)
    times = LowDiscrepancyTimes(t0=1e-3)
    plain, params = make(sde, times=times)
    weighted, _ = make(sde, weighting=likelihood_weighting, times=times)
    t = times.sample(jax.random.split(key, 3)[0], 256).t
    ratio = (sde.diffusion(t) / sde.marginal(t).std) ** 2
    np.testing.assert_allclose(
        weighted(params, key, x, train=False), ratio * plain(params, key, x, train=False), rtol=1e-4
    )


@pytest.mark.parametrize("name", ["uniform", "low_discrepancy", "levels"])
def test_times_are_uniform_and_weights_one(name, key):
    sampler = TIME_SAMPLERS[name](t0=0.01)
    t, weight = jax.vmap(lambda k: sampler.sample(k, 8))(jax.random.split(key, 2000))
    assert stats.kstest(np.asarray(t[:, 3]), stats.uniform(0.01, 0.99).cdf).pvalue > 1e-3
    assert float(weight.mean()) == 1.0
    assert float(t.min()) >= np.float32(0.01) and float(t.max()) <= 1.0


def test_low_discrepancy_has_one_time_per_stratum_and_less_variance(key):
    t = np.asarray(LowDiscrepancyTimes(t0=0.0).sample(key, 50).t)
    assert sorted(np.floor(t * 50).astype(int)) == list(range(50))
    keys = jax.random.split(key, 200)

    def spread(sampler):
        return float(jnp.std(jax.vmap(lambda k: sampler.sample(k, 50).t.mean())(keys)))

    assert spread(LowDiscrepancyTimes()) < spread(UniformTimes()) / 5
