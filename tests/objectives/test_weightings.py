"""Weightings and laws of training times of recent papers, against closed forms and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from score_sde.chains import DDPM, linear_betas
from score_sde.errors import UserError
from score_sde.objectives import (
    TIME_SAMPLERS,
    WEIGHTINGS,
    EDMWeighting,
    LogitNormalTimes,
    LogNormalTimes,
    LowDiscrepancyTimes,
    MinSNRWeighting,
    P2Weighting,
    SigmoidWeighting,
    UniformTimes,
    WeightedTimes,
    flow_weighting,
    likelihood_weighting,
    make_weighting,
    score_matching_loss,
    variance_weighting,
)
from score_sde.sdes import EDM, VE, VP, Cosine, RectifiedFlow, SubVP
from tests.laws import PARAMETERIZATIONS, SDES, float64

NUMBERS = {"data_std": 0.5, "min_snr_gamma": 5.0, "p2_k": 1.0, "p2_gamma": 1.0, "sigmoid_bias": 2.0}
each_name = pytest.mark.parametrize("name", WEIGHTINGS)
GAUSS_STD = 0.5


class Linear:
    """A network of two parameters; with the right ones it is exact for N(0, 1/4) at any one time."""

    def init(self, key, shape):
        return {"a": jnp.zeros(()), "b": jnp.zeros(())}

    def apply(self, params, x, condition, *, label=None, key=None):
        return params["a"] * x + params["b"]


def exact_output(sde, kind, t):
    """The factor of x in the best output for data N(0, 1/4), from the noise at this time."""
    m, s = (c[0] for c in sde.marginal(t))
    noise = s / (m**2 * GAUSS_STD**2 + s**2)
    zero, one = (kind.noise(sde, jnp.full((1, 1), value), jnp.ones((1, 1)), t)[0, 0] for value in (0.0, 1.0))
    return (noise - zero) / (one - zero)


@pytest.mark.sweep(10)
@each_name
@pytest.mark.parametrize("output", [name for name in PARAMETERIZATIONS if name != "score"])
@pytest.mark.parametrize("sde", [VP(), RectifiedFlow(), EDM(sigma_max=5.0)], ids=["vp", "flow", "edm"])
def test_every_pair_of_target_and_weighting_is_least_at_the_exact_score(name, output, sde, key):
    """At one time all members of a line of networks are known, and none is better than the exact one."""
    t = 0.4
    kind = PARAMETERIZATIONS[output](data_std=GAUSS_STD)
    kind = kind if output == "edm" else PARAMETERIZATIONS[output](scale_input=False)
    weighting = make_weighting(name, NUMBERS)
    loss = score_matching_loss(sde, Linear(), kind, times=UniformTimes(t0=t - 1e-4, t1=t + 1e-4), weighting=weighting)
    x = GAUSS_STD * jax.random.normal(key, (20_000, 1))
    best = exact_output(sde, kind, jnp.full(1, t))
    m, s = sde.marginal(jnp.full(1, t))
    if kind.scale_input:  # the network sees x over its std
        best = best * jnp.sqrt(m[0] ** 2 * GAUSS_STD**2 + s[0] ** 2)

    def mean_loss(a):
        return jnp.mean(loss({"a": a, "b": jnp.zeros(())}, key, x, train=False))

    # A parabola: the place of its least value, from three of its values, is the exact network but for sampling error.
    low, middle, high = (float(mean_loss(best + step)) for step in (-1.0, 0.0, 1.0))
    curvature = high - 2.0 * middle + low
    assert curvature > 0.0
    assert abs((high - low) / (2.0 * curvature)) < 0.05 * (1.0 + abs(float(best)))


def test_the_weighted_loss_of_edm_is_one_per_dimension_at_every_level_of_a_gaussian():
    """Karras et al. 2022: at the optimum for N(0, d^2), and there for every level, (sigma^2 + d^2) / d^2 Var = 1."""
    sde, t = EDM(sigma_max=80.0), jnp.geomspace(1e-4, 1.0, 30)
    m, s = sde.marginal(t)
    least = (m * GAUSS_STD) ** 2 / (m**2 * GAUSS_STD**2 + s**2)  # E|n - z|^2 of the posterior mean, per dimension
    weights = EDMWeighting(data_std=GAUSS_STD)(sde, t) / s**2
    np.testing.assert_allclose(weights * least, 1.0, rtol=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_the_three_forms_of_min_snr_have_one_gradient(gamma, key):
    """Hang et al. 2023: min(snr, gamma) on data, over snr on noise, over snr + 1 on v."""
    sde, t = VP(), jnp.linspace(0.05, 0.9, 16)
    m, s = (c[:, None] for c in sde.marginal(t))
    snr = (m / s) ** 2
    data_key, noise_key, output_key = jax.random.split(key, 3)
    x0, z = jax.random.normal(data_key, (16, 3)), jax.random.normal(noise_key, (16, 3))
    xt, noise = m * x0 + s * z, jax.random.normal(output_key, (16, 3))

    def of_data(noise):
        return jnp.sum(jnp.minimum(snr, gamma) * ((xt - s * noise) / m - x0) ** 2)

    def of_noise(noise):
        return jnp.sum(jnp.minimum(snr, gamma) / snr * (noise - z) ** 2)

    def of_v(noise):
        v = (noise - s * xt) / m  # noise = m v + s x_t
        return jnp.sum(jnp.minimum(snr, gamma) / (snr + 1.0) * (v - (m * z - s * x0)) ** 2)

    w = (MinSNRWeighting(gamma=gamma)(sde, t) / sde.marginal(t).std ** 2)[:, None]
    ours = jax.grad(lambda noise: jnp.sum(w * (noise - z) ** 2))(noise)
    for form in (of_data, of_noise, of_v):
        np.testing.assert_allclose(jax.grad(form)(noise), ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sde", [RectifiedFlow(), VP(), SubVP(), Cosine(), VE()], ids=lambda sde: type(sde).__name__)
def test_the_flow_weighting_is_the_error_of_the_velocity(sde, key):
    t = jnp.linspace(0.05, 0.95, 9)
    kind = PARAMETERIZATIONS["velocity"]()
    x, u, other = jax.random.normal(key, (3, 9, 1))
    noise = [kind.noise(sde, output, x, t) for output in (u, other)]
    w = flow_weighting(sde, t) / sde.marginal(t).std ** 2
    np.testing.assert_allclose(w * (noise[0] - noise[1])[:, 0] ** 2, (u - other)[:, 0] ** 2, rtol=1e-3)


@pytest.mark.parametrize("name", SDES)
def test_the_velocity_of_a_path_is_its_derivative(name):
    """u = m' x_0 + s' z, by differentiating the path itself."""
    with float64():
        sde, t = SDES[name], jnp.float64(0.37)
        x0, z = jnp.float64(0.7), jnp.float64(-1.3)

        def path(t):
            m, s = sde.marginal(t)
            return m * x0 + s * z

        xt, velocity = jax.jvp(path, (t,), (jnp.ones_like(t),))
        kind = PARAMETERIZATIONS["velocity"]()
        noise = kind.noise(sde, velocity.reshape(1, 1), xt.reshape(1, 1), t.reshape(1))
        np.testing.assert_allclose(noise, z, rtol=1e-6)


def test_the_sigmoid_weighting_depends_on_the_schedule_through_its_ends_alone():
    """Kingma & Gao 2023: as an integral over the log-SNR it is the same under any schedule."""

    def integral(sde, low, high):
        def f(t):
            w = SigmoidWeighting(bias=0.0)(sde, jnp.float64(t)) / sde.marginal(jnp.float64(t)).std ** 2
            return float(w * jnp.cos(sde.log_snr(jnp.float64(t))) ** 2)  # of an error that depends on the log-SNR

        ends = [float(sde.inverse_log_snr(jnp.float64(value))) for value in (high, low)]
        return integrate.quad(f, *ends, limit=200)[0]

    with float64():
        found = [integral(sde, -4.0, 6.0) for sde in (VP(), Cosine(), RectifiedFlow(), EDM(sigma_max=20.0))]
    np.testing.assert_allclose(found, found[0], rtol=1e-5)


def test_p2_is_uniform_noise_at_high_noise_and_little_near_the_data():
    w = P2Weighting(k=1.0, gamma=1.0)(VP(), jnp.array([1e-3, 1.0])) / VP().marginal(jnp.array([1e-3, 1.0])).std ** 2
    s = VP().marginal(jnp.array([1e-3, 1.0])).std
    np.testing.assert_allclose(w, s**2, rtol=1e-4)  # 1 / (1 + snr) where m^2 + s^2 = 1


@pytest.mark.parametrize("name", ["likelihood", "flow", "sigmoid"])
def test_a_chain_has_no_weight_by_the_diffusion(name):
    with pytest.raises(UserError, match=f"'{name}' is by the diffusion"):
        make_weighting(name, NUMBERS)(DDPM(betas=linear_betas(10, 0.01, 0.3)), jnp.array([0.5]))


def test_a_weighting_of_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="Did you mean 'min_snr'"):
        make_weighting("minsnr", NUMBERS)


WEIGHTS = {
    "min_snr": MinSNRWeighting(),
    "p2": P2Weighting(),
    "likelihood": likelihood_weighting,
    "variance": variance_weighting,
    "edm": EDMWeighting(),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("sde", [VP(), RectifiedFlow()], ids=["vp", "flow"])
def test_times_by_their_weight_make_the_factor_constant_and_leave_the_mean(name, sde):
    """The mean over uniform times, on a fine grid in double precision; the draws all have one factor."""
    times = WeightedTimes(sde=sde, weighting=WEIGHTS[name], t0=1e-3)
    t, weight = times.at((jnp.arange(20_000) + 0.5) / 20_000)
    factor = np.asarray(weight * WEIGHTS[name](sde, t) / sde.marginal(t).std ** 2, np.float64)
    assert factor.std() < 2e-3 * factor.mean()

    with float64():
        middle = jnp.concatenate(
            [jnp.geomspace(1e-3, 0.5, 50_000), 1.0 - jnp.geomspace(0.5, 1e-7, 50_000), jnp.ones(1)]
        )
        w = WEIGHTS[name](sde, middle) / sde.marginal(middle).std ** 2
        exact = float(jnp.trapezoid(w * jnp.sin(3.0 * middle), middle)) / (1.0 - 1e-3)
    np.testing.assert_allclose((factor * np.sin(3.0 * np.asarray(t, np.float64))).mean(), exact, rtol=5e-3)


def test_with_the_likelihood_they_are_the_importance_sampled_ones():
    quantiles = jnp.linspace(0.01, 0.99, 25)
    ours = WeightedTimes(sde=VP(), weighting=likelihood_weighting).at(quantiles)
    theirs = TIME_SAMPLERS["importance"](sde=VP()).at(quantiles)
    np.testing.assert_allclose(ours.t, theirs.t, rtol=5e-3)


def test_lognormal_levels_have_their_law(key):
    sde = VE(sigma_min=1e-4, sigma_max=1e4)
    t, weight = LogNormalTimes(sde=sde, mean=-1.2, std=1.2, t0=1e-6).sample(key, 4000)
    assert stats.kstest(np.log(np.asarray(sde.marginal(t).std)), stats.norm(-1.2, 1.2).cdf).pvalue > 1e-4
    assert bool((weight == 1.0).all())


def test_times_with_a_normal_logit_have_their_law(key):
    t = np.asarray(LogitNormalTimes(mean=0.5, std=0.7, t0=1e-6).sample(key, 4000).t, np.float64)
    assert stats.kstest(np.log(t / (1.0 - t)), stats.norm(0.5, 0.7).cdf).pvalue > 1e-4


@pytest.mark.parametrize("t0", [0.3, 0.6])
def test_laws_are_cut_off_at_the_smallest_time_and_keep_their_shape(t0, key):
    t = np.asarray(LogitNormalTimes(mean=0.0, std=1.0, t0=t0).sample(key, 4000).t, np.float64)
    assert t.min() >= t0
    cut = stats.truncnorm(np.log(t0 / (1.0 - t0)), np.inf)
    assert stats.kstest(np.log(t / (1.0 - t)), cut.cdf).pvalue > 1e-4


@pytest.mark.parametrize("name", ["weighted", "lognormal", "logit_normal"])
def test_even_times_are_one_in_each_quantile(name, key):
    base = LowDiscrepancyTimes(t0=0.0)
    options = {
        "lognormal": {"sde": VP()},
        "weighted": {"sde": VP(), "weighting": MinSNRWeighting()},
        "logit_normal": {},
    }
    sampler = TIME_SAMPLERS[name](**options[name], base=base)
    edges = np.asarray(sampler.at(jnp.linspace(0.0, 1.0, 65)).t)
    counts = np.histogram(np.asarray(sampler.sample(key, 64).t), bins=edges)[0]
    assert counts.max() <= 2 and (counts == 0).sum() <= 2  # one each, but for the ends of a shifted row
