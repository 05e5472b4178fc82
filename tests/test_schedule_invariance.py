"""One denoiser of x / m and s / m is one model under every path: Karras et al. 2022, section 2; Kingma et al. 2021."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.keys import sample_keys
from score_sde.likelihood import log_likelihood, log_likelihood_on_grid
from score_sde.sampling import integrate
from score_sde.sdes import EDM, VDM, VE, VP, Cosine, RectifiedFlow, Sigmoid, SubVP
from score_sde.solvers import DETERMINISTIC
from tests.laws import float64

HIGH, LOW = 8.0, -6.0  # log-SNRs between which all paths run
PATHS = {
    "vp": VP(),
    "ve": VE(sigma_max=50.0, sigma_min=0.001),
    "subvp": SubVP(),
    "vdm": VDM(log_snr_max=10.0, log_snr_min=-8.0),
    "rectified_flow": RectifiedFlow(),
    "cosine": Cosine(),
    "sigmoid": Sigmoid(),
    "edm": EDM(sigma_max=80.0),
}
#: Solvers that step in the noise and the denoised sample, for which paths differ by rounding alone.
EXPONENTIAL = [name for name in DETERMINISTIC if name.startswith(("dpm", "unipc"))]
KEYS = sample_keys(jax.random.key(0), 0, 16)


def score_of(sde):
    """Of a denoiser that is the exact one of no data."""

    def score(x, t):
        m, s = (c[:, None] for c in sde.marginal(t))
        ratio = s / m
        denoised = 0.8 * jnp.tanh(x / m + 0.3 * jnp.roll(x / m, 1, axis=1)) / (1.0 + 0.2 * ratio)
        return (m * denoised - x) / s**2

    return score


def times_of(sde, num_steps):
    return sde.inverse_log_snr(jnp.linspace(LOW, HIGH, num_steps + 1))


def scaled_starts(dtype):
    ratio = np.exp(-0.5 * LOW)
    return jnp.asarray(ratio * np.random.RandomState(0).randn(16, 3), dtype)


@pytest.mark.sweep
@pytest.mark.parametrize("name", EXPONENTIAL)
def test_equal_starts_make_equal_samples(name):
    solver, ends = DETERMINISTIC[name](), {}
    with float64():
        for path, sde in PATHS.items():
            times = times_of(sde, 12)
            start = sde.marginal(times[0]).mean_coeff * scaled_starts(jnp.float64)
            flow = sde.reverse(score_of(sde), noise_scale=0.0)
            found = jax.jit(lambda x, flow=flow, times=times: integrate(KEYS, solver, flow, x, times).x)(start)
            ends[path] = np.asarray(found / sde.marginal(times[-1]).mean_coeff)
    for path, end in ends.items():
        np.testing.assert_allclose(end, ends["vp"], atol=1e-4, err_msg=path)


def _terminal(sde, t):
    """The density of x / m at the end, a normal one with the variance of the noise and a half."""
    mean_coeff, std = (np.asarray(c) for c in sde.marginal(t))

    def logp(x):
        scale = mean_coeff * np.sqrt(0.5 + (std / mean_coeff) ** 2)
        return jnp.sum(jax.scipy.stats.norm.logpdf(x, scale=scale), axis=1)

    return logp


@pytest.mark.slow
def test_equal_data_have_equal_likelihoods_on_equal_grids():
    found = {}
    with float64():
        data = jnp.asarray(np.random.RandomState(1).randn(16, 3))
        for path, sde in PATHS.items():
            times = times_of(sde, 40)
            first = sde.marginal(times[-1]).mean_coeff
            options = {"num_probes": None, "terminal_logp": _terminal(sde, times[0])}
            result = log_likelihood_on_grid(jax.random.key(0), sde, score_of(sde), first * data, times, **options)
            found[path] = np.asarray(result.logp + 3.0 * jnp.log(first))
    for path, logp in found.items():
        np.testing.assert_allclose(logp, found["vp"], atol=1e-3, err_msg=path)


@pytest.mark.slow
def test_adaptive_likelihoods_agree_within_their_tolerance():
    found = {}
    with float64():
        data = jnp.asarray(np.random.RandomState(1).randn(16, 3))
        for path, sde in PATHS.items():
            t0, t1 = (float(sde.inverse_log_snr(jnp.asarray(value))) for value in (HIGH, LOW))
            first = sde.marginal(jnp.asarray(t0)).mean_coeff
            options = {"num_probes": None, "terminal_logp": _terminal(sde, jnp.asarray(t1)), "t0": t0, "t1": t1}
            result = log_likelihood(
                jax.random.key(0), sde, score_of(sde), first * data, **options, rtol=1e-7, atol=1e-7
            )
            assert bool(result.success.all()), path
            found[path] = np.asarray(result.logp + 3.0 * jnp.log(first))
    for path, logp in found.items():
        np.testing.assert_allclose(logp, found["vp"], atol=1e-3, err_msg=path)
