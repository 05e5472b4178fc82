"""Importance-sampled training times: uniform in log-SNR, the mean of uniform times, a smaller variance."""

import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from score_sde.errors import UserError
from score_sde.objectives import (
    ImportanceTimes,
    LowDiscrepancyTimes,
    UniformTimes,
    likelihood_weighting,
    loss_by_noise_level,
    score_matching_loss,
    variance_weighting,
)
from score_sde.parameterization import NoisePrediction
from score_sde.processes import Marginal
from score_sde.sdes import SDE, VE, VP, SubVP
from score_sde.typing import TimeSamples
from tests.analytic import Gaussian
from tests.laws import SDES, float64


class CosineVP(SDE):
    """``m = cos(c t)``, ``s = sin(c t)``: variance preserving, with a rate that is steep at the end."""

    angle = 1.5

    def drift_coeff(self, t):
        return -self.angle * jnp.tan(self.angle * t)

    def diffusion(self, t):
        return jnp.sqrt(2.0 * self.angle * jnp.tan(self.angle * t))

    def marginal(self, t):
        return Marginal(jnp.cos(self.angle * t), jnp.sin(self.angle * t))

    @property
    def prior_std(self):
        return 1.0


class WavyVE(SDE):
    """``s^2 = t^2 + t + sin(6 t) / 7``, of which no one knows the inverse; ``g^2`` is its derivative."""

    def drift_coeff(self, t):
        return jnp.zeros_like(t)

    def diffusion(self, t):
        return jnp.sqrt(2.0 * t + 1.0 + 6.0 / 7.0 * jnp.cos(6.0 * t))

    def marginal(self, t):
        return Marginal(jnp.ones_like(t), jnp.sqrt(t**2 + t + jnp.sin(6.0 * t) / 7.0))

    @property
    def prior_std(self):
        return 1.4


USERS = {"cosine_vp": CosineVP(), "wavy_ve": WavyVE()}
ALL = {**SDES, **USERS}
each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
REFERENCE = pathlib.Path(__file__).parents[3] / "shared" / "reference" / "c_flow_f64.npz"
recorded = pytest.mark.skipif(
    not REFERENCE.is_file(), reason="the recorded values of the original code are not at hand"
)
DENSITY = Gaussian.isotropic(2, 0.5)


def rate(sde, t):
    return (sde.diffusion(t) / sde.marginal(t).std) ** 2


def integral_of_rate(sde, t0, t):
    """The integral of g^2 / s^2 by quadrature in log t, where the integrand is mild."""

    def integrand(log_t):
        t = jnp.asarray(np.exp(log_t))
        return np.asarray(t * rate(sde, t))

    return integrate.cubature(integrand, np.log([t0]), np.log([t]), rtol=1e-10, atol=1e-10).estimate[0]


@pytest.mark.sweep(4)
@pytest.mark.parametrize("t0", [1e-5, 1e-2])
@pytest.mark.parametrize("name", ALL)
def test_distribution_function_and_its_inverse_agree_with_quadrature(name, t0):
    sde = ALL[name]
    with float64():
        times = ImportanceTimes(sde=sde, t0=t0)
        total = integral_of_rate(sde, t0, 1.0)
        np.testing.assert_allclose(times.normalizer, total, rtol=1e-8)
        for quantile in (0.003, 0.2, 0.5, 0.97):
            (t,) = times.at(jnp.array([quantile])).t
            assert abs(integral_of_rate(sde, t0, float(t)) / total - quantile) < 1e-8


@pytest.mark.sweep
@pytest.mark.parametrize("name", ALL)
def test_inverse_in_single_precision(name):
    """What counts is the noise level: relative in s / m, or the log-SNR."""
    quantiles = np.linspace(0.0, 1.0, 1001)
    with float64():
        exact = ImportanceTimes(sde=ALL[name]).at(jnp.asarray(quantiles))
        levels = np.asarray(ALL[name].log_snr(exact.t))
    single = ImportanceTimes(sde=ALL[name]).at(jnp.asarray(quantiles, jnp.float32))
    with float64():
        reached = ALL[name].log_snr(jnp.asarray(np.asarray(single.t, np.float64)))
    np.testing.assert_allclose(reached, levels, atol=1e-5)
    if (
        "ve" not in name.split("_") or name == "wavy_ve"
    ):  # of VE a rounding of log sigma is one of t, not relative to it
        np.testing.assert_allclose(single.t, exact.t, rtol=5e-6)
        np.testing.assert_allclose(single.weight, exact.weight, rtol=1e-5)


@recorded
@pytest.mark.parametrize("eps", ["1e-05", "0.001", "0.01"])
@pytest.mark.parametrize("name", ["vp", "subvp"])
def test_agreement_with_the_original(name, eps):
    """Against the recorded truth to 1e-10; the code of the original itself is off by a linearisation."""
    reference, prefix = np.load(REFERENCE), f"{name}/eps{eps}/"
    with float64():
        times = ImportanceTimes(sde={"vp": VP(), "subvp": SubVP()}[name], t0=float(eps))
        t, weight = times.at(jnp.asarray(reference["u"]))
        np.testing.assert_allclose(times.normalizer, reference[prefix + "Z_exact_f64"], rtol=1e-12)
        np.testing.assert_allclose(t, reference[prefix + "t_of_u_exact_f64"], rtol=1e-10)
        np.testing.assert_allclose(t, reference[prefix + "t_of_quantile"], rtol=5e-4)
        later = reference["t"][reference["t"] >= float(eps)]
        density = rate(times.sde, jnp.asarray(later)) / times.normalizer
        np.testing.assert_allclose(density, reference[prefix + "pdf_exact_f64"][-len(later) :], rtol=1e-10)
        np.testing.assert_allclose(weight, 1.0 / (1.0 - float(eps)) / (rate(times.sde, t) / times.normalizer))


@pytest.mark.sweep(3)
@pytest.mark.parametrize("base", [UniformTimes(t0=0.0), LowDiscrepancyTimes(t0=0.0)], ids=["iid", "low_discrepancy"])
@pytest.mark.parametrize("name", ALL)
def test_draws_are_uniform_in_log_snr_and_average_over_uniform_time(name, base, key):
    sde = ALL[name]
    times = ImportanceTimes(sde=sde, t0=0.01, base=base)
    t, weight = jax.vmap(lambda k: times.sample(k, 8))(jax.random.split(key, 4000))
    start, end = (float(sde.log_snr(jnp.float32(edge))) for edge in (0.01, 1.0))
    assert stats.kstest(np.asarray(sde.log_snr(t[:, 3])), stats.uniform(end, start - end).cdf).pvalue > 1e-3
    assert float(t.min()) >= np.float32(0.01) and float(t.max()) <= 1.0
    for moment, truth in ((0, 1.0), (1, 0.505), (2, (1.0 - 1e-6) / 2.97)):
        means = np.asarray(weight * t**moment).mean(axis=1)
        assert abs(means.mean() - truth) < 5 * means.std() / np.sqrt(len(means)) + 1e-5


def test_ve_times_are_uniform():
    u = jnp.linspace(0.0, 1.0, 101)
    samples = ImportanceTimes(sde=VE(), t0=0.01).at(u)
    np.testing.assert_allclose(samples.t, UniformTimes(t0=0.01).at(u).t, atol=1e-6)
    np.testing.assert_allclose(samples.weight, 1.0, rtol=2e-6)


def test_low_discrepancy_puts_one_time_into_each_stratum_of_log_snr(key):
    sde = VP()
    t = ImportanceTimes(sde=sde, base=LowDiscrepancyTimes(t0=0.0)).sample(key, 50).t
    start, end = sde.log_snr(jnp.float32(1e-5)), sde.log_snr(jnp.float32(1.0))
    strata = np.floor(np.asarray((start - sde.log_snr(t)) / (start - end)) * 50)
    assert sorted(strata.astype(int)) == list(range(50))


def test_a_chain_is_refused(key):
    with pytest.raises(UserError, match="a chain has none"):
        ImportanceTimes(sde=VP().discretize(100), t0=0.01).sample(key, 2)


def test_new_coefficients_do_not_retrace(key):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def sample(times):
        return times.sample(key, 4)

    for beta_max in (10.0, 20.0):
        sample(ImportanceTimes(sde=VP(beta_max=beta_max), t0=1e-3))
    chex.clear_trace_counter()


class ExactNoise:
    """The exact noise prediction of N(0, 1/4)."""

    def __init__(self, sde):
        self.sde = sde

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, key=None):
        m, s = self.sde.marginal(condition / 999.0)
        return x * (s / (0.25 * m**2 + s**2))[:, None]


def loss_maker(sde, weighting=likelihood_weighting):
    return functools.partial(score_matching_loss, sde, ExactNoise(sde), NoisePrediction(), weighting=weighting)


def exact_moments(sde, t0, importance):
    """Mean and variance of the likelihood-weighted loss of one example by quadrature, for N(0, 1/4) in two dimensions.

    The error of the exact prediction is ``k chi`` with ``k = m^2 / (m^2 + 4 s^2)`` and ``chi`` the mean of two squared
    normal variables, of mean 1 and mean square 2.
    """
    with float64():
        times = ImportanceTimes(sde=sde, t0=t0)
        n = 20_000
        # In log-SNR the integrands are smooth: midpoints in it, converted to averages over uniform time.
        t, weight = times.at(jnp.asarray((np.arange(n) + 0.5) / n))
        m, s = sde.marginal(t)
        k = m**2 / (m**2 + 4.0 * s**2)
        factor = rate(sde, t)
        mean = float(jnp.mean(weight * factor * k))
        factor_squared = (factor * weight) ** 2 if importance else weight * factor**2
        return mean, float(2.0 * jnp.mean(factor_squared * k**2)) - mean**2


@pytest.mark.parametrize(("name", "gain"), [("vp", 5.0), ("subvp", 5.0), ("ve", 1.0)])
def test_loss_has_the_mean_of_the_uniform_one_and_less_variance(name, gain, key):
    sde, n = SDES[name], 400_000
    x = jnp.asarray(DENSITY.sample(n), jnp.float32)
    make_loss = loss_maker(sde)
    mean, variance = exact_moments(sde, 1e-5, importance=True)
    uniform_mean, uniform_variance = exact_moments(sde, 1e-5, importance=False)
    np.testing.assert_allclose(mean, uniform_mean, rtol=1e-9)
    assert uniform_variance / variance >= gain * (1.0 - 1e-6)
    losses = np.asarray(make_loss(times=ImportanceTimes(sde=sde))({}, key, x, train=False), np.float64)
    assert abs(losses.mean() - mean) < 5 * np.sqrt(variance / n)
    np.testing.assert_allclose(losses.var(), variance, rtol=0.02)
    uniform = np.asarray(make_loss(times=UniformTimes())({}, key, x, train=False), np.float64)
    assert abs(uniform.mean() - mean) < 5 * np.sqrt(uniform_variance / n)


@each_sde
def test_likelihood_weighting_becomes_a_constant_in_noise_space(sde, key):
    """Also at the smallest times, where the weight and its inverse differ by twelve orders of magnitude."""
    x = jnp.asarray(DENSITY.sample(512), jnp.float32)
    times = ImportanceTimes(sde=sde, t0=1e-5, base=LowDiscrepancyTimes(t0=0.0))
    t = times.sample(jax.random.split(key, 3)[0], 512).t
    plain = loss_maker(sde, lambda sde, t: sde.marginal(t).std ** 2)(times=Fixed(TimeSamples(t, jnp.ones(512))))
    weighted = loss_maker(sde)(times=times)({}, key, x, train=False)
    constant = times.normalizer / (1.0 - 1e-5)
    np.testing.assert_allclose(weighted, constant * plain({}, key, x, train=False), rtol=1e-5)


class Fixed:
    """A time sampler of given samples."""

    def __init__(self, samples):
        self.samples = samples

    def sample(self, key, n):
        return self.samples


class FixedModel:
    """The network that the values of the original were recorded with."""

    def init(self, key, shape):
        return {}

    def apply(self, params, x, condition, *, key=None):
        label = condition[:, None, None, None]
        return jnp.tanh(0.5 * x) * (1.0 + 0.1 * jnp.cos(0.05 * label)) + 0.01 * jnp.sin(0.3 * label)


@recorded
@pytest.mark.parametrize("reduce_mean", [True, False])
@pytest.mark.parametrize("eps", ["1e-05", "0.01"])
@pytest.mark.parametrize("name", ["vp", "subvp"])
def test_loss_agrees_with_the_original(name, eps, reduce_mean, key):
    """Of the original the constant is left out of the loss."""
    reference = np.load(REFERENCE)

    with float64():
        noise = jnp.asarray(reference["loss/z_nhwc"])
        base = {"vp": VP, "subvp": SubVP}[name]

        class Recorded(base):
            def perturb(self, key, x0, t):
                m, s = (c[:, None, None, None] for c in self.marginal(t))
                return m * x0 + s * noise, noise

        times = ImportanceTimes(sde=base(), t0=float(eps))
        samples = times.at(jnp.asarray(reference["loss/u"]))
        loss_fn = score_matching_loss(
            Recorded(),
            FixedModel(),
            NoisePrediction(),
            times=Fixed(samples),
            weighting=likelihood_weighting,
            reduce_mean=reduce_mean,
        )
        loss = loss_fn({}, key, jnp.asarray(reference["loss/batch_nhwc"]), train=False).mean()
        prefix = f"loss/{name}/eps{eps}/"
        np.testing.assert_allclose(samples.t, reference[prefix + "t_iw"], rtol=5e-4)
        truth = reference[f"{prefix}lw1_iw1_rm{int(reduce_mean)}"]
        np.testing.assert_allclose(loss * (1.0 - float(eps)) / times.normalizer, truth, rtol=2e-4)


@pytest.mark.sweep
@pytest.mark.parametrize("weighting", [likelihood_weighting, variance_weighting])
@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_loss_by_noise_level_adds_up(name, weighting, key):
    """The shares, means and standard deviations of the levels give those of the whole, measured and exact."""
    sde = SDES[name]
    x, many = (jnp.asarray(DENSITY.sample(n), jnp.float32) for n in (3000, 200_000))
    make_loss = loss_maker(sde, weighting)
    levels = loss_by_noise_level({}, key, x, sde=sde, make_loss=make_loss, t0=1e-3, num_levels=12)
    np.testing.assert_allclose(np.diff(levels.log_snr), np.diff(levels.log_snr)[0], rtol=1e-4)
    np.testing.assert_allclose(sde.log_snr(levels.t), levels.log_snr, atol=1e-4)
    for law, times in (
        (levels.uniform, UniformTimes(t0=1e-3)),
        (levels.importance, ImportanceTimes(sde=sde, t0=1e-3)),
    ):
        assert abs(float(law.share.sum()) - 1.0) < 1e-5
        whole = np.asarray(make_loss(times=times)({}, key, many, train=False), np.float64)
        mean, std = (float(value) for value in law.total)
        assert abs(mean - whole.mean()) < 5 * whole.std() / np.sqrt(len(x))
        np.testing.assert_allclose(std, whole.std(), rtol=0.1)
        drawn = np.histogram(np.asarray(times.sample(key, 20_000).t), np.asarray(levels.t))[0] / 20_000
        np.testing.assert_allclose(law.share, drawn, atol=5 * 0.5 / np.sqrt(20_000))
    contributions = [law.share * law.mean for law in (levels.uniform, levels.importance)]
    np.testing.assert_allclose(*contributions, rtol=0.1)  # a level contributes the same under either law


def test_importance_sampling_evens_out_the_levels(key):
    """Under uniform times the rare small ones make the variance; under importance sampling all levels are alike."""
    sde = VP()
    x = jnp.asarray(DENSITY.sample(3000), jnp.float32)
    levels = loss_by_noise_level({}, key, x, sde=sde, make_loss=loss_maker(sde), num_levels=10)
    # The error is the whole noise on the clean half of the levels.
    clean = slice(0, 4)
    assert float(levels.uniform.std[clean].max() / levels.uniform.std[clean].min()) > 100
    assert float(levels.importance.std[clean].max() / levels.importance.std[clean].min()) < 1.1
    (mean, std), (mean_uniform, std_uniform) = levels.importance.total, levels.uniform.total
    expected = [exact_moments(sde, 1e-5, importance) for importance in (True, False)]
    np.testing.assert_allclose([mean, mean_uniform], [e[0] for e in expected], rtol=0.03)
    np.testing.assert_allclose([std, std_uniform], np.sqrt([e[1] for e in expected]), rtol=0.1)
