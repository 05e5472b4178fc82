"""Gray levels without dequantization: the bound with a decoder over them, and truncated normal noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from score_sde.errors import UserError
from score_sde.keys import example_keys
from score_sde.likelihood import (
    Quantization,
    TruncatedNormalDequantizer,
    dequantize_with,
    importance_weighted,
    level_bound,
    log_level_probability,
)
from score_sde.sdes import VDM, VP, SubVP
from tests.laws import float64

QUANTIZATION = Quantization(num_grey_levels=4)
WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])
MIDDLES = (2.0 * np.arange(4) + 1.0) / 4.0 - 1.0


def point_logp(sde, t, x):
    """Independent pixels of four levels with these probabilities: the log-density of each noisy pixel."""
    m, s = (c[:, None, None] for c in sde.marginal(t))
    logs = jnp.log(WEIGHTS)[None, None] + jax.scipy.stats.norm.logpdf(x[..., None], m * MIDDLES[None, None], s)
    return jax.nn.logsumexp(logs, axis=-1)


def point_score(sde):
    return lambda x, t: jax.grad(lambda x: point_logp(sde, t, x).sum())(x)


def drawn_levels(n, dim=3, seed=0):
    return np.random.RandomState(seed).choice(4, (n, dim), p=WEIGHTS)


def prior_gap(sde):
    """KL of the exact marginal at t = 1 from the prior, of one pixel."""
    m, s = (float(c) for c in sde.marginal(jnp.float32(1.0)))

    def density(x):
        return float(WEIGHTS @ stats.norm.pdf(x, m * MIDDLES, s))

    return integrate.quad(lambda x: density(x) * np.log(density(x) / stats.norm.pdf(x)), -9.0, 9.0)[0]


@pytest.mark.parametrize("low", [-5.0, -1.0])
def test_the_bound_of_the_exact_score_is_the_entropy_and_the_gap_to_the_prior(low):
    """The reverse SDE is then the exact reversal: nothing is lost but at the prior, and in the decoder's weights."""
    sde, levels = VDM(log_snr_min=low), drawn_levels(3000)
    bound = jax.jit(lambda x: level_bound(jax.random.key(1), sde, point_score(sde), x, QUANTIZATION, num_times=64))(
        jnp.asarray(levels)
    )
    # Paired with the exact -log P(k), whose mean is the entropy.
    excess = np.asarray(bound.value, np.float64) + np.log(WEIGHTS)[levels].sum(axis=1)
    error = excess.std() / np.sqrt(len(excess))
    assert abs(excess.mean() - 3.0 * prior_gap(sde)) < 4.0 * error
    assert error < 0.05
    assert np.asarray(bound.offset).max() < 1e-3  # at this log-SNR a pixel shows its level


def test_a_wrong_score_costs_bits():
    sde, levels = VDM(), jnp.asarray(drawn_levels(500))
    right = level_bound(jax.random.key(1), sde, point_score(sde), levels, QUANTIZATION)
    wrong = level_bound(jax.random.key(1), sde, lambda x, t: -x, levels, QUANTIZATION)
    assert float(wrong.value.mean()) > float(right.value.mean()) + 1.0


def denoiser_score(sde):
    """Of a denoiser that is not exact, the same function of x / m and s / m under every process."""

    def score(x, t):
        m, s = (c[:, None] for c in sde.marginal(t))
        ratio = s / m
        denoised = jnp.tanh(x / m) / (1.0 + ratio)
        return (m * denoised - x) / s**2

    return score


@pytest.mark.sweep
@pytest.mark.parametrize("other", [VP(), SubVP(), VP(beta_min=1.0, beta_max=9.0)], ids=["vp", "subvp", "vp_other"])
def test_the_integral_depends_on_the_schedule_through_its_ends_alone(other):
    """Kingma et al. 2021, section 5.1: equal random numbers give equal log-SNRs, and so equal integrals."""
    with float64():
        t_min = 1e-3
        ends = [float(other.log_snr(jnp.float64(t))) for t in (t_min, 1.0)]
        line = VDM(log_snr_max=ends[0], log_snr_min=ends[1])
        levels = jnp.asarray(drawn_levels(20))
        theirs = level_bound(jax.random.key(3), other, denoiser_score(other), levels, QUANTIZATION, t_min=t_min)
        ours = level_bound(jax.random.key(3), line, denoiser_score(line), levels, QUANTIZATION, t_min=1e-9)
        np.testing.assert_allclose(ours.integral, theirs.integral, rtol=1e-4)
        np.testing.assert_allclose(ours.offset, theirs.offset, atol=1e-4)


@pytest.mark.parametrize("std", [0.001, 0.3, 10.0])
def test_the_decoder_is_a_distribution_over_levels(std):
    xt = 0.9 * jnp.linspace(-1.5, 1.5, 13)[None]  # among them places halfway between two levels
    each = [QUANTIZATION.midpoints(jnp.full(xt.shape, level)) for level in range(4)]
    total = sum(jnp.exp(log_level_probability(xt, x, 0.9, std, QUANTIZATION)) for x in each)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("levels", "options", "said"),
    [
        (jnp.zeros((1, 3)), {}, "expected whole numbers"),
        (jnp.full((1, 3), 4), {}, "expected 0 to 3"),
        (np.ma.masked_equal([[0, 1, 2]], 2), {}, "1 is hidden"),
        (jnp.zeros((1, 3), int), {"num_times": 3}, "expected an even number"),
        (jnp.zeros((1, 3), int), {"t_min": 0.0}, "t_min"),
    ],
)
def test_what_has_no_bound_is_refused(levels, options, said):
    with pytest.raises(UserError, match=said):
        level_bound(jax.random.key(0), VDM(), lambda x, t: -x, levels, QUANTIZATION, **options)


def test_continuous_data_have_no_levels():
    with pytest.raises(UserError, match="expected gray levels"):
        level_bound(jax.random.key(0), VDM(), lambda x, t: -x, jnp.zeros((1, 3)), Quantization(num_grey_levels=None))


def truncated_draws(sde, t, levels, quantization=QUANTIZATION, seed=0):
    m, s = sde.marginal(jnp.float32(t))
    noise = TruncatedNormalDequantizer(quantization=quantization, mean_coeff=m, std=s)
    levels = jnp.asarray(levels)
    keys = example_keys(jax.random.key(seed), levels)
    return dequantize_with(quantization, noise, {}, keys, levels), float(m)


@pytest.mark.parametrize("t", [1e-5, 0.3, 0.8])
def test_truncated_normal_noise_has_a_density_on_its_bin(t):
    """The mean of 1 / q over draws of q is the length of its support: the bin, shrunk by the weight of the data."""
    levels = np.tile(np.arange(4), 5000)[:, None]
    (x, log_q), m = truncated_draws(VDM(log_snr_max=8.0), t, levels)
    inverse = np.exp(-np.asarray(log_q, np.float64))
    if t > 0.1:  # where the density is nearly even; in a narrow one the tails would decide
        assert abs(inverse.mean() - m) < 4.0 * inverse.std() / np.sqrt(len(inverse)) + 1e-6
    middle = m * MIDDLES[levels]
    assert float(np.abs(np.asarray(x) - middle).max()) <= 0.25 * m + 1e-6


def test_truncated_normal_noise_is_the_noise_of_the_flow():
    """Of a narrow one, cut off where nothing is left, the variance is s^2, and its density the normal one."""
    sde = VDM(log_snr_max=10.0)
    levels = np.full((40_000, 1), 2)
    (x, log_q), m = truncated_draws(sde, 1e-5, levels)
    s = float(sde.marginal(jnp.float32(1e-5)).std)
    noise = (np.asarray(x, np.float64)[:, 0] - m * MIDDLES[2]) / s
    assert stats.kstest(noise, "norm").pvalue > 1e-4
    np.testing.assert_allclose(np.asarray(log_q), stats.norm.logpdf(noise) - np.log(2.0 * s), atol=2e-3)


@pytest.mark.parametrize("k", [256, 4])
def test_the_exact_flow_with_truncated_normal_noise_costs_the_levels_and_the_cut(k):
    """-log p(x) + log q is -log P(k) - d log erf(tau / sqrt 2): 0.003 nats a pixel at a cut of three."""
    quantization = Quantization(num_grey_levels=k)
    half = 1.0 / k
    sde = VDM(log_snr_max=float(np.log((3.0 / half) ** 2 - 1.0)))  # s / m such that tau = 3, up to t = 1e-6
    weights = np.full(k, 1.0 / k)
    levels = np.random.RandomState(0).choice(k, (500, 2), p=weights)
    (x, log_q), m = truncated_draws(sde, 1e-6, levels, quantization)
    s = float(sde.marginal(jnp.float32(1e-6)).std)
    middles = np.asarray(quantization.midpoints(jnp.arange(k)), np.float64)
    logs = np.log(weights) + stats.norm.logpdf(np.asarray(x, np.float64)[..., None], m * middles, s)
    logp = np.logaddexp.reduce(logs, axis=-1).sum(axis=-1)
    bits = np.asarray(quantization.bits_per_dim(jnp.asarray(logp - np.asarray(log_q)), 2))
    cut = -np.log(stats.norm.cdf(m * half / s) - stats.norm.cdf(-m * half / s)) / np.log(2.0)
    assert 0.003 < cut < 0.005
    # The neighbors' tails reach into a bin a little, where p is larger than the level's own part.
    assert np.log2(k) - 1e-3 < bits.mean() < np.log2(k) + cut + 1e-3


def test_several_draws_of_it_bring_the_bound_closer():
    """The mean of the weights p / q under the logarithm: monotone in the number of draws, and no more than log P."""
    sde = VDM(log_snr_max=2.0)  # the bins overlap, so that one draw leaves a gap
    levels = np.full((4000, 1), 1)
    rows = []
    for seed in range(16):
        (x, log_q), _ = truncated_draws(sde, 1e-5, levels, seed=seed)
        logp = point_logp(sde, jnp.full(len(levels), 1e-5), x).sum(axis=-1)
        rows.append(np.asarray(logp - log_q))
    bounds = [float(importance_weighted(jnp.asarray(rows[:k])).mean()) for k in (1, 2, 4, 16)]
    assert bounds == sorted(bounds) and bounds[-1] - bounds[0] > 1e-3
