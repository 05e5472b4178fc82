"""Law 2: every parameterization expresses the same score, and Tweedie's formula inverts the marginal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import likelihood, sampling
from score_sde.parameterization import NoisePrediction, denoise, make_score_fn, thresholded
from score_sde.sdes import VP
from score_sde.typing import expand_like
from tests.analytic import Gaussian
from tests.laws import PARAMETERIZATIONS, SDES


class Oracle:
    """A "network" that outputs what each parameterization asks for, from the exact posterior mean of the noise."""

    def __init__(self, name, parameterization, sde, noise_fn):
        self.name, self.parameterization, self.sde, self.noise_fn = name, parameterization, sde, noise_fn

    def init(self, key, shape):
        return {}

    def apply(self, params, inputs, condition, *, key=None):
        del params, key
        parameterization, sde = self.parameterization, self.sde
        log_snr = -2.0 * condition if parameterization.condition_on == "log_noise" else None
        t = condition / 999.0 if log_snr is None else sde.inverse_log_snr(log_snr)
        m, s = (expand_like(c, inputs) for c in sde.marginal(t))
        x = inputs * jnp.sqrt((m * parameterization.data_std) ** 2 + s**2) if parameterization.scale_input else inputs
        noise = self.noise_fn(x, t)
        data = (x - s * noise) / m
        # m' and s', of every path by differentiation; that of early noise is steep, and float32 loses its digits.
        mean_rate, std_rate = (expand_like(c, x) for c in jax.jvp(sde.marginal, (t,), (jnp.ones_like(t),))[1])
        d, sigma = parameterization.data_std, s / m
        c_skip, c_out = d**2 / (sigma**2 + d**2), sigma * d / jnp.sqrt(sigma**2 + d**2)
        return {
            "noise": noise,
            "score": -noise,
            "data": data,
            "v": m * noise - s * data,
            "edm": (data - c_skip * x / m) / c_out,
            "velocity": mean_rate * data + std_rate * noise,
        }[self.name]


@pytest.mark.sweep(5)
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("options", [{}, {"scale_input": True, "condition_on": "log_noise"}], ids=["plain", "scaled"])
def test_all_agree_on_one_exact_score(name, sde, options):
    density = Gaussian.correlated(4)
    exact = density.score(sde)

    def noise_fn(x, t):
        return -exact(x, t) * expand_like(sde.marginal(t).std, x)

    parameterization = PARAMETERIZATIONS[name](data_std=0.6, **options)
    score = make_score_fn(Oracle(name, parameterization, sde, noise_fn), parameterization, sde, {})
    t = jnp.array([0.05, 0.2, 0.5, 0.8])
    x, _ = sde.perturb(jax.random.key(1), jnp.asarray(density.sample(4), jnp.float32), t)
    s = expand_like(sde.marginal(t).std, x)
    np.testing.assert_allclose(s * score(x, t), s * exact(x, t), atol=2e-3)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_denoise_is_the_posterior_mean(sde):
    """For Gaussian data E[x0 | xt] = mean + m C (m^2 C + s^2)^-1 (xt - m mean)."""
    density = Gaussian.correlated(3)
    t = jnp.array([0.01, 0.3, 0.6])
    x, _ = sde.perturb(jax.random.key(2), jnp.asarray(density.sample(3), jnp.float32), t)
    for i in range(3):
        m, s = (float(c[i]) for c in sde.marginal(t))
        gain = m * density.covariance @ np.linalg.inv(m**2 * density.covariance + s**2 * np.eye(3))
        expected = density.mean + gain @ (np.asarray(x[i]) - m * density.mean)
        np.testing.assert_allclose(denoise(sde, density.score(sde), x, t)[i], expected, rtol=2e-3, atol=2e-3)


def test_scaled_inputs_have_unit_variance():
    for sde in SDES.values():
        parameterization = PARAMETERIZATIONS["edm"](data_std=0.5)
        t = jnp.linspace(0.01, 1.0, 4000)
        x0 = 0.5 * jax.random.normal(jax.random.key(0), (4000, 1))
        x, _ = sde.perturb(jax.random.key(1), x0, t)
        inputs, condition = parameterization.inputs(sde, x, t)
        assert abs(float(jnp.std(inputs)) - 1.0) < 0.05
        np.testing.assert_allclose(condition, np.log(sde.marginal(t).std / sde.marginal(t).mean_coeff), atol=1e-4)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_thresholded_scores_denoise_into_the_range(sde):
    """Inside the range nothing changes; outside, static clips to the border, dynamic shrinks towards the middle."""
    rng = np.random.RandomState(0)
    t = jnp.full(3, 0.6)
    targets = jnp.asarray(np.stack([rng.uniform(-0.9, 0.9, 50), rng.uniform(-3, 3, 50), np.full(50, 5.0)]), jnp.float32)

    def score(x, t):  # of point masses at the targets
        mean_coeff, std = sde.marginal(t)
        return (mean_coeff[:, None] * targets - x) / std[:, None] ** 2

    x = jnp.asarray(rng.randn(3, 50), jnp.float32)
    static = denoise(sde, thresholded(sde, score, low=-1.0, high=1.0), x, t)
    dynamic = denoise(sde, thresholded(sde, score, low=-1.0, high=1.0, quantile=0.9), x, t)
    np.testing.assert_allclose(static, np.clip(targets, -1, 1), atol=2e-3)
    np.testing.assert_allclose(dynamic[0], targets[0], atol=2e-3)
    bound = np.quantile(np.abs(targets[1]), 0.9)
    np.testing.assert_allclose(dynamic[1], np.clip(targets[1], -bound, bound) / bound, atol=2e-3)
    np.testing.assert_allclose(dynamic[2], 1.0, atol=2e-3)


@pytest.mark.slow
def test_the_label_of_every_example_goes_with_it_where_examples_are_taken_alone():
    """The log-density of N(label, 1) by an adaptive solve of each example, and by a grid."""

    class Labeled:
        def init(self, key, shape):
            return {}

        def apply(self, params, x, condition, *, label=None, key=None):
            ratio = jnp.exp(condition)  # s / m, so that m = 1 / sqrt(1 + ratio^2) where data keep their variance
            mean = label / jnp.sqrt(1.0 + ratio**2)
            return ratio[:, None] / jnp.sqrt(1.0 + ratio[:, None] ** 2) * (x - mean[:, None])

    sde, labels, x = VP(), jnp.array([-1, 2, 5]), jnp.array([[0.0], [1.5], [5.0]])
    options = NoisePrediction(condition_on="log_noise")
    score = make_score_fn(Labeled(), options, sde, {}, label=labels)
    score = thresholded(sde, score, low=-100.0, high=100.0)
    exact = jax.scipy.stats.norm.logpdf(x[:, 0] - labels)
    key, times = jax.random.key(0), sampling.log_snr_times(sde, 60, 1e-3)
    for run in (
        lambda x: likelihood.log_likelihood(key, sde, score, x, t0=1e-3, num_probes=None),
        lambda x: likelihood.log_likelihood_on_grid(key, sde, score, x, times, num_probes=None),
    ):
        np.testing.assert_allclose(jax.jit(run)(x).logp, exact, atol=0.02)  # the prior knows nothing of the labels
