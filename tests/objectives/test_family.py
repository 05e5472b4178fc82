"""The score matching family: one gradient, known constants between the values, and the price of an exact trace."""

import inspect
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.objectives import (
    denoising_score_matching,
    draw_projections,
    explicit_score_matching,
    implicit_score_matching,
    sliced_score_matching,
)
from tests.analytic import Mixture
from tests.laws import float64

STILL = SimpleNamespace(marginal=lambda t: (jnp.ones_like(t), jnp.zeros_like(t)))
MIXTURE = Mixture(
    np.array([0.5, 0.3, 0.2]), np.array([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]]), np.array([0.5, 0.7, 0.4])
)
NOISE = 0.6
KINDS = ("rademacher", "gaussian", "sphere")


def blurred(density, std):
    return density._replace(stds=np.sqrt(density.stds**2 + std**2))


def log_density(density):
    return lambda x: density.logp(STILL, jnp.zeros(x.shape[:1], x.dtype), x)


def true_score(density):
    logp = log_density(density)
    return lambda x: jax.vmap(jax.grad(lambda one: logp(one[None])[0]))(x)


def trapezoid(density, *, spacing=0.12, reach=6.5):
    """Nodes and weights of an expectation: spectrally accurate, because the density vanishes at the ends."""
    axis = np.arange(-reach, reach, spacing)
    nodes = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    return jnp.asarray(nodes), spacing**2 * jnp.exp(log_density(density)(jnp.asarray(nodes)))


def parameters():
    normal = np.random.RandomState(0).randn
    return {"w": 0.7 * normal(2, 5), "b": normal(5), "v": normal(5, 2), "a": np.array(-0.3)}


def score_of(params):
    """A family of scores that are no gradients of a density, which none of the theorems asks for."""
    return lambda x: jnp.tanh(x @ params["w"] + params["b"][None]) @ params["v"] + params["a"] * x


def expected(losses, weights):
    """The value of an expectation at the parameters, and its gradient."""
    return jax.value_and_grad(lambda params: jnp.sum(weights * losses(score_of(params))))(parameters())


def fisher_information(density):
    """``-E tr grad^2 log p``, which is ``E |grad log p|^2`` by another road."""
    x, weights = trapezoid(density)
    hessian = jax.vmap(jax.hessian(lambda one: log_density(density)(one[None])[0]))(x)
    return -float(jnp.sum(weights * jnp.trace(hessian, axis1=1, axis2=2)))


def assert_same_gradient(first, second, atol):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(first)) > 0.1  # the equality says something


@pytest.mark.slow
def test_implicit_is_explicit_less_half_the_fisher_information():
    with float64():
        x, weights = trapezoid(MIXTURE)
        explicit = expected(lambda s: explicit_score_matching(s, x, true_score(MIXTURE)), weights)
        implicit = expected(lambda s: implicit_score_matching(s, x), weights)
        assert_same_gradient(explicit[1], implicit[1], 1e-9)
        assert abs(explicit[0] - implicit[0] - 0.5 * fisher_information(MIXTURE)) < 1e-9


@pytest.mark.slow
def test_denoising_is_explicit_for_the_blurred_density():
    """Vincent 2011: the same gradient, and d / (2 sigma^2) less half the Fisher information more."""
    with float64():
        x, weights = trapezoid(MIXTURE, spacing=0.25)
        z, hermite = np.polynomial.hermite_e.hermegauss(14)
        noise = jnp.asarray(list(itertools.product(z, z)))
        product = jnp.asarray([a * b for a, b in itertools.product(hermite, hermite)]) / (2 * np.pi)
        pairs = jnp.repeat(x, len(noise), axis=0), jnp.tile(noise, (len(x), 1))
        denoising = expected(
            lambda s: denoising_score_matching(s, *pairs, NOISE),
            jnp.repeat(weights, len(noise)) * jnp.tile(product, len(x)),
        )
        density = blurred(MIXTURE, NOISE)
        x, weights = trapezoid(density, reach=8.5)
        explicit = expected(lambda s: explicit_score_matching(s, x, true_score(density)), weights)
        assert_same_gradient(explicit[1], denoising[1], 1e-6)
        constant = 2 / (2 * NOISE**2) - 0.5 * fisher_information(density)
        assert abs(denoising[0] - explicit[0] - constant) < 1e-6


@pytest.mark.parametrize("reduced", [False, True], ids=["ssm", "ssm_vr"])
def test_sliced_over_all_signs_or_over_a_frame_is_implicit(reduced):
    """Their second moments are those of random directions, and exactly so."""
    rng = np.random.RandomState(1)
    matrix, x = rng.randn(3, 3), jnp.asarray(rng.randn(7, 3), jnp.float32)

    def score(x):
        return jnp.tanh(x @ matrix) * jnp.sum(x**2, axis=1, keepdims=True)

    exact = implicit_score_matching(score, x)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
    frame = np.sqrt(3) * np.linalg.qr(rng.randn(3, 3))[0]
    for directions in (signs, frame):
        projections = jnp.broadcast_to(jnp.asarray(directions, jnp.float32), (7, *directions.shape))
        sliced = sliced_score_matching(score, x, projections, variance_reduced=reduced)
        np.testing.assert_allclose(sliced, exact, rtol=2e-5, atol=2e-5)
        one = sliced_score_matching(score, x, projections[:, :1], variance_reduced=reduced)
        assert float(jnp.abs(one - exact).max()) > 0.1  # one direction alone is not exact


def test_the_trace_is_that_of_the_jacobian_of_images():
    x = jnp.asarray(np.random.RandomState(2).randn(2, 3, 2, 1), jnp.float32)

    def one(image):
        return jnp.sin(image) * jnp.cumsum(image, axis=0)

    jacobians = jax.vmap(jax.jacobian(one))(x).reshape(2, 6, 6)
    losses = implicit_score_matching(jax.vmap(one), x)
    square = jnp.sum(jax.vmap(one)(x) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(losses, jnp.trace(jacobians, axis1=1, axis2=2) + 0.5 * square, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_directions_have_unit_covariance_and_are_independent(kind, key):
    n, shape = 40_000, (3, 1)
    v = np.asarray(draw_projections(key, 2, jnp.zeros((n, *shape)), kind)).reshape(n, 6)
    moments = v[:, :, None] * v[:, None, :]
    error = moments.std(axis=0) / np.sqrt(n)
    assert (np.abs(moments.mean(axis=0) - np.eye(6)) <= 5 * error + 1e-6).all()
    assert (np.abs(v.mean(axis=0)) < 5 / np.sqrt(n)).all()


def test_variance_reduction_reduces_the_variance_as_it_must(key):
    """At the score of N(0, I), Gaussian directions: 2 d for SSM-VR against d^2 / 2 + d, over x too for the latter."""
    d, n = 8, 100_000
    x = jax.random.normal(key, (n, d))
    projections = draw_projections(jax.random.fold_in(key, 1), 1, x, "gaussian")
    exact = implicit_score_matching(lambda x: -x, x)
    for reduced, variance in ((True, 2 * d), (False, d**2 / 2 + d)):
        error = sliced_score_matching(lambda x: -x, x, projections, variance_reduced=reduced) - exact
        np.testing.assert_allclose(float(jnp.var(error)), variance, rtol=0.05)
    signs = draw_projections(key, 1, x)
    np.testing.assert_allclose(sliced_score_matching(lambda x: -x, x, signs), exact, rtol=1e-5)  # a diagonal Jacobian


def flops(losses, d, *shapes):
    rng = np.random.RandomState(3)
    inner, middle = jnp.asarray(rng.randn(d, 128), jnp.float32), jnp.asarray(rng.randn(128, 128), jnp.float32)

    def score(x):
        return jnp.tanh(jnp.tanh(x @ inner) @ middle) @ inner.T

    zeros = [jnp.zeros(shape) for shape in ((4, d), *shapes)]
    compiled = jax.jit(lambda *arrays: losses(score, *arrays)).lower(*zeros).compile()
    return compiled.cost_analysis()["flops"]


def sliced_flops(d, count):
    return flops(sliced_score_matching, d, (4, count, d))


def test_an_exact_trace_costs_as_many_directions_as_there_are_dimensions():
    for d in (4, 16, 64):
        per_direction = (sliced_flops(d, 9) - sliced_flops(d, 1)) / 8
        evaluation = sliced_flops(d, 1) - per_direction
        assert 0.7 < per_direction / evaluation < 1.5  # a direction costs about an evaluation
        cost = flops(implicit_score_matching, d)
        assert abs(cost / (evaluation + d * per_direction) - 1) < 0.05, (d, cost, evaluation, per_direction)


def test_errors_say_what_is_known(key):
    with pytest.raises(UserError, match=r"'signs'.*Known: gaussian, rademacher, sphere"):
        inspect.unwrap(draw_projections)(key, 1, jnp.zeros((1, 2)), "signs")
    with pytest.raises(UserError, match="0 projections were asked for; expected 1 or more"):
        draw_projections(key, 0, jnp.zeros((1, 2)))
