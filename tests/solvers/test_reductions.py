"""Law 5: solvers reduce to one another where they must; the corrector keeps the marginal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.sdes import VP
from score_sde.solvers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    DPMSolverMultistep,
    EDMHeun,
    Euler,
    EulerMaruyama,
    Langevin,
    NoPredictor,
    PredictorCorrector,
    ReverseDiffusion,
    noise_scale_of,
)
from tests.analytic import SDES, Gaussian
from tests.laws import DETERMINISTIC, STOCHASTIC

each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
DENSITY = Gaussian.correlated(4)
KEYS = sampling.sample_keys(jax.random.key(5), 0, 8)
X = jnp.asarray(np.random.RandomState(0).randn(8, 4), jnp.float32)
T, S = jnp.float32(0.5), jnp.float32(0.45)


def run(solver, process, n=20):
    return sampling.integrate(KEYS, solver, process, X, sampling.uniform_times(n, 0.01))


@pytest.mark.sweep(5)
@each_sde
@pytest.mark.parametrize("name", STOCHASTIC)
def test_no_corrections_is_the_predictor(sde, name):
    process = sde.reverse(DENSITY.score(sde))
    composed = PredictorCorrector(predictor=STOCHASTIC[name], corrector=Langevin(), num_corrections=0)
    np.testing.assert_array_equal(run(composed, process).x, run(STOCHASTIC[name], process).x)
    assert composed.num_evals == 1


@pytest.mark.sweep
@each_sde
def test_euler_maruyama_without_noise_is_euler_on_the_flow(sde):
    process = sde.probability_flow(DENSITY.score(sde))
    np.testing.assert_allclose(run(EulerMaruyama(), process).x, run(Euler(), process).x, rtol=1e-6)


@each_sde
def test_ddim_with_full_noise_is_ancestral_sampling_and_both_an_exponential_step(sde):
    process = sde.reverse(DENSITY.score(sde))
    ancestral = Ancestral().step(KEYS, process, Ancestral().init(X), T, S)
    for solver in (DDIM(eta=1.0), DPMSolverMultistep(order=1)):
        after = solver.step(KEYS, process, solver.init(X), T, S)
        np.testing.assert_allclose(after.x, ancestral.x, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(after.x_mean, ancestral.x_mean, rtol=2e-5, atol=2e-6)


@each_sde
def test_ddim_without_noise_is_the_exponential_solver_of_order_one(sde):
    process, exponential = sde.reverse(DENSITY.score(sde), noise_scale=0.0), DPMSolverMultistep(order=1)
    implicit = DDIM().step(KEYS, process, DDIM().init(X), T, S)
    after = exponential.step(KEYS, process, exponential.init(X), T, S)
    np.testing.assert_allclose(after.x, implicit.x, rtol=2e-5, atol=2e-6)


@each_sde
@pytest.mark.parametrize("large", [False, True])
def test_ancestral_sampling_tends_to_euler_maruyama(sde, large):
    process = sde.reverse(DENSITY.score(sde))

    def gap(s):
        steps = (
            solver.step(KEYS, process, solver.init(X), T, jnp.float32(s))
            for solver in (Ancestral(large=large), EulerMaruyama())
        )
        a, b = steps
        return float(jnp.abs(a.x - b.x).max())

    assert gap(0.49) < 0.5 * gap(0.46) + 1e-6


@each_sde
def test_ancestral_noise_is_that_of_the_posterior(sde):
    """The posterior's precision is the sum of those of its two factors, q(x_t | x_s) and q(x_s | x_0)."""
    process = sde.reverse(DENSITY.score(sde))
    a, g = sde.transition(S, T)
    precision = a**2 / g**2 + 1 / sde.marginal(S).std ** 2
    z = sampling_noise()
    for large, variance in ((False, 1 / precision), (True, g**2)):
        after = Ancestral(large=large).step(KEYS, process, Ancestral().init(X), T, S)
        np.testing.assert_allclose(after.x - after.x_mean, np.sqrt(variance) * z, rtol=1e-3, atol=1e-5)


def sampling_noise():
    return np.asarray(jax.vmap(lambda key: jax.random.normal(key, (4,)))(KEYS))


@pytest.mark.sweep
@each_sde
def test_churn_keeps_the_marginal(sde):
    """From the exact marginal, Heun steps with churn end in the exact marginal: noise in and noise out balance."""
    n = 20_000
    keys = sampling.sample_keys(jax.random.key(3), 0, n)
    m, variance = (np.asarray(c) for c in DENSITY.variances(sde, jnp.ones(1)))
    z = np.random.RandomState(2).randn(n, 4) * np.sqrt(variance) @ DENSITY.basis.T + m * DENSITY.mean
    x = jnp.asarray(z, jnp.float32)
    times = sampling.edm_times(sde, 60, 1e-2)
    process = sde.probability_flow(DENSITY.score(sde))
    still, churned = (np.asarray(sampling.integrate(keys, EDMHeun(churn=c), process, x, times).x) for c in (0.0, 0.3))
    m, variance = (np.asarray(c) for c in DENSITY.variances(sde, times[-1:]))
    exact = (DENSITY.basis * variance[0]) @ DENSITY.basis.T
    assert np.abs(churned - still).std() > 0.1 * np.sqrt(exact.max())  # it does add noise
    np.testing.assert_allclose(np.cov(churned.T), exact, atol=0.05 * exact.max())
    np.testing.assert_allclose(churned.mean(axis=0), m[0] * DENSITY.mean, atol=0.02)


@each_sde
def test_annealed_langevin_step_grows_with_the_noise(sde):
    """The drift of a step over its noise is snr s(t) |score| / |z|, and the step is 2 (snr s)^2."""
    process = sde.reverse(DENSITY.score(sde))
    after = AnnealedLangevin(snr=0.1).step(KEYS, process, AnnealedLangevin().init(X), T, S)
    step = 2 * (0.1 * float(sde.marginal(S).std)) ** 2
    np.testing.assert_allclose(after.x - after.x_mean, np.sqrt(2 * step) * sampling_noise(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(after.x_mean - X, step * process.score(X, S), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@each_sde
def test_correctors_alone_go_down_the_noise_levels(sde):
    """NCSN's sampler: no predictor, annealed Langevin at every level, and a denoised end."""
    n = 4000
    keys = sampling.sample_keys(jax.random.key(4), 0, n)
    solver = PredictorCorrector(predictor=NoPredictor(), corrector=AnnealedLangevin(snr=0.15), num_corrections=30)
    process = sde.reverse(DENSITY.score(sde))
    start = sampling.prior_samples(keys, sde, (4,))
    times = sampling.log_snr_times(sde, 100, 1e-2)
    x = np.asarray(process.denoised(sampling.integrate(keys, solver, process, start, times).x, times[-1]))
    np.testing.assert_allclose(np.cov(x.T), DENSITY.covariance, atol=0.15 * DENSITY.covariance.max())


@each_sde
def test_reverse_diffusion_tends_to_euler_maruyama(sde):
    process = sde.reverse(DENSITY.score(sde))

    def gap(s):
        a = ReverseDiffusion().step(KEYS, process, ReverseDiffusion().init(X), T, jnp.float32(s))
        b = EulerMaruyama().step(KEYS, process, EulerMaruyama().init(X), T, jnp.float32(s))
        return float(jnp.abs(a.x - b.x).max())

    assert gap(0.49) < 0.5 * gap(0.46) + 1e-6


def _members():
    members = {**STOCHASTIC, **{name: solver for name, (solver, _) in DETERMINISTIC.items()}}
    members["langevin"] = PredictorCorrector(predictor=NoPredictor(), corrector=AnnealedLangevin(), num_corrections=2)
    for first in (False, True):
        members[f"pc {first}"] = PredictorCorrector(
            predictor=EulerMaruyama(), corrector=Langevin(), num_corrections=3, corrector_first=first
        )
    return members


@pytest.mark.sweep(5)
@pytest.mark.parametrize("solver", _members().values(), ids=_members())
def test_evaluations_are_counted(solver):
    """num_evals is the number of times that the score function runs."""
    count, sde = [], VP()

    def score(x, t):
        jax.debug.callback(lambda: count.append(1))
        return DENSITY.score(sde)(x, t)

    jax.block_until_ready(run(solver, sde.reverse(score, noise_scale=noise_scale_of(solver)), n=25))
    jax.effects_barrier()
    assert len(count) == 25 * solver.num_evals


@each_sde
def test_langevin_keeps_the_marginal(sde):
    """At a fixed time the corrector leaves exact samples distributed as they are, up to its step-size bias."""
    n, t = 20_000, jnp.float32(0.3)
    m, variance = DENSITY.variances(sde, t[None])
    z = (
        np.random.RandomState(1).randn(n, 4) * np.sqrt(np.asarray(variance)) @ DENSITY.basis.T
        + np.asarray(m) * DENSITY.mean
    )
    corrector = Langevin(snr=0.05)
    process, keys = sde.reverse(DENSITY.score(sde)), sampling.sample_keys(jax.random.key(1), 0, n)
    state = corrector.init(jnp.asarray(z, jnp.float32))
    for i in range(20):
        state = corrector.step(jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i), process, state, t, t)
    exact = (DENSITY.basis * np.asarray(variance[0])) @ DENSITY.basis.T
    scale = np.abs(exact).max()
    assert np.abs(np.cov(np.asarray(state.x).T) - exact).max() < 0.05 * scale
    assert (
        np.abs(np.asarray(state.x).mean(axis=0) - np.asarray(m[0]) * DENSITY.mean).max() < 5 * np.sqrt(scale / n) + 0.01
    )


def test_langevin_step_size_is_its_signal_to_noise_ratio():
    """|e score| / |sqrt(2 e) z| = snr, the definition of the ratio, in the norms that are used."""
    sde = VP()
    process = sde.reverse(DENSITY.score(sde))
    after = Langevin(snr=0.16, per_sample=True).step(KEYS, process, Langevin().init(X), T, S)
    signal = np.linalg.norm(after.x_mean - X, axis=1)
    noise = np.linalg.norm(after.x - after.x_mean, axis=1)
    np.testing.assert_allclose(signal / noise, 0.16, rtol=1e-4)


def test_per_sample_langevin_ignores_the_other_samples():
    process = VP().reverse(DENSITY.score(VP()))
    for per_sample, alike in ((True, True), (False, False)):
        corrector = Langevin(per_sample=per_sample)
        whole = corrector.step(KEYS, process, corrector.init(X), T, S).x[:2]
        alone = corrector.step(KEYS[:2], process, corrector.init(X[:2]), T, S).x
        assert np.allclose(whole, alone, rtol=1e-5) == alike


def test_langevin_survives_a_vanishing_score():
    process = VP().reverse(lambda x, t: jnp.zeros_like(x))
    after = Langevin(per_sample=True).step(KEYS, process, Langevin().init(X), T, S)
    assert bool(jnp.isfinite(after.x_mean).all())
