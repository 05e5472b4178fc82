"""Bounds of models with latent variables, on probabilistic PCA, of which likelihood and posterior are known."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from score_sde.errors import UserError
from score_sde.variational import (
    Gaussian,
    LatentVariableModel,
    autoencoder,
    elbo,
    importance_bound,
    sample_from_prior,
    vae_loss,
)
from tests.laws import float64

LATENT, DIM = 2, 4
SIGNS = np.array(list(itertools.product([-1.0, 1.0], repeat=LATENT)))  # their mean is exact for squares and products
KEY = jax.random.key(5)


class PPCA(NamedTuple):
    """``x = W z + b + s e`` (Tipping & Bishop 1999), with an encoder that is linear in x."""

    latent_shape: tuple[int, ...] = (LATENT,)

    def init(self, key, shape):
        keys = jax.random.split(key, 5)
        normal = [
            jax.random.normal(k, s)
            for k, s in zip(keys, [(LATENT, DIM), (DIM,), (DIM, LATENT), (LATENT,), (LATENT,)], strict=True)
        ]
        names = ("loading", "bias", "gain", "offset", "encoder_log_std")
        scales = (1.0, 0.3, 0.3, 0.3, 0.3)
        params = {name: scale * value for name, scale, value in zip(names, scales, normal, strict=True)}
        return {**params, "log_std": jnp.asarray(-0.4)}

    def encode(self, params, x):
        mean = x @ params["gain"] + params["offset"][None]
        return Gaussian(mean, jnp.broadcast_to(params["encoder_log_std"], mean.shape))

    def decode(self, params, z):
        mean = z @ params["loading"] + params["bias"][None]
        return Gaussian(mean, jnp.broadcast_to(params["log_std"], mean.shape))


MODEL = PPCA()


def in_double(params):
    return {name: np.asarray(value, np.float64) for name, value in params.items()}


PARAMS = in_double(MODEL.init(jax.random.key(1), (1, DIM)))
VARIANCE = np.exp(2.0 * PARAMS["log_std"])
X = 1.5 * np.random.RandomState(0).randn(5, DIM)


def evidence(params):
    """The marginal of the data."""
    return stats.multivariate_normal(params["bias"], params["loading"].T @ params["loading"] + VARIANCE * np.eye(DIM))


def posterior(params, x):
    """Mean and covariance of ``z`` given ``x``."""
    covariance = np.linalg.inv(np.eye(LATENT) + params["loading"] @ params["loading"].T / VARIANCE)
    return (x - params["bias"]) @ params["loading"].T @ covariance / VARIANCE, covariance


def with_exact_encoder(params):
    """Orthogonal loadings, for which the posterior has independent dimensions, and that posterior as the encoder."""
    basis = np.linalg.qr(params["loading"].T)[0].T
    params = {**params, "loading": basis * np.array([[1.7], [0.6]])}
    _, covariance = posterior(params, X)
    gain = params["loading"].T @ covariance / VARIANCE
    exact = {"gain": gain, "offset": -params["bias"] @ gain, "encoder_log_std": 0.5 * np.log(np.diag(covariance))}
    return {**params, **exact}


def encoder_gap(params, x):
    """``KL(q || posterior)`` of Gaussians with full covariances."""
    mean, covariance = posterior(params, x)
    offset = x @ params["gain"] + params["offset"] - mean
    precision, own = np.linalg.inv(covariance), np.diag(np.exp(2.0 * params["encoder_log_std"]))
    constant = np.trace(precision @ own) - LATENT - np.linalg.slogdet(precision @ own)[1]
    return 0.5 * (constant + np.einsum("bi,ij,bj->b", offset, precision, offset))


@pytest.fixture
def quadrature(monkeypatch):
    """Noise that runs through all signs, and the bound as the mean over them: exact where it is quadratic in it."""
    monkeypatch.setattr(autoencoder, "sample_noise", lambda keys, x: jnp.tile(SIGNS, (len(keys) // 4, 1)))

    def mean_elbo(params, x):
        return elbo(KEY, MODEL, params, jnp.repeat(jnp.asarray(x), len(SIGNS), axis=0)).reshape(len(x), -1).mean(axis=1)

    with float64():
        yield mean_elbo


def test_with_the_exact_posterior_the_bound_is_the_likelihood(quadrature):
    params = with_exact_encoder(PARAMS)
    np.testing.assert_allclose(quadrature(params, X), evidence(params).logpdf(X), rtol=1e-10)


def test_with_the_exact_posterior_every_weight_is_the_likelihood():
    params = with_exact_encoder(PARAMS)
    with float64():
        for num_samples in (1, 7):
            bound = jax.jit(lambda x, k=num_samples: importance_bound(KEY, MODEL, params, x, k))(jnp.asarray(X))
            np.testing.assert_allclose(bound, evidence(params).logpdf(X), rtol=1e-10)


def test_the_gap_is_the_divergence_of_the_encoder_from_the_posterior(quadrature):
    gap = evidence(PARAMS).logpdf(X) - quadrature(PARAMS, X)
    np.testing.assert_allclose(gap, encoder_gap(PARAMS, X), rtol=1e-9)
    assert gap.min() > 0.1


def closed_form(params, x):
    """The bound of one example, of parameters that may be traced: the likelihood less the divergence."""
    eye, variance = jnp.eye(LATENT), jnp.exp(2.0 * params["log_std"])
    covariance = params["loading"].T @ params["loading"] + variance * jnp.eye(DIM)
    likelihood = jax.scipy.stats.multivariate_normal.logpdf(x, params["bias"], covariance)
    precision = eye + params["loading"] @ params["loading"].T / variance
    mean = jnp.linalg.solve(precision, params["loading"] @ (x - params["bias"]) / variance)
    offset = x @ params["gain"] + params["offset"] - mean
    product = precision @ jnp.diag(jnp.exp(2.0 * params["encoder_log_std"]))
    divergence = jnp.trace(product) - LATENT - jnp.linalg.slogdet(product)[1] + offset @ precision @ offset
    return likelihood - 0.5 * divergence


def test_the_reparameterised_gradient_is_that_of_the_closed_form(quadrature):
    params = jax.tree.map(jnp.asarray, PARAMS)
    ours = jax.jit(jax.grad(lambda p: quadrature(p, X).sum()))(params)
    truth = jax.jit(jax.grad(lambda p: jax.vmap(lambda x: closed_form(p, x))(jnp.asarray(X)).sum()))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), ours, truth)


def test_with_random_noise_bound_and_gradient_are_right_in_the_mean():
    n, params = 4000, jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), PARAMS)
    x = jnp.asarray(X[0], jnp.float32)

    def one(params, index):
        return elbo(jax.random.fold_in(KEY, index), MODEL, params, x[None])[0]

    values, grads = jax.jit(jax.vmap(jax.value_and_grad(one), (None, 0)))(params, jnp.arange(n))
    truth = jax.jit(jax.value_and_grad(closed_form))(params, x)
    for ours, exact in zip(jax.tree.leaves((values, grads)), jax.tree.leaves(truth), strict=True):
        error = np.asarray(ours).std(axis=0) / np.sqrt(n)
        assert (np.abs(np.asarray(ours).mean(axis=0) - np.asarray(exact)) < 4.5 * error + 1e-4).all()


def test_more_samples_tighten_the_bound_between_the_evidence_lower_bound_and_the_likelihood():
    n, x = 3000, np.repeat(X[:1], 3000, axis=0)
    exact = evidence(PARAMS).logpdf(X[0])
    x, params = jnp.asarray(x, jnp.float32), jax.tree.map(jnp.float32, PARAMS)
    bound = jax.jit(lambda k: importance_bound(KEY, MODEL, params, x, k), static_argnums=0)
    bounds = {k: np.asarray(bound(k), np.float64) for k in (1, 2, 5, 20, 100)}
    lower = exact - encoder_gap(PARAMS, X[:1])[0]
    assert abs(bounds[1].mean() - lower) < 4.0 * bounds[1].std() / np.sqrt(n)
    for few, many in itertools.pairwise(bounds.values()):  # the first samples are the same
        assert (many - few).mean() > 4.0 * (many - few).std() / np.sqrt(n)
    assert lower + 0.5 < bounds[100].mean() < exact + 4.0 * bounds[100].std() / np.sqrt(n)
    assert exact - bounds[100].mean() < 0.1


def test_density_and_divergence_are_those_of_scipy():
    means, stds = [0.3, -1.0, 2.0], [0.5, 2.0, 1.0]
    p, q = (
        Gaussian(jnp.array([m[i:j]]), jnp.log(jnp.array([s[i:j]])))
        for m, s, i, j in ((means, stds, 0, 2), (means, stds, 1, 3))
    )
    x = jnp.array([[0.7, -0.2]])
    np.testing.assert_allclose(
        p.log_density(x)[0], stats.norm.logpdf([0.7, -0.2], means[:2], stds[:2]).sum(), rtol=1e-5
    )
    total = 0.0
    for i in range(2):
        own, other = stats.norm(means[i], stds[i]), stats.norm(means[i + 1], stds[i + 1])
        total += integrate.quad(lambda v, a, b: a.pdf(v) * (a.logpdf(v) - b.logpdf(v)), -12, 12, (own, other))[0]
    np.testing.assert_allclose(p.divergence(q)[0], total, rtol=1e-5)
    assert float(p.divergence(p)[0]) == 0.0


BOUNDS = {
    "elbo": elbo,
    "importance": functools.partial(importance_bound, num_samples=6, chunk=4),
}


@pytest.mark.sweep
@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
def test_an_example_does_not_depend_on_its_batch(bound):
    x, params = jnp.asarray(X, jnp.float32), jax.tree.map(jnp.float32, PARAMS)
    bound = jax.jit(functools.partial(bound, KEY, MODEL))
    whole = bound(params, x)
    np.testing.assert_allclose(bound(params, x[:2]), whole[:2], rtol=1e-5)
    np.testing.assert_allclose(bound(params, x.at[3:].set(9.0))[:3], whole[:3], rtol=1e-5)


def test_the_size_of_the_chunks_changes_nothing():
    x, params = jnp.asarray(X, jnp.float32), jax.tree.map(jnp.float32, PARAMS)
    bound = jax.jit(lambda chunk: importance_bound(KEY, MODEL, params, x, 10, chunk=chunk), static_argnums=0)
    bounds = [bound(chunk) for chunk in (4, 10, 99)]
    for bound in bounds[1:]:
        np.testing.assert_allclose(bound, bounds[0], rtol=1e-5)


@pytest.mark.sweep
@pytest.mark.parametrize("num_samples", [None, 3])
def test_the_loss_is_the_bound_per_dimension(num_samples):
    x, params = jnp.asarray(X[:4], jnp.float32), jax.tree.map(jnp.float32, PARAMS)
    loss = jax.jit(vae_loss(MODEL, num_samples=num_samples), static_argnames="train")
    whole = loss(params, KEY, x, train=True)
    bound = elbo(KEY, MODEL, params, x)
    if num_samples is not None:
        bound = importance_bound(KEY, MODEL, params, x, num_samples)
    np.testing.assert_allclose(whole, -bound / DIM, rtol=1e-5)


def test_samples_have_the_moments_of_the_evidence():
    n, params = 40_000, jax.tree.map(jnp.float32, PARAMS)
    x, mean = (np.asarray(sample_from_prior(KEY, MODEL, params, n, noise=noise)) for noise in (True, False))
    law = evidence(PARAMS)
    scale = np.sqrt(np.outer(np.diag(law.cov), np.diag(law.cov)) / n)
    assert (np.abs(x.mean(axis=0) - law.mean) < 4.5 * np.sqrt(np.diag(law.cov) / n)).all()
    assert (np.abs(np.cov(x.T) - law.cov) < 4.5 * np.sqrt(2.0) * scale).all()
    assert (np.abs(np.cov(mean.T) - (law.cov - VARIANCE * np.eye(DIM))) < 4.5 * np.sqrt(2.0) * scale).all()
    np.testing.assert_allclose(sample_from_prior(KEY, MODEL, params, 3, noise=True), x[:3], rtol=1e-5, atol=1e-6)


def test_the_model_is_one_of_the_protocol():
    assert isinstance(MODEL, LatentVariableModel)
    assert not isinstance(Gaussian(jnp.zeros((1, 1)), jnp.zeros((1, 1))), LatentVariableModel)


def test_no_samples_are_refused():
    for count, chunk in ((0, 1), (1, 0)):
        with pytest.raises(UserError, match="expected at least 1"):
            importance_bound(KEY, MODEL, PARAMS, jnp.zeros((1, DIM)), count, chunk=chunk)
    with pytest.raises(UserError, match="num_samples is 0"):
        vae_loss(MODEL, num_samples=0)
