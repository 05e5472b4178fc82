"""Decoupled annealing: the exact law of its steps on a Gaussian, exact observations, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling
from score_sde.chains import DDPM, linear_betas
from score_sde.conditioning import DAPS, operators
from score_sde.errors import UserError
from score_sde.sdes import VE, VP
from tests.analytic import Gaussian

DENSITY = Gaussian.correlated(2, std=1.0)
FIRST = operators.dense([[1.0, 0.0]], (2,))
A = np.array([[1.0, 0.0]])
Y, NOISE, N = 0.97, 0.5, 10_000
PROCESSES = {"vp": VP(), "ve": VE(sigma_max=10.0)}


def coefficients(sde, t):
    return (float(c) for c in sde.marginal(jnp.asarray(t, jnp.float32)))


def scored(m, s):
    precision = np.linalg.inv(m**2 * DENSITY.covariance + s**2 * np.eye(2))
    return -precision, precision @ (m * DENSITY.mean)


def to_the_data(sde, t, s, evals):
    """The affine map of the flow's steps from ``t``, and of the denoising at their end."""
    levels = np.linspace(
        *(float(sde.log_snr(jnp.asarray(time, jnp.float32))) for time in (t, min(1e-3, s))), max(evals, 2)
    )
    times = [t, *(float(sde.inverse_log_snr(jnp.asarray(level, jnp.float32))) for level in levels[1:])]
    matrix, offset = np.eye(2), np.zeros(2)
    for i in range(evals):
        m, sigma = coefficients(sde, times[i])
        slope, shift = scored(m, sigma)
        m_next, s_next = coefficients(sde, times[i + 1]) if i < evals - 1 else (1.0, 0.0)
        a, b = m_next / m, sigma * (m_next / m * sigma - s_next)
        step = a * np.eye(2) + b * slope
        matrix, offset = step @ matrix, step @ offset + b * shift
    return matrix, offset


def law_of_steps(sde, times, evals):
    mean, covariance = np.zeros(2), float(sde.prior_std) ** 2 * np.eye(2)
    for t, s in zip(np.asarray(times)[:-1], np.asarray(times)[1:], strict=True):
        matrix, offset = to_the_data(sde, float(t), float(s), evals)
        m, sigma = coefficients(sde, t)
        spread = (sigma / m) ** 2
        K = spread * A.T @ np.linalg.inv(spread * A @ A.T + NOISE**2 * np.eye(1))
        keep = np.eye(2) - K @ A
        mean, covariance = matrix @ mean + offset, matrix @ covariance @ matrix.T
        mean, covariance = keep @ mean + K @ [Y], keep @ covariance @ keep.T + spread * keep
        m, sigma = coefficients(sde, s)
        mean, covariance = m * mean, m**2 * covariance + sigma**2 * np.eye(2)
    return mean, covariance


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("evals", [1, 4])
def test_its_steps_have_the_law_of_their_recursion(name, evals):
    sde = PROCESSES[name]
    times, keys = sampling.log_snr_times(sde, 12, 1e-2), sampling.sample_keys(jax.random.key(0), 0, N)
    solver = DAPS(operator=FIRST, y=jnp.array([[Y]]), noise_std=NOISE, num_flow_steps=evals)
    run = jax.jit(lambda x: sampling.integrate(keys, solver, sde.reverse(DENSITY.score(sde)), x, times).x)
    x = np.asarray(run(sampling.prior_samples(keys, sde, (2,))))
    mean, covariance = law_of_steps(sde, times, evals)
    std = np.sqrt(np.diag(covariance))
    assert (np.abs(x.mean(axis=0) - mean) < 5 * std / np.sqrt(N)).all(), (x.mean(axis=0), mean)
    assert (np.abs(np.cov(x.T) - covariance) < 5 * np.sqrt(2 / N) * np.outer(std, std)).all()


def test_a_chain_is_told():
    chain = DDPM(betas=linear_betas(100))
    solver = DAPS(operator=FIRST, y=jnp.array([[Y]]), noise_std=NOISE)
    keys, x = sampling.sample_keys(jax.random.key(0), 0, 2), jnp.zeros((2, 2))
    with pytest.raises(UserError, match="between the levels of a DDPM chain; expected an SDE"):
        solver.step(keys, chain.reverse(lambda x, t: -x), solver.init(x), jnp.float32(1.0), jnp.float32(0.5))


WRONG = {
    "noise": ({"noise_std": -1.0}, "noise_std is -1.0; expected a finite number of at least 0"),
    "infinite noise": ({"noise_std": np.inf}, "noise_std is inf; expected a finite number of at least 0"),
    "evaluations": ({"num_flow_steps": 0}, "num_flow_steps is 0; expected a whole number of at least 1"),
    "the end": ({"t_end": 0.0}, "t_end is 0.0; expected a time between 0 and 1"),
    "observations": (
        {"y": jnp.zeros((3, 2))},
        r"The observations have shape \(3, 2\), and the operator makes \(4, 1\)",
    ),
    "a square": ({"operator": operators.LinearOperator(apply=lambda x: x[:, :1] ** 2)}, "The operator is not linear"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_told(name):
    arguments, message = WRONG[name]
    with pytest.raises(UserError, match=message):
        DAPS(**({"operator": FIRST, "y": jnp.zeros((1, 1)), "noise_std": 0.5} | arguments)).init(jnp.zeros((4, 2)))
