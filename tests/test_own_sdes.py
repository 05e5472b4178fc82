"""Processes of which only coefficients or only marginals are given, against those whose theory is written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.errors import UserError
from score_sde.likelihood import log_likelihood, nll_bound
from score_sde.sdes import VE, VP, GaussianPath, LinearSDE, SubVP
from score_sde.times import ImportanceTimes
from tests.analytic import Gaussian
from tests.laws import DETERMINISTIC, STOCHASTIC, float64

KNOWN = {"vp": VP(), "subvp": SubVP(), "ve": VE(sigma_max=10.0)}
TIMES = np.concatenate([[1e-8, 1e-7], np.geomspace(1e-6, 1.0, 200), np.linspace(0.01, 1.0, 301)])
DENSITY = Gaussian.correlated(4)
X = jnp.asarray(DENSITY.sample(8), jnp.float32)


def by_coefficients(sde):
    with float64():
        start = float(sde.marginal(jnp.zeros(())).std)
    return LinearSDE.from_coefficients(sde.drift_coeff, sde.diffusion, initial_std=start, prior_std=sde.prior_std)


def by_marginals(sde):
    return GaussianPath(lambda t: sde.marginal(t).mean_coeff, lambda t: sde.marginal(t).std, prior_std=sde.prior_std)


each_known = pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
each_way = pytest.mark.parametrize("make", [by_coefficients, by_marginals])


@each_known
@each_way
def test_what_is_known_of_a_process_makes_that_process(known, make):
    own, t = make(known), jnp.asarray(TIMES, jnp.float32)
    for value, truth in zip(own.marginal(t), known.marginal(t), strict=True):
        np.testing.assert_allclose(value, truth, rtol=1e-6)
    np.testing.assert_allclose(own.diffusion(t[2:]), known.diffusion(t[2:]), rtol=2e-6)
    np.testing.assert_allclose(own.drift_coeff(t), known.drift_coeff(t), rtol=1e-6)
    with float64():
        t = jnp.asarray(TIMES)
        for value, truth in zip(own.marginal(t), known.marginal(t), strict=True):
            np.testing.assert_allclose(value[2:], truth[2:], rtol=1e-8)


def test_the_ends_of_time_are_those_of_the_process():
    for own in (by_coefficients(VP()), by_marginals(VP())):
        assert own.marginal(jnp.zeros(())) == (1.0, 0.0)
        np.testing.assert_allclose(own.diffusion(jnp.zeros(())), VP().diffusion(jnp.zeros(())), rtol=1e-4)
    unstated = LinearSDE.from_coefficients(VP().drift_coeff, VP().diffusion)
    np.testing.assert_allclose(unstated.prior_std, VP().marginal(jnp.ones(())).std, rtol=1e-6)


@pytest.mark.sweep
@each_way
def test_its_likelihood_is_the_same(make):
    def logp(sde):
        options = {"rtol": 1e-6, "atol": 1e-6, "num_probes": None}
        return jax.jit(lambda x: log_likelihood(jax.random.key(0), sde, DENSITY.score(sde), x, **options).logp)(X)

    np.testing.assert_allclose(logp(make(VP())), logp(VP()), atol=1e-4)


def test_a_cosine_schedule_has_its_closed_form():
    """Nichol and Dhariwal 2021 (arXiv 2102.09672): ``m = cos(a t + b) / cos(b)``."""
    a, b = 1.5 / 1.008, 1.5 * 0.008 / 1.008
    path = GaussianPath(
        lambda t: jnp.cos(a * t + b) / jnp.cos(b),
        lambda t: jnp.sqrt(jnp.sin(a * t) * jnp.sin(a * t + 2.0 * b)) / jnp.cos(b),
    )
    t = jnp.linspace(1e-4, 1.0, 100)
    tangent = np.tan(a * np.asarray(t, np.float64) + b)
    np.testing.assert_allclose(path.drift_coeff(t), -a * tangent, rtol=2e-6)
    np.testing.assert_allclose(path.diffusion(t) ** 2, 2.0 * a * tangent, rtol=1e-5)
    linear = LinearSDE.from_coefficients(
        lambda t: -a * jnp.tan(a * t + b), lambda t: jnp.sqrt(2.0 * a * jnp.tan(a * t + b))
    )
    np.testing.assert_allclose(linear.marginal(t).mean_coeff, path.marginal(t).mean_coeff, rtol=1e-6)
    np.testing.assert_allclose(linear.marginal(t).std, path.marginal(t).std, rtol=1e-6)


@pytest.mark.sweep
@each_way
def test_importance_times_and_bounds_are_the_same(make):
    own, q = make(VP()), jnp.linspace(0.0, 1.0, 50)
    for value, truth in zip(ImportanceTimes(sde=own).at(q), ImportanceTimes(sde=VP()).at(q), strict=True):
        np.testing.assert_allclose(value, truth, rtol=2e-5)

    def bound(sde):
        return jax.jit(lambda x: nll_bound(jax.random.key(1), sde, DENSITY.score(sde), x, num_times=16).value)(X)

    np.testing.assert_allclose(bound(own), bound(VP()), rtol=1e-3, atol=1e-3)


@pytest.mark.sweep(4)
@pytest.mark.parametrize("name", [*DETERMINISTIC, *STOCHASTIC])
def test_a_solver_cannot_tell_the_processes_apart(name):
    """Langevin and other solvers that take the VP chain's own steps follow the marginals of a process without one."""
    solver, flow = (DETERMINISTIC[name][0], 0.0) if name in DETERMINISTIC else (STOCHASTIC[name], 1.0)
    keys = sampling.sample_keys(jax.random.key(0), 0, 8)

    def samples(sde):
        times = sampling.log_snr_times(sde, 60, 0.01)
        process = sde.reverse(DENSITY.score(sde), noise_scale=flow)
        return sampling.integrate(keys, solver, process, 0.5 * X, times).x

    truth = samples(VP())
    spread = 0.2 if name in {"ancestral", "reverse_diffusion"} else 1e-3
    for make in (by_coefficients, by_marginals):
        np.testing.assert_allclose(samples(make(VP())), truth, atol=spread)


def test_a_process_passes_through_compiled_functions_and_has_derivatives():
    own, t = by_coefficients(VP()), jnp.float32(0.3)
    slope = jax.jit(jax.grad(lambda t, sde: sde.log_snr(t)))(t, own)
    np.testing.assert_allclose(slope, -((own.diffusion(t) / own.marginal(t).std) ** 2), rtol=1e-5)
    assert jax.tree.structure(own) == jax.tree.structure(jax.tree.map(lambda leaf: leaf, own))
    swept = jax.vmap(lambda a: GaussianPath(lambda t: jnp.cos(a * t), lambda t: jnp.sin(a * t)).prior_std)
    np.testing.assert_allclose(swept(jnp.array([1.0, 1.5])), np.sin([1.0, 1.5]), rtol=1e-6)
    with pytest.raises(UserError, match="traced by JAX"):
        jax.jit(lambda a: LinearSDE.from_coefficients(lambda t: -a * t, jnp.ones_like).prior_std)(1.0)


one, root = jnp.ones_like, jnp.sqrt


@pytest.mark.parametrize(
    ("mean_coeff", "std", "said"),
    [
        (one, lambda t: t * (1.2 - t), r"log-SNR.* goes from .*g\^2 / s\^2 = -.*expected it to fall"),
        (one, lambda t: 0.1 + jnp.maximum(t - 0.5, 0.0), r"From t = 0 to .*g\^2 / s\^2 = -?0 there"),
        (lambda t: jnp.cos(jnp.pi * t), lambda t: t, "mean_coeff is .* at t = 0.5.*; expected a weight"),
        (lambda t: 1.0 / (1.0 - t), lambda t: t, "mean_coeff is inf at t = 1; expected a finite number"),
        (one, lambda t: jnp.log(t), "std is -inf at t = 0; expected a finite number"),
        (one, lambda t: t - 0.5, "std is -0.5 at t = 0; expected noise above 0"),
        (one, lambda t: jnp.maximum(t - 0.5, 0.0), "std is 0 at t = 0.000976.*; expected noise above 0"),
        (one, lambda t: root(1.0 - jnp.exp(-t)), r"std is .* at t = 1e-06; expected the digits.*expm1"),
        (lambda t: 0.5 * one(t), lambda t: t, r"mean_coeff is 0\.5 at t = 0; expected 1"),
        (lambda t: 1.0, lambda t: t, r"mean_coeff of times of shape \(1025,\).* has shape \(\).*jnp.full_like"),
        (one, lambda t: t[..., None], r"std of times .* has shape \(1025, 1\)"),
        (one, lambda t: (10 * t).astype(int), "std of times .* type int.*; expected the same shape, and floating"),
        (one, lambda t: np.sin(t), "std cannot be computed for an array of times .*jax.numpy"),
        (one, lambda t: t if t > 0.5 else 0.5, "std cannot be computed for an array of times"),
    ],
)
def test_functions_that_are_no_marginals_are_refused(mean_coeff, std, said):
    with pytest.raises(UserError, match=said):
        GaussianPath(mean_coeff, std)


@pytest.mark.parametrize(
    ("drift_coeff", "diffusion", "options", "said"),
    [
        (jnp.zeros_like, lambda t: -one(t), {}, "diffusion is -1 at t = 0; expected g, 0 or more"),
        (jnp.zeros_like, lambda t: root(t - 0.5), {}, "diffusion is nan at t = 0; expected a finite number"),
        (lambda t: -1.0 / (1.0 - t), one, {}, "drift_coeff is -inf at t = 1; .* 0.999 t"),
        (jnp.zeros_like, jnp.zeros_like, {}, "the coefficients make .* s.2 = 0; .* noise from t = 0 on"),
        (jnp.zeros_like, lambda t: jnp.where(t < 0.5, 1.0, 0.0), {}, "expected it to fall at every time"),
        (lambda t: -2000.0 * one(t), one, {}, "At t = .* the coefficients make log m = -87"),
        (jnp.zeros_like, lambda t: one(t)[:5], {}, r"diffusion of times .* has shape \(5,\)"),
        (jnp.zeros_like, one, {"initial_std": -1.0}, "initial_std is -1.0; expected 0 or more"),
        (jnp.zeros_like, one, {"prior_std": 0.0}, "prior_std is 0.0; expected a number above 0"),
    ],
)
def test_functions_that_are_no_coefficients_are_refused(drift_coeff, diffusion, options, said):
    with pytest.raises(UserError, match=said):
        LinearSDE.from_coefficients(drift_coeff, diffusion, **options)
