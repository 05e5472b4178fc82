"""The bound of a chain: every term in closed form, its limit in continuous time, and the numbers of Ho et al."""

import functools
import itertools
from typing import get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from score_sde import chains
from score_sde.errors import UserError
from score_sde.likelihood import ChainModel, Quantization, chain_bound, chain_bounds, nll_bound
from score_sde.sampling import levels_of, uniform_times
from score_sde.sdes import VE, VP, SubVP
from score_sde.typing import expand_like
from score_sde.variational.ancestral_bound import DecoderVariance, StepVariance
from tests.analytic import Gaussian
from tests.laws import SDES, float64

CHAINS = {
    "linear": chains.DDPM(betas=chains.linear_betas(30, 3e-3, 0.4)),
    "cosine": chains.DDPM(betas=chains.cosine_betas(30)),
    "geometric": chains.NCSN(sigmas=chains.geometric_sigmas(30, 0.05, 5.0)),
    "uniform": chains.NCSN(sigmas=chains.uniform_sigmas(30, 0.05, 5.0)),
    "subvp": SubVP().discretize(30),
}
each_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
DENSITY = Gaussian.correlated(4)
N = 20_000
EXAMPLE = DENSITY.sample(1)[0]
COPIES, DATA = np.tile(EXAMPLE, (N, 1)), DENSITY.sample(N)
KEY = jax.random.key(3)


MODELS = tuple(ChainModel(*model) for model in itertools.product(get_args(StepVariance), get_args(DecoderVariance)))


def exact_score(process):
    return DENSITY.score(process)


@functools.partial(jax.jit, static_argnames=("score", "quantization", "num_terms", "draws"))
def program(process, x, times, *, score, **options):
    return chain_bounds(KEY, process, score(process), x, MODELS, times=times, **options)


def measure(process, x, variance="fixed_small", decoder="marginal", *, score=exact_score, times=None, **options):
    """The bound in double precision; processes of one kind and size, and all variances, share a program."""
    bounds = program(process, jnp.asarray(x, jnp.float32), times, score=score, **{"draws": 1, **options})
    bound = bounds[MODELS.index((variance, decoder))]
    return jax.tree.map(lambda field: np.asarray(field, np.float64), bound)


def table(chain):
    """Marginals of all levels, the data's side first, in double precision, and the std of the prior."""
    if isinstance(chain, chains.DDPM):
        alphas = np.cumprod(1.0 - np.asarray(chain.betas, np.float64))
        return np.sqrt(alphas), np.sqrt(1.0 - alphas), 1.0
    stds = np.asarray(chain.sigmas if isinstance(chain, chains.NCSN) else chain.stds, np.float64)
    means = np.ones_like(stds) if isinstance(chain, chains.NCSN) else np.asarray(chain.mean_coeffs, np.float64)
    return means, stds, float(chain.prior_std)


def gaussian_kl(variance, offset_square, other, dim=4):
    """KL of Gaussians with scalar variances and a mean square distance of their means."""
    ratio = variance / other
    return 0.5 * (dim * (ratio - 1.0 - np.log(ratio)) + offset_square / other)


def expected(chain, x, variance, decoder="marginal", levels=None):
    """Prior, divergences, decoder and squared error of one example, by the formulas of Ho et al. in data space."""
    m, s, prior_std = table(chain)
    levels = np.arange(len(m)) if levels is None else np.asarray(levels)
    m, s = m[levels], s[levels]
    marginal = m[:, None] ** 2 * DENSITY.eigenvalues + s[:, None] ** 2
    gain = m[:, None] * DENSITY.eigenvalues / marginal  # E[x_0 | x_t] = mean + gain (x_t - m mean)
    offset = (m[:, None] * gain - 1.0) * ((x - DENSITY.mean) @ DENSITY.basis)
    square = np.sum(offset**2 + (gain * s[:, None]) ** 2, axis=1)
    ratio = m[1:] / m[:-1]
    step = s[1:] ** 2 - ratio**2 * s[:-1] ** 2
    posterior = step * s[:-1] ** 2 / s[1:] ** 2
    own = posterior if variance == "fixed_small" else step
    weight = m[:-1] * step / s[1:] ** 2  # of x_0 in the posterior's mean (Ho et al., eq. 7)
    prior = gaussian_kl(s[-1] ** 2, m[-1] ** 2 * np.sum(x**2), prior_std**2)
    decoder_variance = posterior[0] if decoder == "posterior" else (s[0] / m[0]) ** 2
    nats = 0.5 * (4 * np.log(2.0 * np.pi * decoder_variance) + square[0] / decoder_variance)
    return prior, gaussian_kl(posterior, weight**2 * square[1:], own)[::-1], nats, square[::-1] / 4


def agrees(values, truth, *, tolerance=5.0):
    """Means over examples within their errors, level by level."""
    mean, error = values.mean(axis=0), values.std(axis=0) / np.sqrt(len(values))
    return bool((np.abs(mean - truth) < tolerance * error + 2e-5 * np.abs(truth) + 1e-7).all())


@pytest.mark.sweep(4)
@pytest.mark.parametrize("model", MODELS, ids="-".join)
@each_chain
def test_every_term_is_its_closed_form(chain, model):
    bound = measure(chain, COPIES, *model)
    prior, divergences, nats, square = expected(chain, EXAMPLE, *model)
    np.testing.assert_allclose(bound.prior, prior, rtol=1e-3)
    assert agrees(bound.divergences, divergences)
    assert agrees(bound.decoder, nats)
    assert agrees(bound.squared_error, square)
    assert agrees(bound.value, prior + divergences.sum() + nats)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [chains.cosine_betas, chains.linear_betas])
def test_the_terms_of_a_thousand_levels_hold_in_single_precision(schedule):
    chain, options = chains.DDPM(betas=schedule(1000)), {"variance": "fixed_large", "decoder": "posterior"}
    bound = measure(chain, COPIES[:2000], **options)
    prior, divergences, nats, _ = expected(chain, EXAMPLE, **options)
    np.testing.assert_allclose(bound.prior, prior, rtol=2e-2, atol=1e-8)
    assert agrees(bound.divergences, divergences)
    assert agrees(bound.value, prior + divergences.sum() + nats)


@pytest.mark.slow
def test_a_subset_of_the_levels_is_a_chain_too():
    """The terms are those of the steps between the visited levels."""
    chain = CHAINS["linear"]
    times = levels_of(chain, uniform_times(6, float(chain.times[0])))
    levels = [int(np.argmin(np.abs(np.asarray(chain.times) - t))) for t in np.asarray(times)[::-1]]
    for model in MODELS:
        bound = measure(chain, COPIES, *model, times=times)
        prior, divergences, nats, square = expected(chain, EXAMPLE, *model, levels=levels)
        assert bound.divergences.shape[1] == 6 and bound.squared_error.shape[1] == 7
        assert agrees(bound.divergences, divergences)
        assert agrees(bound.value, prior + divergences.sum() + nats)
        assert agrees(bound.squared_error, square)


def data_gap(chain, **options):
    """The mean of the bound over the data, less the entropy that it bounds, and its error."""
    logp = stats.multivariate_normal(DENSITY.mean, DENSITY.covariance).logpdf(DATA)
    gap = measure(chain, DATA, draws=2, **options).value + logp
    return gap.mean(), gap.std() / np.sqrt(len(gap))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sde", "variance", "counts"),
    [
        (VP(), "fixed_large", (25, 100)),
        pytest.param(VE(), "fixed_small", (50, 200), marks=pytest.mark.long),
        pytest.param(SubVP(), "fixed_large", (25, 100), marks=pytest.mark.long),
        pytest.param(VE(), "fixed_large", (50, 200), marks=pytest.mark.long),
    ],
    ids=["vp", "ve-small", "subvp", "ve-large"],
)
def test_it_is_a_bound_whose_gap_falls_like_one_over_the_number_of_levels(sde, variance, counts):
    (coarse, coarse_error), (fine, fine_error) = (data_gap(sde.discretize(n), variance=variance) for n in counts)
    assert fine > 4 * fine_error
    order = np.log(coarse / fine) / np.log(counts[1] / counts[0])
    error = np.hypot(coarse_error / coarse, fine_error / fine) / np.log(counts[1] / counts[0])
    assert abs(order - 1.0) < 0.08 + 3 * error, (order, error)


@pytest.mark.slow
def test_small_variances_cost_more_where_levels_are_even_in_time():
    """Near the data neighboring levels of a VP chain differ by a factor, however many there are."""
    (small, _), (large, _) = (data_gap(VP().discretize(100), variance=f"fixed_{kind}") for kind in ("small", "large"))
    assert small > 10 * large


def wrong_score(process):
    exact = DENSITY.score(process)
    return lambda x, t: exact(x, t) + 0.3 * x / expand_like(process.marginal(t).std, x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sde", "variance", "counts"),
    [(VP(), "fixed_large", (20, 80)), pytest.param(VE(), "fixed_small", (80, 320), marks=pytest.mark.long)],
    ids=["vp", "ve"],
)
def test_it_tends_to_the_continuous_bound(sde, variance, counts):
    """With a score that is wrong, along the marginals of the SDE and down to the same time."""
    x, t_min = jnp.asarray(DATA[:8000], jnp.float32), 0.05
    limit = jax.jit(lambda x: nll_bound(KEY, sde, wrong_score(sde), x, t_min=t_min).value)(x)
    gaps = []
    for n in counts:
        value = measure(sde, x, score=wrong_score, variance=variance, times=uniform_times(n, t_min)).value
        difference = value - np.asarray(limit)
        gaps.append((difference.mean(), difference.std() / np.sqrt(len(difference))))
    (coarse, coarse_error), (fine, fine_error) = gaps
    assert coarse > 5 * coarse_error
    assert abs(fine - coarse / 4) < 4 * (fine_error + coarse_error / 4) + 0.03 * coarse, gaps


@pytest.mark.parametrize("process", [*SDES.values(), *CHAINS.values()], ids=[*SDES, *CHAINS])
def test_the_posterior_is_that_of_bayes(process):
    """Precisions of the transition and of the marginal add, and at the true noise the mean lies between the two."""
    times = process.times if isinstance(process, chains.Chain) else jnp.linspace(0.01, 1.0, 30)
    with float64():
        s, t = jnp.asarray(times[:-1], jnp.float64), jnp.asarray(times[1:], jnp.float64)
        ratio, step, std = process.posterior(s, t)
        (m, below), (m_t, above) = process.marginal(s), process.marginal(t)
        np.testing.assert_allclose(1.0 / std**2, (ratio / step) ** 2 + 1.0 / below**2, rtol=2e-5)
        x0, xt = 0.7, -0.4
        mean = (xt - step**2 * (xt - m_t * x0) / above**2) / ratio
        np.testing.assert_allclose(mean, std**2 * (ratio * xt / step**2 + m * x0 / below**2), rtol=2e-3)


@pytest.mark.slow
def test_the_numbers_of_ho_et_al():
    """1000 levels, linear: the variances of the posterior, and L_T of an image at the edge of its range and at 0."""
    published = [2.9113e-5, 5.87e-10]  # bits per dimension
    with float64():
        chain = chains.DDPM(betas=jnp.linspace(1e-4, 0.02, 1000, dtype=jnp.float64))
        times = jnp.arange(1, 1001, dtype=jnp.float64) / 1000
        np.testing.assert_allclose(chain.betas[jnp.array([0, 499, 999])], [1e-4, 0.01004004004, 0.02], rtol=1e-9)
        variance = chain.posterior(times[:-1], times[1:]).std ** 2
        np.testing.assert_allclose(variance[jnp.array([0, 998])], [5.4531876613e-5, 0.01999998352656], rtol=1e-9)
    chain = chains.DDPM(betas=chains.linear_betas(1000))
    bound = measure(chain, np.repeat([[1.0], [0.0]], 1000, axis=0) * np.ones(4))
    np.testing.assert_allclose(bound.prior[[0, -1]] / (4 * np.log(2.0)), published, rtol=1e-2)


@each_chain
def test_rate_rises_and_distortion_falls_along_the_reversal(chain):
    bound = measure(chain, DATA)
    rate = np.asarray(bound.rate)
    assert (np.diff(rate.mean(axis=0)) > 0.0).all()
    np.testing.assert_allclose(rate[:, 0], bound.prior, rtol=1e-6)
    np.testing.assert_allclose(rate[:, -1] + bound.decoder, bound.value, rtol=1e-4, atol=1e-4)
    steps = np.diff(bound.squared_error, axis=1)
    assert (steps.mean(axis=0) < 4 * steps.std(axis=0) / np.sqrt(N)).all()
    # Before anything is known the best guess is the mean of the data, after all levels it is better than x_1.
    distortion, (m, s, _) = np.sqrt(bound.squared_error.mean(axis=0)), table(chain)
    spread = np.sqrt(DENSITY.eigenvalues.mean())
    assert 0.9 * spread < distortion[0] < 1.03 * spread and distortion[-1] < s[0] / m[0]


@pytest.mark.slow
def test_drawn_steps_have_the_mean_of_all_and_an_honest_error():
    chain = CHAINS["linear"]
    for model in MODELS:
        bound = measure(chain, COPIES, *model, num_terms=16, draws=2)
        prior, divergences, nats, square = expected(chain, EXAMPLE, *model)
        assert agrees(bound.value, prior + divergences.sum() + nats)
        assert agrees(bound.divergences, divergences)
        assert agrees(bound.squared_error, square)
        assert 0.95 < np.sqrt(np.mean(bound.std_error**2)) / bound.value.std() < 1.05


@pytest.mark.slow
def test_the_error_of_all_steps_is_the_observed_one():
    chain = VP().discretize(25)
    for model in MODELS:
        bound = measure(chain, COPIES, *model, draws=2)
        assert 0.95 < np.sqrt(np.mean(bound.std_error**2)) / bound.value.std() < 1.05
    assert np.isnan(measure(CHAINS["linear"], COPIES).std_error).all()


def test_an_example_depends_neither_on_its_batch_nor_on_other_models():
    chain, model = CHAINS["linear"], ChainModel("fixed_large", "posterior")
    x = jnp.asarray(DATA[:3], jnp.float32)
    alone = jax.jit(lambda x: chain_bound(KEY, chain, DENSITY.score(chain), x, **model._asdict(), draws=1))(x)
    for ours, other in zip(alone, measure(chain, DATA, *model), strict=True):
        np.testing.assert_allclose(ours, other[:3], rtol=2e-4, atol=2e-5)


@pytest.mark.slow
def test_an_example_draws_its_own_steps():
    whole, first = (measure(CHAINS["linear"], x, num_terms=16, draws=2) for x in (DATA, DATA[:3]))
    for ours, alone in zip(whole, first, strict=True):
        np.testing.assert_allclose(ours[:3], alone, rtol=2e-4, atol=2e-5)


CENTRES = np.array([-0.5, 0.5]), np.asarray(Quantization(num_grey_levels=17).midpoints(jnp.arange(17)), np.float64)
WEIGHTS = [np.exp(-2.0 * (c - 0.1) ** 2) / np.exp(-2.0 * (c - 0.1) ** 2).sum() for c in CENTRES]


def point_score(index, process):
    """The score of independent pixels that take the values of the centres."""

    def score(x, t):
        m, s = (expand_like(c, x)[..., None] for c in process.marginal(t))
        centres, weights = (jnp.asarray(v[index], x.dtype).reshape(1, 1, 1, 1, -1) for v in (CENTRES, WEIGHTS))
        logs = jnp.log(weights) - 0.5 * ((x[..., None] - m * centres) / s) ** 2
        mean = jnp.sum(jax.nn.softmax(logs) * centres, axis=-1)
        return (m[..., 0] * mean - x) / s[..., 0] ** 2

    return score


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chain", "index"),
    [(VP().discretize(500), 0), (VE(sigma_max=5.0).discretize(300), 1)],
    ids=["vp-2", "ve-17"],
)
def test_of_gray_levels_it_bounds_the_entropy(chain, index):
    """Of independent pixels with known probabilities and the exact score, and tightly.

    Near the data the gray levels are all but certain, which is where small variances are right.
    """
    quantization, weights = Quantization(num_grey_levels=(2, 17)[index]), WEIGHTS[index]
    levels = np.random.RandomState(0).choice(len(weights), size=(1000, 2, 2, 1), p=weights)
    score = functools.partial(point_score, index)
    x = quantization.midpoints(jnp.asarray(levels))
    bound = measure(chain, x, score=score, quantization=quantization)
    gap = bound.value + np.log(weights)[levels].sum(axis=(1, 2, 3))
    error = gap.std() / np.sqrt(len(gap))
    assert -4 * error < gap.mean() < 0.05 * bound.value.mean() + 4 * error
    assert bound.value.mean() > 50 * error


def test_fine_gray_levels_are_continuous_data_less_their_width():
    quantization = Quantization(num_grey_levels=4096)
    x = quantization.midpoints(jnp.asarray(quantization.quantize(np.clip(DATA, -0.99, 0.99))))
    discrete, continuous = (measure(CHAINS["geometric"], x, **o) for o in ({"quantization": quantization}, {}))
    np.testing.assert_allclose(discrete.divergences, continuous.divergences, rtol=1e-5)
    np.testing.assert_allclose(discrete.decoder - 4 * np.log(2048), continuous.decoder, rtol=1e-3, atol=1e-3)


def test_new_coefficients_do_not_retrace():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def bound(chain):
        return chain_bound(KEY, chain, lambda x, t: -x, jnp.ones((2, 4))).value

    ours, other = (bound(chains.DDPM(betas=chains.linear_betas(20, 1e-3, end))) for end in (0.1, 0.3))
    assert float(ours[0]) != float(other[0])
    chex.clear_trace_counter()


def test_a_request_that_cannot_be_met_is_refused():
    chain, x = CHAINS["linear"], jnp.zeros((1, 4))
    for options, message in (
        ({"num_terms": 3}, "num_terms is 3; expected an even number"),
        ({"draws": 0}, "draws is 0; expected a whole number of at least 1"),
        ({"times": jnp.ones(1)}, "expected at least 2"),
    ):
        with pytest.raises(UserError, match=message):
            chain_bound(KEY, chain, DENSITY.score(chain), x, **options)
    for name in ("variance", "decoder"):
        with pytest.raises((UserError, TypeError), match="wrong"):
            chain_bound(KEY, chain, DENSITY.score(chain), x, **{name: "wrong"})
    with pytest.raises(UserError, match="VP process has no levels"):
        chain_bound(KEY, VP(), DENSITY.score(VP()), x)
