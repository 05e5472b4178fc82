"""Chains as latent-variable models: paths and divergences agree, exact models are exact, variances are learned."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from score_sde import chains
from score_sde.errors import UserError
from score_sde.likelihood import Quantization, chain_bound, nll_bound
from score_sde.models.adapters import LinenNetwork
from score_sde.models.mlp import MLP
from score_sde.parameterization import NoisePrediction
from score_sde.sdes import VP
from score_sde.typing import Network, expand_like
from score_sde.variational import (
    LearnedReversal,
    NoiseAndFraction,
    Reversal,
    ancestral_bound,
    forward_path,
    hierarchical_elbo,
    learned_bound,
    learned_variance_bound,
    make_predict_fn,
    path_log_weight,
    vlb_loss,
    with_variances,
)
from tests.analytic import Mixture
from tests.laws import float64

KEY = jax.random.key(4)
VARIANCES = np.array([0.3, 1.7])  # of data N(0, diag)
# Models of independent dimensions: one sign for all of them, and two for every level, are an exact mean of squares.
CHAINS = {
    "ddpm": lambda: chains.DDPM(betas=jnp.linspace(0.05, 0.6, 5)),
    "ncsn": lambda: chains.NCSN(sigmas=jnp.geomspace(0.2, 3.0, 5)),
    "tabulated": lambda: chains.Tabulated(mean_coeffs=jnp.linspace(0.9, 0.3, 5), stds=jnp.linspace(0.3, 1.4, 5)),
}
each_chain = pytest.mark.parametrize("make_chain", CHAINS.values(), ids=CHAINS)


@pytest.fixture
def double():
    with float64():
        yield


def exact_predict(chain, variances, fraction=None):
    """The noise of data N(0, diag), and a given fraction or that of the true reversal."""

    def predict(x, t):
        mean_coeff, std = (expand_like(c, x) for c in chain.marginal(t))
        marginal = mean_coeff**2 * jnp.asarray(variances, x.dtype)[None] + std**2
        own = best_fractions(chain, variances)[level_of(chain, t)] if fraction is None else jnp.full_like(x, fraction)
        return NoiseAndFraction(std * x / marginal, own)

    return predict


def level_of(chain, t):
    """Index from the data up."""
    return jnp.argmin(jnp.abs(t[:, None] - chain.times[None]), axis=1)


def best_fractions(chain, variances):
    """Of every level, by the conditional variance of two jointly Gaussian variables."""
    m, s = (c[:, None] for c in chain.marginal(chain.times))
    marginal = m**2 * jnp.asarray(variances)[None] + s**2
    ratio = m[1:] / m[:-1]
    step = s[1:] ** 2 - (ratio * s[:-1]) ** 2
    true = marginal[:-1] - (ratio * marginal[:-1]) ** 2 / marginal[1:]
    least = step * s[:-1] ** 2 / s[1:] ** 2
    steps = jnp.log(true / least) / jnp.log(step / least)
    of_data = jnp.asarray(variances)[None] - (m[:1] * jnp.asarray(variances)[None]) ** 2 / marginal[:1]
    first = jnp.log(of_data / least[:1]) / jnp.log((s[:1] / m[:1]) ** 2 / least[:1])
    return jnp.concatenate([first, steps])


def wrong_predict(chain, fraction):
    """A linear prediction that is right nowhere."""

    def predict(x, t):
        mean_coeff, std = (expand_like(c, x) for c in chain.marginal(t))
        return NoiseAndFraction((0.3 + 0.4 * std) * x - 0.2 * mean_coeff, fraction(x, t))

    return predict


FRACTIONS = {
    "small": lambda x, t: jnp.zeros_like(x),
    "large": lambda x, t: jnp.ones_like(x),
    "learned": lambda x, t: expand_like(0.2 + 0.7 * t, x) * jnp.array([[1.0, 0.4]], x.dtype),
}


@pytest.fixture
def signs(monkeypatch):
    """Noise that is +1 or -1 for half of the copies of every example: exact for squares of single levels."""

    def noise(keys, x):
        return jnp.broadcast_to(jnp.where(jnp.arange(len(x)) % 2, 1.0, -1.0)[:, None], x.shape).astype(x.dtype)

    monkeypatch.setattr(ancestral_bound, "sample_noise", noise)
    monkeypatch.setattr(learned_bound, "sample_noise", noise)
    return lambda x: jnp.repeat(jnp.asarray(x), 2, axis=0)


def mean_of_paths(chain, reversal, x):
    """The expectation of the evidence lower bound of one example, from all signs of the noise of all levels."""
    patterns = jnp.array(list(itertools.product([-1.0, 1.0], repeat=chain.num_levels)))  # (2^T, T)
    copies = jnp.broadcast_to(x, (len(patterns), *x.shape))
    noise = jnp.broadcast_to(patterns.T[..., None], (chain.num_levels, *copies.shape))
    return path_log_weight(chain, reversal, copies, forward_path(chain, copies, noise)).mean()


@pytest.mark.sweep
@pytest.mark.parametrize("fraction", FRACTIONS.values(), ids=FRACTIONS)
@each_chain
def test_the_elbo_of_paths_is_the_bound_of_divergences(make_chain, fraction, double, signs):
    """Both expectations are exact here, so they agree to the precision of numbers."""
    chain, x = make_chain(), jnp.array([0.7, -1.2])
    predict = wrong_predict(chain, fraction)
    paths = jax.jit(lambda: mean_of_paths(chain, LearnedReversal(chain=chain, predict=predict), x))()
    bound = jax.jit(lambda x: learned_variance_bound(KEY, chain, predict, x))(signs(x[None])).value.mean()
    np.testing.assert_allclose(-paths, bound, rtol=1e-9)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("fraction", "model"), [("small", ("fixed_small", "posterior")), ("large", ("fixed_large", "marginal"))]
)
@each_chain
def test_the_elbo_of_paths_is_the_chain_bound(make_chain, fraction, model, double, signs):
    chain, x = make_chain(), jnp.array([0.7, -1.2])
    predict = wrong_predict(chain, FRACTIONS[fraction])
    score = lambda x, t: -predict(x, t).noise / expand_like(chain.marginal(t).std, x)  # noqa: E731
    paths = jax.jit(lambda: mean_of_paths(chain, LearnedReversal(chain=chain, predict=predict), x))()
    options = {"variance": model[0], "decoder": model[1], "draws": 1}
    bound = jax.jit(lambda x: chain_bound(KEY, chain, score, x, **options))(signs(x[None])).value.mean()
    np.testing.assert_allclose(-paths, bound, rtol=1e-9)


MIXTURE = Mixture.three()
STEPS = chains.DDPM(betas=jnp.linspace(0.03, 0.5, 10))


def mixture_predict(fraction):
    score = MIXTURE.score(STEPS)
    return lambda x, t: NoiseAndFraction(-expand_like(STEPS.marginal(t).std, x) * score(x, t), fraction(x, t))


@pytest.mark.sweep
@pytest.mark.parametrize(("fraction", "num_levels"), [("large", 17), ("learned", None)], ids=["gray", "continuous"])
def test_they_agree_in_the_mean_where_the_score_is_not_linear(fraction, num_levels):
    n, quantization = 5000, Quantization(num_grey_levels=num_levels)
    predict = mixture_predict(FRACTIONS[fraction])
    x = jnp.tile(jnp.array([[-0.85, 0.15]]), (n, 1))

    @jax.jit
    def bounds(x):
        reversal = LearnedReversal(chain=STEPS, predict=predict)
        paths = -hierarchical_elbo(jax.random.key(8), STEPS, reversal, x, quantization=quantization)
        return paths, learned_variance_bound(KEY, STEPS, predict, x, quantization=quantization).value

    paths, terms = (np.asarray(v, np.float64) for v in bounds(x))
    error = np.hypot(paths.std(), terms.std()) / np.sqrt(n)
    assert abs(paths.mean() - terms.mean()) < 4.0 * error < 0.15


@pytest.mark.sweep
@pytest.mark.parametrize("num_levels", [None, 17], ids=["continuous", "gray"])
@pytest.mark.parametrize(
    ("fraction", "model"), [("small", ("fixed_small", "posterior")), ("large", ("fixed_large", "marginal"))]
)
def test_at_its_ends_a_learned_variance_is_a_fixed_one_term_by_term(fraction, model, num_levels):
    """With the same noise, level by level, and example by example."""
    quantization, x = Quantization(num_grey_levels=num_levels), jnp.asarray(MIXTURE.sample(50), jnp.float32)
    predict = wrong_predict(STEPS, FRACTIONS[fraction])
    score = lambda x, t: -predict(x, t).noise / expand_like(STEPS.marginal(t).std, x)  # noqa: E731
    ours = jax.jit(lambda x: learned_variance_bound(KEY, STEPS, predict, x, quantization=quantization))(x)
    options = {"variance": model[0], "decoder": model[1], "quantization": quantization, "draws": 1}
    theirs = jax.jit(lambda x: chain_bound(KEY, STEPS, score, x, **options))(x)
    for field in ("value", "prior", "divergences", "decoder", "squared_error", "rate"):
        np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field), rtol=2e-4, atol=2e-5, err_msg=field)


def matching_prior(variance):
    """A chain whose prior is exactly what it makes of data N(0, variance)."""
    means, stds = jnp.linspace(0.95, 0.2, 8), jnp.linspace(0.2, 0.9, 8)
    prior = jnp.sqrt(means[-1] ** 2 * variance + stds[-1] ** 2)
    return chains.Tabulated(mean_coeffs=means, stds=stds, prior_std=prior)


def test_of_an_exact_model_every_path_tells_the_likelihood(double):
    chain, x = matching_prior(0.4), jax.random.normal(KEY, (6, 2))
    reversal = LearnedReversal(chain=chain, predict=exact_predict(chain, [0.4, 0.4]))
    elbo = jax.jit(lambda x: hierarchical_elbo(KEY, chain, reversal, x))(x)
    np.testing.assert_allclose(elbo, stats.norm(0.0, np.sqrt(0.4)).logpdf(x).sum(axis=1), rtol=1e-9)


@pytest.mark.sweep
@each_chain
def test_the_best_learned_variances_are_those_of_the_reversal(make_chain, double, signs):
    """There the gradient of the mean over the data vanishes, and the bound costs what the prior does not know."""
    chain = make_chain()
    x = signs(jnp.sqrt(jnp.asarray(VARIANCES))[None] * jnp.array([[1.0], [-1.0]]))  # an exact mean of squares too
    best = best_fractions(chain, VARIANCES)

    @jax.jit
    def mean_bound(fractions):
        def predict(x, t):
            return exact_predict(chain, VARIANCES, 0.0)(x, t)._replace(fraction=fractions[level_of(chain, t)])

        return learned_variance_bound(KEY, chain, predict, x).value.mean()

    gradient = jax.jit(jax.grad(mean_bound))
    np.testing.assert_allclose(gradient(best), 0.0, atol=1e-9)
    for step in (-0.1, 0.1):  # it is convex, and its gradient points away
        assert (np.asarray(gradient(best + step)) * step > 1e-6).all()
    m, s = (float(c[-1]) for c in chain.marginal(chain.times))
    ratio = (m**2 * VARIANCES + s**2) / float(chain.prior_std) ** 2
    unknown = 0.5 * (ratio - 1.0 - np.log(ratio)).sum()
    entropy = 0.5 * np.log(2.0 * np.pi * np.e * VARIANCES).sum()
    np.testing.assert_allclose(mean_bound(best), entropy + unknown, rtol=1e-10)
    assert mean_bound(best) < min(mean_bound(jnp.zeros_like(best)), mean_bound(jnp.ones_like(best)))


def continuous_bound(sde, x, t_min):
    """Song et al. 2021b, theorem 3, for the exact score of N(0, diag), by quadrature."""

    def coefficients(t):
        m, s = (float(c) for c in sde.marginal(jnp.asarray(t)))
        return m, s, m**2 * VARIANCES + s**2

    def error(t):  # E |n - z|^2 - |z|^2
        m, s, marginal = coefficients(t)
        return np.sum((s * m * x / marginal) ** 2 + (m**2 * VARIANCES / marginal) ** 2 - 1.0)

    def integrand(t):
        return (float(sde.diffusion(jnp.asarray(t))) / coefficients(t)[1]) ** 2 * error(t)

    m, s, _ = coefficients(1.0)
    prior = 0.5 * np.sum((m * x) ** 2 + s**2 + np.log(2.0 * np.pi))
    integral = integrate.quad(integrand, t_min, 1.0, limit=200, epsrel=1e-11)[0]
    return prior - 2.0 * np.log(m) + 0.5 * integral + 0.5 * error(t_min)


def test_the_bound_tends_to_the_continuous_one_like_one_over_the_number_of_levels(double, signs):
    sde, t_min, x = VP(), 0.05, np.array([0.6, -1.1])
    limit = continuous_bound(sde, x, t_min)
    counts, gaps = np.array([50, 100, 200, 400]), []
    for n in counts:
        mean_coeffs, stds = sde.marginal(jnp.linspace(t_min, 1.0, n + 1))
        chain = chains.Tabulated(mean_coeffs=mean_coeffs, stds=stds)
        predict = exact_predict(chain, VARIANCES, 1.0)
        value = jax.jit(lambda x, c=chain, p=predict: learned_variance_bound(KEY, c, p, x).value)(signs(x[None]))
        gaps.append(float(value.mean()) - limit)
    assert gaps[0] > 0.0
    order = -np.polyfit(np.log(counts), np.log(gaps), 1)[0]
    assert abs(order - 1.0) < 0.05
    # Without the term of first order next to nothing is left.
    assert abs(2.0 * gaps[-1] - gaps[-2]) < 0.05 * gaps[-1]


def test_the_quadrature_is_the_continuous_bound():
    sde, x = VP(), np.array([0.6, -1.1])
    score = lambda x, t: -exact_predict(sde, VARIANCES, 1.0)(x, t).noise / sde.marginal(t).std[:, None]  # noqa: E731
    copies = jnp.tile(jnp.asarray(x, jnp.float32), (2000, 1))
    value = np.asarray(jax.jit(lambda x: nll_bound(KEY, sde, score, x, t_min=0.05).value)(copies))
    error = value.std() / np.sqrt(len(value))
    with float64():
        truth = continuous_bound(sde, x, 0.05)
    assert abs(value.mean() - truth) < 4.0 * error + 1e-4 < 0.05


class Table:
    """Predictions that are linear in x, with a weight, and a fraction for every level and dimension."""

    def __init__(self, chain):
        self.chain = chain

    def init(self, key, shape):
        return {"weight": jnp.array([0.4, 0.7]), "raw": jnp.zeros((self.chain.num_levels, 2))}

    def apply(self, params, x, condition, *, label=None, key=None):
        raw = params["raw"][level_of(self.chain, condition / 999.0)]
        return jnp.concatenate([params["weight"][None] * x, raw], axis=-1)


def test_more_paths_tighten_the_bound():
    x = jnp.tile(jnp.array([[-0.85, 0.15]]), (3000, 1))
    reversal = LearnedReversal(chain=STEPS, predict=mixture_predict(FRACTIONS["large"]))
    bound = jax.jit(lambda x, k: hierarchical_elbo(KEY, STEPS, reversal, x, num_samples=k), static_argnums=1)
    one, ten = (np.asarray(bound(x, k), np.float64) for k in (1, 10))
    assert (ten - one).mean() > 4.0 * (ten - one).std() / np.sqrt(3000)


@pytest.mark.slow
def test_an_example_does_not_depend_on_its_batch():
    x, predict = jnp.asarray(MIXTURE.sample(5), jnp.float32), wrong_predict(STEPS, FRACTIONS["learned"])
    reversal = LearnedReversal(chain=STEPS, predict=predict)
    bounds = (
        jax.jit(lambda x: hierarchical_elbo(KEY, STEPS, reversal, x)),
        jax.jit(lambda x: learned_variance_bound(KEY, STEPS, predict, x).value),
    )
    for bound in bounds:
        np.testing.assert_allclose(bound(x)[:2], bound(x[:2]), rtol=1e-4)


@pytest.mark.slow
def test_a_network_of_the_registry_gets_variances_and_starts_between_the_fixed_ones():
    network = with_variances(LinenNetwork(MLP(features=16, num_blocks=1)))
    params = jax.jit(lambda: network.init(KEY, (1, 2)))()
    predict = make_predict_fn(network, NoisePrediction(), STEPS, params)
    x, t = jnp.asarray(MIXTURE.sample(3), jnp.float32), STEPS.times[jnp.array([0, 4, 9])]
    noise, fraction = predict(x, t)
    np.testing.assert_allclose(fraction, 0.5, atol=1e-3)
    np.testing.assert_allclose(noise, 0.0, atol=1e-3)
    reversal = LearnedReversal(chain=STEPS, predict=predict)
    assert isinstance(network, Network) and isinstance(reversal, Reversal)
    posterior = STEPS.posterior(STEPS.times[3:4], t[1:2])
    np.testing.assert_allclose(
        np.exp(reversal.step(x[1:2], t[1:2], STEPS.times[3:4]).log_std)[0] ** 2,
        np.asarray(posterior.std * posterior.step_std)[0],
        rtol=1e-3,
    )


def test_what_is_no_chain_of_levels_is_refused():
    chain, x = chains.DDPM(betas=jnp.array([0.5])), jnp.zeros((1, 2))
    predict = exact_predict(chain, VARIANCES, 1.0)
    reversal = LearnedReversal(chain=chain, predict=predict)
    for call in (
        functools.partial(learned_variance_bound, KEY, chain, predict, x),
        functools.partial(hierarchical_elbo, KEY, chain, reversal, x),
        functools.partial(vlb_loss, chain, Table(chain), NoisePrediction()),
    ):
        with pytest.raises(UserError, match="The chain has 1 levels; expected at least 2"):
            call()
    with pytest.raises(UserError, match="num_samples is 0"):
        hierarchical_elbo(KEY, STEPS, LearnedReversal(chain=STEPS, predict=predict), x, num_samples=0)
