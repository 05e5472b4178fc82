"""Law 5: solvers reduce to one another where they must; the corrector keeps the marginal; steps match the original."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.sdes import VE, VP, SubVP
from score_sde.solvers import Euler, EulerMaruyama, Langevin, PredictorCorrector, ReverseDiffusion
from score_sde.typing import expand_like
from tests.analytic import SDES, Gaussian
from tests.laws import DETERMINISTIC, STOCHASTIC

each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
DENSITY = Gaussian.correlated(4)
KEYS = sampling.sample_keys(jax.random.key(5), 0, 8)
X = jnp.asarray(np.random.RandomState(0).randn(8, 4), jnp.float32)
T, S = jnp.float32(0.5), jnp.float32(0.45)


def run(solver, process, n=20):
    return sampling.integrate(KEYS, solver, process, X, sampling.uniform_times(n, 0.01))


@each_sde
@pytest.mark.parametrize("name", STOCHASTIC)
def test_no_corrections_is_the_predictor(sde, name):
    process = sde.reverse(DENSITY.score(sde))
    composed = PredictorCorrector(predictor=STOCHASTIC[name], corrector=Langevin(), num_corrections=0)
    np.testing.assert_array_equal(run(composed, process).x, run(STOCHASTIC[name], process).x)
    assert composed.num_evals == 1


@each_sde
def test_euler_maruyama_without_noise_is_euler_on_the_flow(sde):
    process = sde.probability_flow(DENSITY.score(sde))
    np.testing.assert_allclose(run(EulerMaruyama(), process).x, run(Euler(), process).x, rtol=1e-6)


@each_sde
def test_reverse_diffusion_tends_to_euler_maruyama(sde):
    process = sde.reverse(DENSITY.score(sde))

    def gap(s):
        a = ReverseDiffusion().step(KEYS, process, ReverseDiffusion().init(X), T, jnp.float32(s))
        b = EulerMaruyama().step(KEYS, process, EulerMaruyama().init(X), T, jnp.float32(s))
        return float(jnp.abs(a.x - b.x).max())

    assert gap(0.49) < 0.5 * gap(0.46) + 1e-6


@each_sde
@pytest.mark.parametrize("corrector_first", [False, True])
def test_evaluations_are_counted(sde, corrector_first):
    """num_evals is the number of times that the score function runs."""
    count = []

    def score(x, t):
        jax.debug.callback(lambda: count.append(1))
        return DENSITY.score(sde)(x, t)

    solvers = [
        PredictorCorrector(predictor=p, corrector=Langevin(), num_corrections=3, corrector_first=corrector_first)
        for p in STOCHASTIC.values()
    ] + [solver for solver, _ in DETERMINISTIC.values()]
    for solver in solvers:
        count.clear()
        jax.block_until_ready(run(solver, sde.reverse(score), n=5))
        jax.effects_barrier()
        assert len(count) == 5 * solver.num_evals


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


REFERENCE = pathlib.Path(__file__).parents[3] / "shared" / "reference"
ORIGINALS = {"vp": VP(), "subvp": SubVP(), "ve": VE()}


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the recorded values of the original code are not at hand")
@pytest.mark.parametrize("name", ORIGINALS)
@pytest.mark.parametrize("flow", [0, 1])
@pytest.mark.parametrize("solver", ["euler_maruyama", "reverse_diffusion"])
def test_one_step_agrees_with_the_original_code(name, solver, flow):
    """Steps of the original implementation, run unmodified, with score -x / (1 + t) and recorded noise."""
    sde = ORIGINALS[name]
    values, steps = np.load(REFERENCE / "a1_sde_values.npz"), np.load(REFERENCE / "a3_steps.npz")
    prefix = f"{name}/pred_{solver}_pf{flow}"
    if f"{prefix}/x" not in steps:
        steps = np.load(REFERENCE / "b6_steps_jax.npz")
    process = sde.reverse(lambda x, t: -x / expand_like(1.0 + t, x), noise_scale=1.0 - flow)
    member = {"euler_maruyama": EulerMaruyama(), "reverse_diffusion": ReverseDiffusion()}[solver]
    for row, t in enumerate(values["t"]):
        if solver == "reverse_diffusion" and t < 2e-3:
            continue  # the original's chain starts from sigma = 0 there; ours from sigma(0)
        # The original's table has N = 1000 entries i = int(999 t), and its chain steps one entry at a time.
        index = float(values["timestep_index"][row])
        on_table = solver == "reverse_diffusion" and name != "subvp"
        time = index / 999 if on_table else float(t)
        length = 1 / 999 if on_table and name == "ve" else 1 / 1000
        x = jnp.asarray(values["x"][row : row + 1])
        after = member.step(
            sampling.sample_keys(jax.random.key(0), 0, 1),
            process_at(process, float(t)),
            member.init(x),
            jnp.float32(time),
            jnp.float32(time - length),
        )
        np.testing.assert_allclose(
            after.x_mean[0], steps[f"{prefix}/x_mean"][row], rtol=2e-4, atol=2e-4 * float(jnp.abs(x).max())
        )


def process_at(process, t):
    """The same process with its score frozen at time t, where the original evaluates it."""
    return process.sde.reverse(
        lambda x, _: process.score_fn(x, jnp.full(x.shape[:1], t)), noise_scale=process.noise_scale
    )
