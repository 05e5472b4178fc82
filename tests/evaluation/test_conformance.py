"""The conformance tables: closed forms against independent ones, orders as stated, the corrector's known bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from scipy.stats import multivariate_normal

from score_sde.cli import main
from score_sde.evaluation import conformance
from score_sde.evaluation.conformance import flow_rows, noisy_rows, relative_errors, sampled_variances
from score_sde.evaluation.problems import CASES as ALL_CASES
from score_sde.evaluation.problems import CorrelatedGaussian, GaussianMixture, RotatedMixtures
from score_sde.report.rendering import render
from score_sde.sampling import integrate, log_snr_times, sample_keys
from score_sde.solvers import DETERMINISTIC, AnnealedLangevin, EulerMaruyama
from tests.laws import ORDERS

CASES = {case.name: case for case in ALL_CASES}
PROVENANCE = {"command": "c", "date": "d", "hardware": {"cpu": "e"}}

# The smallest error of any of 14 other libraries on the same problem at the same number of evaluations, measured in
# November 2026: k-diffusion's DPM++ 2M and 3M for VE; the JAX DPM-Solver's ++2M and ++3M for VP.
BEST = {
    ("VE", 8): 0.093,
    ("VE", 16): 0.021,
    ("VE", 32): 0.0018,
    ("VP", 8): 0.033,
    ("VP", 16): 0.014,
    ("VP", 32): 0.0023,
}


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "evals"), BEST)
def test_the_best_solver_is_at_or_below_the_best_of_the_others(name, evals):
    solver = "dpm_solver_2m" if evals == 8 else "unipc_3"
    with jax.enable_x64(True):
        error = relative_errors(CASES[name], DETERMINISTIC[solver](), "log_snr", [evals])[evals]
    assert error <= BEST[name, evals]


@pytest.mark.parametrize("name", CASES)
def test_a_mixture_has_the_density_of_its_noisy_components_and_its_score_is_the_gradient(name):
    data = GaussianMixture(
        weights=np.array([0.3, 0.7]), means=np.array([[-1.0, 0.5], [1.0, 0.0]]), stds=np.array([0.2, 0.4])
    )
    sde = CASES[name].sde
    with jax.enable_x64(True):
        x, t = jnp.array([[0.3, -0.8], [1.0, 2.0], [-40.0, 3.0]]), jnp.array([0.05, 0.4, 0.9])
        slope = jax.jit(jax.grad(lambda x: data.log_density(sde, x, t).sum()))(x)
        score, density = jax.jit(data.score(sde))(x, t), jax.jit(lambda x: data.log_density(sde, x, t))(x)
        m, s = (np.asarray(c) for c in sde.marginal(t))
    np.testing.assert_allclose(score, slope, rtol=1e-10)
    for i in range(3):
        parts = [
            np.log(weight) + multivariate_normal.logpdf(x[i], m[i] * mean, (m[i] * std) ** 2 + s[i] ** 2)
            for weight, mean, std in zip(data.weights, data.means, data.stds, strict=True)
        ]
        np.testing.assert_allclose(density[i], np.logaddexp(*parts), rtol=1e-10)


@pytest.mark.sweep
@pytest.mark.parametrize("problem", [CorrelatedGaussian(), RotatedMixtures()], ids=["gaussian", "mixtures"])
@pytest.mark.parametrize("name", CASES)
def test_the_closed_form_of_a_flow_solves_its_equation(problem, name):
    """Against a Runge-Kutta method of order 8, and the score against the gradient of the log-density by the flow."""
    sde, dim = CASES[name].sde, len(problem.basis)
    with jax.enable_x64(True):
        process = sde.probability_flow(problem.score(sde))
        drift = jax.jit(lambda t, x: process.drift(x[None], t)[0])
        start = np.asarray(sde.prior_std * np.random.RandomState(0).randn(dim))
        ends = (1.0, 0.05)
        solution = scipy.integrate.solve_ivp(
            lambda t, x: np.asarray(drift(t, x)), ends, start, method="DOP853", rtol=1e-10, atol=1e-12
        )
        exact = problem.flow(sde, jnp.asarray(start)[None], *(jnp.asarray(t) for t in ends))[0]
    np.testing.assert_allclose(solution.y[:, -1], exact, rtol=1e-7, atol=1e-8)


@pytest.mark.sweep
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_the_order_on_mixtures_is_the_nominal_one(solver, name):
    """On the Gaussian the leading error of some solvers vanishes; here none does."""
    case = CASES[name]._replace(t_end=0.05 if name != "VE" else 0.2)
    row = next(flow_rows([solver], problems=["mixtures"], cases=[case], evals=(8,), order_steps=(512, 1024)))
    assert abs(row.order - ORDERS[solver]) < 0.15, row


@pytest.mark.sweep(5)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("solver", conformance.NOISY)
def test_the_weak_order_of_every_noisy_solver_is_at_least_one(solver, name):
    row = next(noisy_rows([solver], cases=[CASES[name]], steps=(512,), order_steps=(512, 1024)))
    nominal = 2.0 if solver in ("sde_dpm_solver_2m", "sde_dpm_solver_3m") else 1.0
    assert row.order > nominal - 0.15, row  # more where errors of two orders cancel, as those of Euler-Maruyama on VE
    assert row.errors[512] < 0.05


@pytest.mark.slow
def test_computed_variances_are_those_of_samples():
    """Of a solver with memory too: 40000 samples, four standard errors."""
    case, n = CASES["VP"], 40_000
    times = log_snr_times(case.sde, 12, 1e-3)
    gaussian = conformance.GAUSSIAN
    process = case.sde.reverse(gaussian.score(case.sde))
    spread = jnp.sqrt(gaussian.marginal_variances(case.sde, times[0]))
    start = spread[None] * jax.random.normal(jax.random.key(5), (n, 16))
    for solver in (EulerMaruyama(), conformance.NOISY["sde_dpm_solver_2m"], conformance.NOISY["sde_dpm_solver_3m"]):
        expected = np.asarray(sampled_variances(case, [solver], times))
        keys = sample_keys(jax.random.key(4), 0, n)
        x = integrate(keys, solver, process, start @ gaussian.basis.T, times).x @ gaussian.basis
        found = np.asarray(x).var(axis=0)
        assert np.abs(found / expected - 1).max() < 4 * np.sqrt(2 / n), solver


@pytest.mark.parametrize("snr", [0.05, 0.16])
def test_a_corrector_alone_settles_at_its_known_variance(snr):
    """``v / (1 - e / 2v)``, with ``e = 2 (snr s)^2``."""
    case = CASES["VP"]
    with jax.enable_x64(True):
        t = jnp.asarray(0.3)

        class Still(type(case.sde)):
            """The process as it is at one time."""

            def marginal(self, time):
                return case.sde.marginal(jnp.full_like(time, t))

        found = sampled_variances(case._replace(sde=Still()), [AnnealedLangevin(snr=snr)], jnp.full(4000, t))
        v = conformance.GAUSSIAN.marginal_variances(case.sde, t)
        step = 2.0 * (snr * case.sde.marginal(t).std) ** 2
        expected = v / (1.0 - step / (2.0 * v))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_predictor_corrector_sampling_is_off_by_its_computed_bias_and_no_more(name):
    rows = list(conformance.corrector_rows((0.05,), cases=[CASES[name]], num_steps=100, num_samples=4000))
    (row,) = rows
    assert abs(row.langevin - row.annealed) < 4 * row.langevin_std_error + 0.3 * abs(row.predictor)
    assert abs(row.annealed) < abs(row.predictor)  # small corrections repair what the predictor leaves
    page = render("conformance.md", flow=[], noisy=[], corrector=rows, how=PROVENANCE)
    assert f"| {name} | 0.05 |" in page


def test_the_command_needs_no_configuration(tmp_path, monkeypatch, capsys):
    short = {
        "flow_rows": list(flow_rows(["dpm_solver_1"], cases=[CASES["VP"]], evals=(8,), order_steps=(64, 128))),
        "noisy_rows": list(noisy_rows(["ddim"], cases=[CASES["VP"]], steps=(8,), order_steps=(16, 32))),
        "corrector_rows": [],
    }
    for name, rows in short.items():
        monkeypatch.setattr(f"score_sde.modes.comparing.{name}", lambda rows=rows: rows)
    assert main([f"--workdir={tmp_path / 'c'}", "--mode=conformance"]) == 0, capsys.readouterr().err
    page = (tmp_path / "c" / "conformance.md").read_text()
    assert page.count("| VP | dpm_solver_1 | log_snr |") == 2 and "| VP | ddim |" in page
    assert main([f"--workdir={tmp_path / 'c'}", "--mode=train"]) == 2
    assert "There is no run in" in capsys.readouterr().err
