"""Linear systems of every example: exact where the matrix is a covariance, and bounded where it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.solving import conjugate_gradients, least_residuals

RNG = np.random.RandomState(0)
B = jnp.asarray(RNG.randn(40, 6), jnp.float32)
NOISE = 1e-3


def solved(solve, matrices, iterations, **options):
    """The solutions, and the residuals that they leave."""
    matrices = jnp.asarray(matrices, jnp.float32)
    u, image = solve(lambda p: (jnp.einsum("nij,nj->ni", matrices, p), -p), B, jnp.zeros_like(B), iterations, **options)
    np.testing.assert_allclose(image, -u, rtol=1e-5, atol=1e-6)
    return np.asarray(u), np.linalg.norm(B - jnp.einsum("nij,nj->ni", matrices, u), axis=1)


@pytest.mark.parametrize("solve", [conjugate_gradients, least_residuals])
def test_covariances_are_solved_in_as_many_iterations_as_they_have_values(solve):
    roots = RNG.randn(40, 6, 6)
    matrices = roots @ roots.swapaxes(1, 2) + np.eye(6)
    u, _ = solved(solve, matrices, 8)
    np.testing.assert_allclose(u, np.linalg.solve(matrices, np.asarray(B)[..., None])[..., 0], rtol=2e-3, atol=2e-3)


def test_no_residual_grows_whatever_the_matrix():
    """As of the Jacobian of a network at large noise, which is its error for the most part."""
    matrices = RNG.randn(40, 6, 6) + NOISE * np.eye(6)
    size, before = np.linalg.norm(B, axis=1), np.inf
    for iterations in (1, 2, 3, 8):
        _, left = solved(least_residuals, matrices, iterations, floor=NOISE)
        assert (left <= size * (1 + 1e-4)).all() and left.mean() <= before + 1e-4
        before = left.mean()
    assert before < 0.9 * size.mean()
    assert solved(conjugate_gradients, matrices, 8)[1].max() > 3 * size.max()


def test_what_is_below_its_floor_is_left_alone():
    negative = -np.broadcast_to(np.eye(6), (40, 6, 6)) + NOISE * np.eye(6)
    u, _ = solved(least_residuals, negative, 3, floor=NOISE)
    assert not u.any()


@pytest.mark.sweep(4)
@pytest.mark.parametrize("size", [1.0, 1e-12, 1e-19, 0.0])
@pytest.mark.parametrize("iterations", [8, 16])
def test_what_is_solved_early_stays_solved_and_so_do_its_derivatives(iterations, size):
    """Two eigenvalues need two iterations; the others find nothing but rounding."""
    diagonal, b = jnp.array([[0.3, 0.3, 0.3, 1.7]]), size * jnp.array([[1.0, -2.0, 0.5, 3.0]])

    def solution(diagonal, b):
        return least_residuals(lambda p: (diagonal * p, p), b, jnp.zeros_like(b), iterations)[0]

    tangents = jnp.array([[1.0, 1.0, 1.0, 0.0]]), size * jnp.array([[2.0, -4.0, 1.0, 1.0]])
    value, derivative = jax.jit(lambda: jax.jvp(solution, (diagonal, b), tangents))()
    gradient = jax.jit(jax.grad(lambda b: solution(diagonal, b).sum()))(b)
    np.testing.assert_allclose(value, b / diagonal, rtol=1e-5)
    np.testing.assert_allclose(derivative, tangents[1] / diagonal - tangents[0] * b / diagonal**2, rtol=2e-4)
    if size > 1e-15:
        np.testing.assert_allclose(gradient, 1.0 / diagonal, rtol=2e-4)
    else:
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("share", [1.0, 1e-4, 1e-7, 1e-10])
def test_a_covariance_that_is_lost_beside_the_noise_is_solved_all_the_same(share):
    b = jnp.array([[1.0, -2.0]])
    u, _ = least_residuals(lambda p: (share * jnp.array([[1.0, 0.5]]) * p + p, p), b, 0.0 * b, 3, floor=1.0)
    np.testing.assert_allclose(u, b / (1.0 + share * np.array([[1.0, 0.5]])), rtol=1e-5)
