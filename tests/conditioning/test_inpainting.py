"""Inpainting: its exact law on a Gaussian, the bias of replacement and what mends it, and its two limits."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from score_sde import chains, sampling, solvers
from score_sde.conditioning import Inpaint, RePaint
from score_sde.errors import UserError
from score_sde.sdes import VE, VP
from score_sde.solvers import DDIM, Ancestral, AnnealedLangevin, Langevin, NoPredictor, PredictorCorrector
from tests.analytic import SDES, Gaussian

N = 10_000
DENSITY = Gaussian.correlated(2, std=1.0)
VALUE = 1.5
KEYS = sampling.sample_keys(jax.random.key(0), 0, N)
KNOWN = jnp.tile(jnp.array([[VALUE, 0.0]]), (N, 1))
MASK = jnp.tile(jnp.array([[1.0, 0.0]]), (N, 1))
COVARIANCE = DENSITY.covariance
SLOPE = COVARIANCE[1, 0] / COVARIANCE[0, 0]
#: Of the second value given the first, in closed form.
MEAN = DENSITY.mean[1] + SLOPE * (VALUE - DENSITY.mean[0])
VARIANCE = COVARIANCE[1, 1] - SLOPE * COVARIANCE[0, 1]
PROCESSES = {"vp": VP(), "ve": VE(sigma_max=10.0)}
each_process = pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES)


def unknown_values(sde, solver, times, repeats=1):
    inpaint = RePaint(solver=Inpaint(solver=solver, known=KNOWN, mask=MASK), num_repeats=repeats)
    start = sampling.prior_samples(KEYS, sde, (2,))
    run = jax.jit(lambda x: sampling.integrate(KEYS, inpaint, sde.reverse(DENSITY.score(sde)), x, times).x)
    return np.asarray(run(start))[:, 1]


def law_of_replacement(sde, times, repeats=1):
    """Mean and variance of the unknown value under ancestral steps, from the recursion of the two moments.

    A step is x <- (x + G^2 score) / a + c z with an affine score, and then the first coordinate is drawn anew. Before
    it is repeated, x <- a x + G z.
    """
    m, s = (np.asarray(c, np.float64) for c in sde.marginal(times))
    mean = np.array([m[0] * VALUE, 0.0])
    spread = np.diag([s[0] ** 2, float(sde.prior_std) ** 2])
    for i in range(len(times) - 1):
        a = m[i] / m[i + 1]
        noise = s[i] ** 2 - a**2 * s[i + 1] ** 2
        precision = np.linalg.inv(m[i] ** 2 * COVARIANCE + s[i] ** 2 * np.eye(2))
        step = (np.eye(2) - noise * precision) / a
        for repeat in range(repeats):
            if repeat:
                mean, spread = a * mean, a**2 * spread + noise * np.eye(2)
            mean = step @ mean + noise * precision @ (m[i] * DENSITY.mean) / a
            spread = step @ spread @ step.T + noise * (s[i + 1] / s[i]) ** 2 * np.eye(2)
            mean[0] = m[i + 1] * VALUE
            spread = np.diag([s[i + 1] ** 2, spread[1, 1]])
    return mean[1], spread[1, 1]


def assert_moments(x, mean, variance, *, bias=0.0):
    assert abs(x.mean() - mean) < 5 * np.sqrt(variance / N) + bias, (x.mean(), mean)
    assert abs(x.var() - variance) < 5 * variance * np.sqrt(2 / N) + bias, (x.var(), variance)


@each_process
def test_replacement_has_the_law_of_its_recursion_which_is_not_the_conditional(sde):
    times = sampling.log_snr_times(sde, 50, 1e-3)
    mean, variance = law_of_replacement(sde, times)
    assert_moments(unknown_values(sde, Ancestral(), times), mean, variance)
    # Finer steps do not help: the error is that of the method.
    biases = [
        np.subtract(law_of_replacement(sde, sampling.log_snr_times(sde, n, 1e-3)), (MEAN, VARIANCE))
        for n in (500, 2000)
    ]
    np.testing.assert_allclose(biases[0], biases[1], atol=0.01)
    assert biases[1][0] < -0.25 and biases[1][1] > 0.1


def test_repeated_steps_have_the_law_of_their_recursion_which_tends_to_the_conditional():
    sde = PROCESSES["ve"]
    times = sampling.log_snr_times(sde, 30, 1e-3)
    mean, variance = law_of_replacement(sde, times, 5)
    assert_moments(unknown_values(sde, Ancestral(), times, 5), mean, variance)
    times = sampling.log_snr_times(sde, 200, 1e-3)
    errors = [np.abs(np.subtract(law_of_replacement(sde, times, n), (MEAN, VARIANCE))).max() for n in (1, 10, 100)]
    assert errors[0] > 0.1 and errors[1] < 0.6 * errors[0] and errors[2] < 0.02, errors


def test_what_cannot_be_repeated_is_refused():
    with pytest.raises(UserError, match="num_repeats is 0; expected a whole number of at least 1"):
        RePaint(solver=Ancestral(), num_repeats=0)
    inpaint = Inpaint(solver=solvers.UniPC(order=2), known=KNOWN, mask=MASK)
    with pytest.raises(UserError, match="UniPC goes on from its own past, and a repeated step has none"):
        RePaint(solver=inpaint)


@pytest.mark.slow
@each_process
def test_corrections_bring_it_to_the_conditional(sde):
    """Mean and variance within 3 % of the unconditional standard deviation and variance."""
    times = sampling.log_snr_times(sde, 50, 1e-3)
    solver = PredictorCorrector(predictor=Ancestral(), corrector=AnnealedLangevin(snr=0.3), num_corrections=32)
    assert_moments(unknown_values(sde, solver, times), MEAN, VARIANCE, bias=0.03)


@pytest.mark.slow
def test_annealed_langevin_dynamics_inpaint_along_the_levels_of_ncsn():
    chain = chains.NCSN(sigmas=chains.geometric_sigmas(30, 0.01, 10.0))
    solver = PredictorCorrector(predictor=NoPredictor(), corrector=AnnealedLangevin(snr=0.2), num_corrections=60)
    assert_moments(unknown_values(chain, solver, chain.times[::-1]), MEAN, VARIANCE, bias=0.05)


SMALL_KEYS = KEYS[:3]
SMALL = Gaussian.correlated(4)
DATA = jnp.asarray(SMALL.sample(3), jnp.float32)
HALF = jnp.tile(jnp.array([[1.0, 0.0, 1.0, 0.0]]), (3, 1))
SOLVERS = {
    **{name: (make(), 1.0) for name, make in solvers.STOCHASTIC.items() if name != "none"},
    "corrected": (PredictorCorrector(predictor=Ancestral(), corrector=Langevin(), num_corrections=2), 1.0),
    "corrected first": (PredictorCorrector(predictor=DDIM(), corrector=Langevin(), corrector_first=True), 0.0),
    **{name: (make(), 0.0) for name, make in solvers.DETERMINISTIC.items()},
}


@pytest.mark.sweep(7)
@pytest.mark.parametrize("name", SOLVERS)
def test_with_nothing_known_it_is_the_solver_and_with_all_known_the_data(name):
    """Bit for bit, where every operation is a program of its own; two whole programs may be fused differently."""
    exact = not isinstance(SOLVERS[name][0], PredictorCorrector)  # whose inner loop is always a program
    sde, times = SDES["ve"], sampling.log_snr_times(SDES["ve"], 4, 1e-2)
    solver, noise_scale = SOLVERS[name]
    process = sde.reverse(SMALL.score(sde), noise_scale=noise_scale)
    start = sampling.prior_samples(SMALL_KEYS, sde, (4,))

    def run(solver):
        with jax.disable_jit(exact):
            return sampling.integrate(SMALL_KEYS, solver, process, start, times)

    plain = run(solver)
    nothing = run(Inpaint(solver=solver, known=DATA, mask=jnp.zeros((3, 4))))
    for ours, its in ((nothing.x, plain.x), (nothing.x_mean, plain.x_mean)):
        np.testing.assert_allclose(ours, its, rtol=0, atol=0 if exact else 1e-5)
    inpaint = Inpaint(solver=solver, known=DATA, mask=jnp.ones((3, 4)))
    everything = run(inpaint)
    np.testing.assert_array_equal(everything.x_mean, DATA)
    np.testing.assert_array_equal(inpaint.restore(everything.x), DATA)
    m, s = (float(c) for c in sde.marginal(times[-1]))
    assert 0 < np.abs(np.asarray(everything.x) - m * np.asarray(DATA)).max() < 5 * s  # at the level of the last time
    half = run(Inpaint(solver=solver, known=DATA, mask=HALF))
    np.testing.assert_allclose(half.x[:, ::2], everything.x[:, ::2], rtol=1e-6)  # known values look at nothing else
    moved = float(jnp.abs(half.x - plain.x)[:, 1::2].max())
    assert 1e-3 < moved < np.inf  # the others look at them
    assert inpaint.num_evals == solver.num_evals


def test_a_sample_ignores_its_neighbors_and_new_data_trace_nothing():
    sde, times, traces = SDES["ve"], sampling.uniform_times(8, 1e-2), []
    process = sde.reverse(SMALL.score(sde))
    solver = PredictorCorrector(predictor=Ancestral(), corrector=AnnealedLangevin())
    keys = KEYS[:6]

    @jax.jit
    def run(keys, known, mask):
        traces.append(1)
        inpaint = Inpaint(solver=solver, known=known, mask=mask)
        return sampling.integrate(keys, inpaint, process, sampling.prior_samples(keys, sde, (4,)), times).x

    data, mask = jnp.asarray(SMALL.sample(6), jnp.float32), jnp.tile(jnp.array([[1.0, 1.0, 0.0, 0.0]]), (6, 1))
    whole = run(keys, data, mask)
    run(keys, data + 1.0, 1.0 - mask)
    assert len(traces) == 1
    np.testing.assert_allclose(run(keys[2:4], data[2:4], mask[2:4]), whole[2:4], rtol=1e-4, atol=1e-5)


def test_known_values_are_noisy_at_the_start():
    """On the way from t = 1 nothing of the prior is left at the known values, and no data without noise."""
    sde = SDES["ve"]
    x, t = sampling.prior_samples(KEYS, sde, (2,)), jnp.float32(1.0)
    seen = []

    def score(x, t):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return -x

    known = KNOWN + 100.0  # far from the prior of std 10
    inpaint = Inpaint(solver=Ancestral(), known=known, mask=MASK)
    inpaint.step(KEYS, sde.reverse(score), inpaint.init(x), t, jnp.float32(0.9))
    jax.effects_barrier()
    (first,) = seen
    np.testing.assert_allclose(first[:, 0].mean(), 101.5, atol=5 * 10 / np.sqrt(N))
    np.testing.assert_allclose(first[:, 0].std(), 10.0, rtol=5 / np.sqrt(2 * N))
    np.testing.assert_array_equal(first[:, 1], x[:, 1])


def test_shapes_that_do_not_fit_are_refused():
    inpaint = Inpaint(solver=Ancestral(), known=jnp.zeros((1, 4)), mask=jnp.zeros((1, 4)))
    with pytest.raises(UserError, match=r"shape \(6, 4\), known values \(1, 4\) and the mask \(1, 4\); expected one"):
        inpaint.init(jnp.zeros((6, 4)))
    jaxtyping.config.update("jaxtyping_disable", True)  # as users run it
    try:
        with pytest.raises(UserError, match=r"values have shape \(2, 3\) and the mask \(5,\); expected one shape"):
            Inpaint(solver=Ancestral(), known=jnp.zeros((2, 3)), mask=jnp.zeros(5))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
