"""The bound on the negative log-likelihood: its expectation, its gap and its standard error in closed form."""

import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from score_sde.errors import UserError
from score_sde.likelihood import bound_draw, nll_bound
from score_sde.likelihood.bound import noise_error
from score_sde.sdes import VDM, VE, VP, SubVP
from score_sde.typing import expand_like
from tests.analytic import Gaussian
from tests.laws import float64

# Processes that end far from their prior, so that the gap of the bound stands out from its error.
SHORT = {"vp": VP(beta_max=3.0), "subvp": SubVP(beta_max=3.0), "ve": VE(sigma_max=0.8), "vdm": VDM(log_snr_min=1.0)}
FULL = {"vp": VP(), "subvp": SubVP(), "ve": VE()}
each_short = pytest.mark.parametrize("sde", SHORT.values(), ids=SHORT)
each_full = pytest.mark.parametrize("sde", FULL.values(), ids=FULL)
DENSITY = Gaussian.correlated(4)
N = 2000
X = jnp.asarray(DENSITY.sample(N), jnp.float32)
KEY = jax.random.key(7)


def measure(sde, x=X, score=None, key=KEY, **options):
    score = DENSITY.score(sde) if score is None else score
    return jax.jit(lambda x: nll_bound(key, sde, score, x, **options))(x)


def gaussian_kl(variance, mean, other):
    """KL(N(mean, variance) || N(0, other)), summed over axes."""
    ratio = variance / other
    return 0.5 * float(np.sum(ratio - 1.0 - np.log(ratio) + mean**2 / other))


def prior_kl(sde):
    m, variance = (np.asarray(c)[0] for c in DENSITY.variances(sde, jnp.ones(1)))
    return gaussian_kl(variance, m * DENSITY.mean @ DENSITY.basis, float(sde.prior_std) ** 2)


def decoder_kl(sde, t):
    """Of the posterior of x given x_t, whose mean the decoder shares, to the decoder."""
    m, s = (float(c) for c in sde.marginal(jnp.float32(t)))
    posterior = 1.0 / (1.0 / DENSITY.eigenvalues + m**2 / s**2)
    return gaussian_kl(posterior, 0.0, s**2 / m**2)


def mean_and_error(values):
    values = np.asarray(values, np.float64)
    return values.mean(), values.std() / np.sqrt(len(values))


@pytest.mark.sweep(5)
@pytest.mark.parametrize(
    "options",
    [
        {"form": "denoising"},
        {"form": "denoising", "importance": False},
        {"form": "sliced", "num_probes": None, "importance": False},
        {"form": "sliced", "num_probes": 2, "probe_kind": "gaussian"},
    ],
    ids=["denoising", "denoising-uniform", "sliced-exact-uniform", "sliced-gaussian"],
)
@each_short
def test_gap_of_the_exact_score_is_the_mismatch_of_prior_and_decoder(sde, options):
    t_min = 0.1
    bound = measure(sde, t_min=t_min, num_times=64, **options)
    density = stats.multivariate_normal(DENSITY.mean, DENSITY.covariance)
    gap, error = mean_and_error(np.asarray(bound.value) + density.logpdf(np.asarray(X, np.float64)))
    truth = prior_kl(sde) + decoder_kl(sde, t_min)
    assert abs(gap - truth) < 5 * error
    assert gap > 5 * error  # a bound, and one that the error does not hide
    # Without the decoder it is a bound on the density at t_min, whose mean is an entropy.
    variance = np.asarray(DENSITY.variances(sde, jnp.full(1, t_min))[1])[0]
    entropy = 0.5 * np.sum(np.log(2.0 * np.pi * np.e * variance))
    gap, error = mean_and_error(bound.prior + bound.integral - entropy)
    assert abs(gap - prior_kl(sde)) < 5 * error


def test_the_offset_is_what_the_decoder_adds():
    with_it, without = (measure(SHORT["vp"], t_min=0.1, num_times=4, offset=offset) for offset in (True, False))
    np.testing.assert_array_equal(without.offset, 0.0)
    np.testing.assert_allclose(with_it.integral, without.integral, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(with_it.value - with_it.offset, without.value, rtol=1e-5, atol=1e-5)
    assert bool((with_it.std_error > without.std_error).all())


@pytest.mark.sweep
@each_full
def test_the_bound_is_tight_at_the_usual_settings(sde):
    """In single precision and down to 1e-5 the gap is small; what there is, is that of the prior and the decoder."""
    bound = measure(sde, num_times=256)
    density = stats.multivariate_normal(DENSITY.mean, DENSITY.covariance)
    gap, error = mean_and_error(np.asarray(bound.value) + density.logpdf(np.asarray(X, np.float64)))
    assert abs(gap - prior_kl(sde) - decoder_kl(sde, 1e-5)) < 5 * error
    assert abs(gap) < 0.1


@pytest.mark.sweep
@pytest.mark.parametrize("form", ["denoising", "sliced"])
@each_short
def test_a_perturbed_score_loosens_the_bound_by_half_of_g2_delta2(sde, form):
    t_min, size = 0.05, 0.4
    exact = DENSITY.score(sde)

    def perturbed(x, t):
        return exact(x, t) + size * x / expand_like(sde.marginal(t).std, x)

    def integrand(t):
        t = jnp.full(1, t)
        m, variance = (np.asarray(c)[0] for c in DENSITY.variances(sde, t))
        square = np.sum(variance) + np.sum((m * DENSITY.mean) ** 2)
        return 0.5 * (float(sde.diffusion(t)[0]) * size / float(sde.marginal(t).std[0])) ** 2 * square

    truth = integrate.quad(integrand, t_min, 1.0, epsrel=1e-6)[0]
    options = {"t_min": t_min, "num_times": 64, "form": form, "offset": False}
    growth = measure(sde, score=perturbed, **options).value - measure(sde, **options).value
    mean, error = mean_and_error(growth)
    assert abs(mean - truth) < 5 * error
    assert error < 0.02 * truth


@pytest.mark.sweep
@pytest.mark.parametrize(("form", "importance"), [("denoising", True), ("sliced", False)])
@each_full
def test_the_reported_error_is_the_observed_one(sde, form, importance):
    """Over many copies of one example, each with draws of its own; with an offset that contributes."""
    copies = jnp.tile(X[:1], (N, 1))
    bound = measure(sde, copies, t_min=0.02, num_times=16, form=form, importance=importance)
    reported = np.sqrt(np.mean(np.asarray(bound.std_error) ** 2))
    assert 0.9 < reported / np.asarray(bound.value).std() < 1.1


@pytest.mark.sweep
@pytest.mark.parametrize("form", ["denoising", "sliced"])
def test_strata_and_closed_forms_take_variance_away(form):
    """Beside a plain mean over independent times of the integrand of theorem 3, at equal evaluations."""
    sde, n, num_times = VP(), 1000, 64
    x = jnp.tile(X[:1], (n, 1))
    value = measure(sde, x, num_times=num_times, form=form).value
    start, end = (float(sde.log_snr(jnp.float32(t))) for t in (1e-5, 1.0))

    @jax.jit
    def plain(key):
        keys = jax.random.split(key, 3)
        t = sde.inverse_log_snr(jax.random.uniform(keys[0], (n,), minval=end, maxval=start))
        probes = jax.random.rademacher(keys[2], (n, 1, 4), float) if form == "sliced" else None
        return noise_error(sde, DENSITY.score(sde), x, t, jax.random.normal(keys[1], x.shape), probes)

    errors = np.stack([np.asarray(plain(key)) for key in jax.random.split(KEY, num_times)])
    spread = 0.5 * (start - end) * errors.mean(axis=0).std()
    assert spread > 2.0 * float(value.std())


@pytest.mark.sweep
@each_full
def test_an_example_does_not_depend_on_its_batch(sde):
    """Also of one so large that the compiler would make other kernels of it."""
    options = {"num_times": 8, "form": "denoising"}
    whole = measure(sde, jnp.asarray(DENSITY.sample(6000), jnp.float32), **options)
    first = measure(sde, jnp.asarray(DENSITY.sample(6000)[:3], jnp.float32), **options)
    np.testing.assert_allclose(first.value, whole.value[:3], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(first.std_error, whole.std_error[:3], rtol=1e-4)


@each_full
def test_single_precision_suffices_at_the_smallest_times(sde):
    noise = np.random.RandomState(1).randn(N, 4)
    t = np.full(N, 1e-5)
    with float64():
        exact = noise_error(sde, DENSITY.score(sde), *(jnp.asarray(a) for a in (DENSITY.sample(N), t, noise)))
    single = noise_error(sde, DENSITY.score(sde), *(jnp.asarray(a, jnp.float32) for a in (DENSITY.sample(N), t, noise)))
    np.testing.assert_allclose(single, exact, rtol=1e-3, atol=1e-5)


def test_an_image_is_its_flat_vector():
    sde = VP()
    score = DENSITY.score(sde)

    def image_score(x, t):
        return score(x.reshape(-1, 4), t).reshape(x.shape)

    flat = measure(sde, X[:5], num_times=16, form="sliced")
    image = measure(sde, X[:5].reshape(5, 2, 2, 1), score=image_score, num_times=16, form="sliced")
    for a, b in zip(flat, image, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_new_coefficients_do_not_retrace():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def bound(sde, t_min):
        return nll_bound(KEY, sde, DENSITY.score(sde), X[:2], t_min=t_min, num_times=4).value

    values = [float(bound(VP(beta_max=beta_max), t_min)[0]) for beta_max, t_min in ((10.0, 1e-3), (20.0, 1e-4))]
    assert values[0] != values[1]
    chex.clear_trace_counter()


@pytest.mark.sweep
@pytest.mark.parametrize(("sde", "offset"), [*((sde, True) for sde in SHORT.values()), (SHORT["vp"], False)])
def test_single_draws_have_the_mean_of_the_bound(sde, offset):
    draws = jax.jit(lambda x: bound_draw(KEY, sde, DENSITY.score(sde), x, offset=offset, t_min=1e-3))(
        jnp.tile(X, (10, 1))
    )
    bound = measure(sde, offset=offset, t_min=1e-3, num_times=16)
    mean, error = mean_and_error(draws)
    expected, expected_error = mean_and_error(bound.value)
    assert abs(mean - expected) < 4.0 * np.hypot(error, expected_error)


def test_what_single_draws_tell_the_noise_is_the_score_of_the_model():
    """With the exact score the bound is -log p(x) but for the gap of the prior: its gradient is minus the score."""
    sde, x = VP(), jnp.tile(X[:1], (40_000, 1))
    gradient = jax.jit(jax.grad(lambda x: bound_draw(KEY, sde, DENSITY.score(sde), x, t_min=1e-3).sum()))(x)
    exact = -DENSITY.score(sde)(X[:1], jnp.zeros(1))[0]
    error = np.std(gradient, axis=0) / np.sqrt(len(x))
    assert np.all(np.abs(np.mean(gradient, axis=0) - exact) < 4.0 * error + 0.01 * np.abs(exact).max())
    assert np.all(error < 0.1 * np.abs(exact).max())


def test_an_odd_number_of_times_is_refused():
    for num_times in (0, 1, 7):
        with pytest.raises(UserError, match="even number"):
            nll_bound(KEY, VP(), DENSITY.score(VP()), X[:1], num_times=num_times)


def test_an_unknown_form_is_refused():
    with pytest.raises((UserError, TypeError), match="denoising"):
        nll_bound(KEY, VP(), DENSITY.score(VP()), X[:1], form="denosing")


REFERENCE = pathlib.Path(__file__).parents[3] / "shared" / "reference" / "c_flow_f64.npz"
recorded = pytest.mark.skipif(not REFERENCE.is_file(), reason="the recorded values of the original are not at hand")


def recorded_score(reference, sde):
    mean, std = (np.asarray(reference[f"bound/{name}"])[None] for name in ("mu", "s"))

    def score(x, t):
        m, s = (expand_like(c, x) for c in sde.marginal(t))
        return -(x - m * mean) / (m**2 * std**2 + s**2)

    return score


@pytest.mark.sweep(5)
@recorded
@pytest.mark.parametrize(
    ("eps", "form", "importance"),
    [
        ("1e-05", "denoising", True),
        ("1e-05", "sliced", True),
        ("1e-05", "sliced", False),
        ("0.01", "denoising", True),
        ("0.01", "sliced", True),
        ("0.01", "denoising", False),
    ],
)
@each_full
def test_expectation_agrees_with_the_original(sde, eps, form, importance):
    """The mean over many draws, for each of the recorded images, against the exact expectation of the original's."""
    reference = np.load(REFERENCE)
    prefix = f"bound/{({v: k for k, v in FULL.items()})[sde]}/eps{eps}/"
    images = np.repeat(reference["bound/data_nhwc"], 1000, axis=0)
    score = recorded_score({key: np.float32(reference[key]) for key in ("bound/mu", "bound/s")}, sde)
    bound = measure(
        sde,
        jnp.asarray(images, jnp.float32),
        score,
        t_min=float(eps),
        num_times=32,
        form=form,
        importance=importance,
    )
    parts = {
        "expected_neg_prior_f64": bound.prior,
        "expected_integral_f64": 2.0 * bound.integral,
        "expected_offset_f64": bound.offset,
        "expected_bpd_no_offset_f64": (bound.prior + bound.integral) / (12.0 * np.log(2.0)) + 7.0,
        "expected_bpd_offset_f64": bound.value / (12.0 * np.log(2.0)) + 7.0,
    }
    for name, values in parts.items():
        values = np.asarray(values, np.float64).reshape(3, -1)
        error = values.std(axis=1) / np.sqrt(values.shape[1])
        np.testing.assert_array_less(np.abs(values.mean(axis=1) - reference[prefix + name]), 5 * error + 1e-4)


@pytest.mark.slow
@recorded
@pytest.mark.parametrize("eps", ["1e-05", "0.01"])
@each_full
def test_recorded_bounds_are_reproduced_from_their_randomness(sde, eps):
    """From the times, noise and probes of the original in double precision, its bits/dim for each of its options.

    The original samples the terms for which this code has closed forms. Where it replaces small coefficients by the
    linear term of their series, it differs in the fifth digit; elsewhere not at all.
    """
    reference, t_min = np.load(REFERENCE), float(eps)
    prefix = f"bound/{({v: k for k, v in FULL.items()})[sde]}/eps{eps}/"
    with float64():
        given = {name: jnp.asarray(reference[f"bound/{name}"]) for name in ("data_nhwc", "u", "loop_noise")}
        given |= {name: jnp.asarray(reference[f"bound/{name}"]) for name in ("rademacher", "prior_noise")}
        x, start, end = given["data_nhwc"], *(jnp.asarray(t) for t in (t_min, 1.0))
        error = functools.partial(noise_error, sde, recorded_score(reference, sde), x)
        m, s = sde.marginal(end)
        prior = -sde.prior_logp(m * x + s * given["prior_noise"])
        noise = jnp.asarray(reference["bound/offset_noise"])
        square = jnp.sum(noise**2, axis=(1, 2, 3))
        offset = -12.0 * jnp.log(sde.marginal(start).mean_coeff)
        offset = offset + 0.5 * (error(jnp.full(3, t_min), noise) + square - 12.0)
        for options in (key for key in reference.files if key.startswith(prefix + "dsm")):
            dsm, iw, off = (f"{name}1" in options for name in ("dsm", "iw", "off"))
            if iw:
                levels = sde.log_snr(start) + given["u"] * (sde.log_snr(end) - sde.log_snr(start))
                t = sde.inverse_log_snr(levels)
                weight = (sde.log_snr(start) - sde.log_snr(end)) * (sde.marginal(t).std / sde.diffusion(t)) ** 2
            else:
                t = t_min + given["u"] * (1.0 - t_min)
                weight = jnp.ones_like(t)  # the original leaves out the length of the interval
            probes = None if dsm else given["rademacher"][:, :, None]
            errors = jnp.stack(
                [
                    error(t[i], given["loop_noise"][i], *(() if probes is None else (probes[i],)))
                    for i in range(t.shape[0])
                ]
            )
            rate = (sde.diffusion(t) / sde.marginal(t).std) ** 2
            integral = jnp.mean(weight * (rate * errors - 24.0 * sde.drift_coeff(t)), axis=0)
            nats = prior + 0.5 * integral + (offset if off else 0.0)
            linearised = not isinstance(sde, VE) and (off or eps == "1e-05")
            bits = nats / (12.0 * np.log(2.0)) + 7.0
            np.testing.assert_allclose(bits, reference[options], rtol=2e-5 if linearised else 1e-12, err_msg=options)
