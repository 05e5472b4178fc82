"""Linear systems of every example: exact where the matrix is a covariance, and bounded where it is not."""

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
