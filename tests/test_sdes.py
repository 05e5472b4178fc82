"""Laws 1 to 3: moment equations, small times, prior pairs; and the published constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from score_sde import sampling, solvers
from score_sde.chains import BETAS, DDPM, NCSN, SIGMAS, Tabulated
from score_sde.errors import UserError
from score_sde.sdes import SDE, VDM, VE, VP, SubVP
from score_sde.typing import expand_like
from tests.laws import SDES, float64

SCHEDULES = (*BETAS.values(), *SIGMAS.values())
TIMES = (1e-4, 0.01, 0.1, 0.3, 0.6, 0.9, 1.0)

each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)


@each_sde
def test_marginal_solves_the_moment_equations(sde):

    @jax.jit
    def found(t):
        def moments(t):
            m, s = sde.marginal(t)
            return m, s**2

        return *jax.jvp(moments, (t,), (jnp.ones_like(t),)), sde.drift_coeff(t), sde.diffusion(t)

    with float64():
        (m, v), (m_rate, v_rate), f, g = jax.tree.map(np.asarray, found(jnp.asarray(TIMES, jnp.float64)))
    assert np.all(np.abs(m_rate - f * m) < 1e-12 * np.maximum(1.0, np.abs(f)))
    assert np.all(np.abs(v_rate - (2 * f * v + g**2)) < 1e-12 * np.maximum(1.0, g**2))


@each_sde
def test_float32_agrees_with_float64_at_all_times(sde):
    times = np.geomspace(1e-6, 1.0, 61)
    with float64():
        t = jnp.asarray(times)
        exact = [np.asarray(v) for v in (*sde.marginal(t), sde.diffusion(t), sde.log_snr(t))]
    t = jnp.asarray(times, jnp.float32)
    single = [np.asarray(v) for v in (*sde.marginal(t), sde.diffusion(t), sde.log_snr(t))]
    for value, truth in zip(single[:3], exact[:3], strict=True):
        np.testing.assert_allclose(value, truth, rtol=2e-6)
    np.testing.assert_allclose(single[3], exact[3], atol=2e-5)


def test_vp_std_near_zero():
    std = float(VP().marginal(jnp.float32(1e-5)).std)
    assert abs(std / 0.001000497126 - 1.0) < 1e-6


@each_sde
def test_log_snr_decreases_and_inverts(sde):
    t = jnp.linspace(1e-3, 1.0, 200)
    log_snr = sde.log_snr(t)
    assert bool(jnp.all(jnp.diff(log_snr) < 0))
    m, s = sde.marginal(t)
    np.testing.assert_allclose(log_snr, 2 * (np.log(m) - np.log(s)), atol=2e-5)
    np.testing.assert_allclose(sde.inverse_log_snr(log_snr), t, rtol=2e-5)


@each_sde
def test_prior_sample_and_density_are_one_distribution(sde, key):
    z = sde.prior_sample(key, (20_000,))
    assert stats.kstest(np.asarray(z), stats.norm(0.0, float(sde.prior_std)).cdf).pvalue > 1e-3
    x = sde.prior_sample(key, (5, 3, 2))
    expected = stats.norm(0, float(sde.prior_std)).logpdf(np.asarray(x)).sum(axis=(1, 2))
    np.testing.assert_allclose(sde.prior_logp(x), expected, rtol=1e-5)


@each_sde
def test_marginal_at_one_is_close_to_the_prior(sde):
    m, s = sde.marginal(jnp.float32(1.0))
    # KL(N(m x0, s^2) || prior) per dimension for |x0| = 1.
    ratio = float(s / sde.prior_std) ** 2
    kl = 0.5 * (ratio - 1 - np.log(ratio) + float(m) ** 2 / float(sde.prior_std) ** 2)
    assert kl < 0.0201  # the worst member has sigma_max = 5: half of 1 / 25


@each_sde
def test_perturb_has_the_marginal_moments(sde, key):
    t = jnp.full((40_000,), 0.4)
    xt, noise = sde.perturb(key, jnp.full((40_000, 1), 0.7), t)
    m, s = sde.marginal(jnp.float32(0.4))
    assert abs(float(xt.mean()) - 0.7 * float(m)) < 5 * float(s) / 200
    assert abs(float(xt.std()) / float(s) - 1) < 5 / np.sqrt(2 * 40_000)
    np.testing.assert_allclose(xt, 0.7 * m + s * noise, rtol=1e-5, atol=1e-6)


@pytest.mark.sweep
@each_sde
def test_chain_of_transitions_tends_to_the_marginal(sde):
    """The forward chain is a discretization of the SDE: its moments converge to the marginal at first order."""

    def error(n):
        grid = jnp.linspace(0.0, 1.0, n + 1)
        # The convention of the VE marginal: the data count as smoothed by std(0) already.
        mean, variance = 1.0, float(sde.marginal(jnp.float64(0.0)).std) ** 2
        for a, g in zip(*map(np.asarray, sde.discrete_step(grid[:-1], grid[1:])), strict=True):
            mean, variance = mean * a, variance * a**2 + g**2
        m, std = sde.marginal(jnp.float64(1.0))
        return abs(mean - float(m)) / float(m) + abs(np.sqrt(variance) / float(std) - 1)

    with float64():
        coarse, fine = error(400), error(800)
    assert fine < 1e-6 or 1.7 < coarse / fine < 2.4
    assert fine < 0.1


def test_ve_transition_is_exact_for_any_step():
    sde = VE()
    a, g = sde.discrete_step(jnp.float32(0.2), jnp.float32(0.7))
    before, after = sde.marginal(jnp.float32(0.2)).std, sde.marginal(jnp.float32(0.7)).std
    np.testing.assert_allclose(a**2 * before**2 + g**2, after**2, rtol=1e-6)


@pytest.mark.parametrize(
    ("t", "beta", "mean", "std", "sub_std", "sub_g2", "log_snr"),
    [
        (1e-5, 0.100199, 0.9999994995, 0.001000497126, 1.000994499e-6, 2.005971952e-7, 13.814516),
        (1e-3, 0.1199, 0.9999450265, 0.01048541634, 1.099439557e-4, 2.636311127e-5, 9.115430),
        (1e-2, 0.299, 0.9990029973, 0.04464315524, 1.99301131e-3, 1.190633107e-3, 6.216114),
        (0.1, 2.09, 0.9467217988, 0.3220525355, 0.1037178356, 0.4110576091, 2.156581),
        (0.5, 10.05, 0.2811828808, 0.9596542021, 0.9209361875, 9.987176581, -2.455135),
        (1.0, 20.0, 0.006571586495, 0.9999784069, 0.9999568143, 19.99999996, -10.049957),
    ],
)
def test_published_constants(t, beta, mean, std, sub_std, sub_g2, log_snr):
    """Values of the processes of Song et al. 2021, computed independently in float64."""
    with float64():
        t, vp, sub = jnp.float64(t), VP(), SubVP()
        np.testing.assert_allclose(vp.beta(t), beta, rtol=1e-9)
        np.testing.assert_allclose(vp.marginal(t).mean_coeff, mean, rtol=1e-9)
        np.testing.assert_allclose(vp.marginal(t).std, std, rtol=1e-9)
        np.testing.assert_allclose(sub.marginal(t).std, sub_std, rtol=1e-9)
        np.testing.assert_allclose(sub.diffusion(t) ** 2, sub_g2, rtol=1e-9)
        np.testing.assert_allclose(vp.log_snr(t), log_snr, atol=1e-5)


def test_published_ve_constants():
    with float64():
        half = jnp.float64(0.5)
        for sigma_max, value in ((50, 0.7071067812), (90, 0.9486833), (348, 1.8654758), (1348, 3.671512)):
            np.testing.assert_allclose(VE(sigma_max=sigma_max).marginal(half).std, value, rtol=1e-7)
        np.testing.assert_allclose(VE().diffusion(jnp.float64(1.0)), 206.36367, rtol=1e-7)


def test_prior_densities_at_the_origin():
    zero = jnp.zeros((1, 3072))
    np.testing.assert_allclose(VP().prior_logp(zero), -2822.97917400, rtol=1e-6)
    np.testing.assert_allclose(VE().prior_logp(zero), -14840.71384668, rtol=1e-6)


@each_sde
def test_reversal_interpolates_between_flow_and_sde(sde):
    """drift = f x - (1 + eta^2)/2 g^2 score, so eta = 1 has twice the score term of eta = 0."""
    x, t = jnp.ones((2, 3)), jnp.float32(0.3)

    def score(x, t):
        return -x / expand_like(1.0 + t, x)

    drift = sde.drift(x, t)
    full, flow = sde.reverse(score), sde.probability_flow(score)
    np.testing.assert_allclose(full.drift(x, t) - drift, 2 * (flow.drift(x, t) - drift), rtol=1e-5)
    assert float(flow.diffusion(t)) == 0.0
    np.testing.assert_allclose(full.diffusion(t), sde.diffusion(t))


@each_sde
def test_default_inverse_is_the_closed_form(sde):
    """A user's process gets the inverse by bisection."""
    log_snr = sde.log_snr(jnp.linspace(0.01, 0.99, 50))
    np.testing.assert_allclose(SDE.inverse_log_snr(sde, log_snr), sde.inverse_log_snr(log_snr), rtol=1e-4)


def test_a_new_sde_needs_four_definitions():
    """A user's process gets sampling, densities and reversal from its coefficients alone."""
    assert SDE.__abstractmethods__ == {"drift_coeff", "diffusion", "marginal", "prior_std"}


@pytest.mark.parametrize("make", [VP, SubVP])
@pytest.mark.parametrize("beta_max", [178.0, 340.0])
def test_noise_that_leaves_next_to_nothing_of_the_data_keeps_its_digits(make, beta_max):
    """Where exp(B) is beyond float32 the log-SNR, its inverse and every grid are still right."""
    sde, t = make(beta_max=beta_max), np.linspace(1e-3, 1.0, 100)
    integral = 0.1 * t + 0.5 * (beta_max - 0.1) * t**2
    power = 1 if make is VP else 2
    np.testing.assert_allclose(
        sde.log_snr(jnp.asarray(t, jnp.float32)), -integral - power * np.log1p(-np.exp(-integral)), rtol=1e-6, atol=2e-6
    )
    np.testing.assert_allclose(sde.inverse_log_snr(sde.log_snr(jnp.asarray(t, jnp.float32))), t, rtol=2e-5)
    for grid in sampling.GRIDS.values():
        times = grid(sde, 50, 1e-3)
        assert bool(jnp.isfinite(times).all()) and bool((jnp.diff(times) < 0).all())


@pytest.mark.parametrize("solver", [solvers.EDMHeun(), solvers.DPMSolverSinglestep()], ids=["edm", "2s"])
def test_solvers_in_the_noise_level_follow_such_noise(solver):
    """On data N(0, 1) the VP flow stands still."""
    sde, keys = VP(beta_max=340.0), sampling.sample_keys(jax.random.key(0), 0, 3)
    start, times = sampling.prior_samples(keys, sde, (2,)), sampling.log_snr_times(sde, 300, 1e-3)
    x = sampling.integrate(keys, solver, sde.probability_flow(lambda x, t: -x), start, times).x
    np.testing.assert_allclose(x, start, rtol=0.05)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *[(lambda b=b: VP(beta_max=b), "beta_max") for b in (350.0, 1e30, float("inf"), float("nan"))],
        (lambda: SubVP(beta_max=400), "beta_max"),
        (lambda: VP(beta_max=-1.0), r"beta_max is -1\.0; expected a rate of noise"),
        (lambda: SubVP(beta_min=-0.1), r"beta_min is -0\.1; expected a rate of noise"),
        (lambda: VP(beta_min=0.0, beta_max=0.0), "beta_min and beta_max are 0"),
        (lambda: VE(sigma_max=1e20), "sigma_max"),
        (lambda: VE(sigma_min=0.0), "sigma_min"),
        (lambda: VP().discretize(10), "beta_max"),
    ],
)
def test_noise_beyond_the_numbers_is_refused_by_name(make, name):
    with pytest.raises(UserError, match=name):
        make()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: VE(sigma_min=60.0), r"sigma_min is 60\.0 and sigma_max is 50\.0; expected the first to be smaller"),
        (lambda: VE(sigma_min=5.0, sigma_max=5.0), "expected the first to be smaller"),
        (lambda: VE(sigma_max=jnp.array([50.0, 0.001])), "expected the first to be smaller"),
        (lambda: VE(sigma_max=float("nan")), "sigma_max is nan"),
        (lambda: VP(beta_min=30.0), r"beta_min is 30\.0 and beta_max is 20\.0; expected the first to be no larger"),
        (lambda: SubVP(beta_min=np.float32(30.0)), "expected the first to be no larger"),
        (lambda: DDPM(betas=jnp.zeros(0)), "no betas"),
        (lambda: DDPM(betas=jnp.array([0.1, jnp.nan])), "expected more than 0 and less than 1"),
        (lambda: NCSN(sigmas=jnp.array([50.0, 1.0])), "sigmas, 50 comes before 1; expected them to ascend"),
        (lambda: NCSN(sigmas=jnp.array([-1.0, 1.0])), "sigmas lie between -1 and 1; expected all above 0"),
        (lambda: NCSN(sigmas=jnp.array([1.0, jnp.inf])), "expected all above 0, and finite"),
        (lambda: NCSN(sigmas=jnp.zeros(0)), "no sigmas"),
        (
            lambda: Tabulated(mean_coeffs=jnp.ones(2), stds=jnp.array([2.0, 1.0])),
            "mean_coeffs, 2 comes before 1",
        ),
        (lambda: Tabulated(mean_coeffs=jnp.array([1.0, -1.0]), stds=jnp.ones(2)), "mean_coeffs is not above 0"),
        (lambda: Tabulated(mean_coeffs=jnp.ones(1), stds=jnp.ones(1), prior_std=-1.0), "prior_std is -1.0"),
        *[
            (lambda make=make: make(0), "n is 0; expected at least one level")
            for make in (*BETAS.values(), *SIGMAS.values())
        ],
        *[(lambda name=name: BETAS[name](9, 1e-4, float("nan")), "end is nan") for name in ("linear", "quad", "const")],
        *[(lambda make=make: make(9, -1.0, 1.0), "sigma_min is -1.0") for make in SIGMAS.values()],
        (
            lambda: VDM(log_snr_max=-6.0),
            r"log_snr_max is -6\.0 and log_snr_min is -5\.0; expected the first to be larger",
        ),
        (lambda: VDM(log_snr_max=1e4), r"log_snr_max is 10000\.0; expected -87"),
        *[(lambda make=make: make(9, 2.0, 1.0), "expected the first to be smaller") for make in SIGMAS.values()],
    ],
)
def test_numbers_that_make_no_process_are_refused_by_name(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_what_is_refused_is_no_process_and_what_is_not_is_one():
    """Constant rates are the Ornstein-Uhlenbeck process, whose log-SNR inverts in closed form."""
    t, sde = jnp.linspace(0.01, 1.0, 20), VP(beta_min=4.0, beta_max=4.0)
    np.testing.assert_allclose(sde.marginal(t).mean_coeff, np.exp(-2.0 * np.asarray(t)), rtol=1e-6)
    np.testing.assert_allclose(sde.inverse_log_snr(sde.log_snr(t)), t, rtol=1e-5)


def test_processes_take_numbers_that_are_traced():
    """A sweep compiles once, a batch of rates is one program, and a rate has a gradient, in processes made inside."""
    traces, t = [], jnp.float32(0.5)

    @jax.jit
    def of_rate(beta_max):
        traces.append(beta_max)
        return VP(beta_max=beta_max).marginal(t).std + SubVP(beta_min=beta_max, beta_max=30.0).log_snr(t)

    rates = jnp.array([10.0, 20.0, 30.0])
    swept = [of_rate(rate) for rate in rates]
    assert len(traces) == 1
    np.testing.assert_allclose(jax.vmap(of_rate)(rates), swept, rtol=1e-6)
    assert float(jax.grad(of_rate)(20.0)) != 0.0
    levels = jax.jit(lambda sigma: NCSN(sigmas=sigma * jnp.arange(1.0, 4.0)).prior_std)
    steps = jax.jit(lambda beta: DDPM(betas=jnp.full(3, beta)).marginal(jnp.float32(1.0)).mean_coeff)
    tables = jax.jit(
        lambda sigma: VE(sigma_max=sigma).discretize(5).prior_std + super(VE, VE()).discretize(3).prior_std
    )
    assert float(levels(2.0)) == 6.0 and float(tables(10.0)) == 60.0
    np.testing.assert_allclose(steps(0.19), 0.9**3, rtol=1e-6)
