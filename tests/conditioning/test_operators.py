"""Linear operators: adjoint and singular value decomposition against the matrix, and what each of them is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning import LinearOperator, operators
from score_sde.conditioning.solving import pseudo_inverse, solve_noisy
from score_sde.errors import UserError

SHAPE = (4, 6, 3)
OPERATORS = {
    "mask": operators.mask(np.random.RandomState(0).rand(*SHAPE) < 0.4),
    "gray": operators.gray(),
    "luminance": operators.gray((0.299, 0.587, 0.114)),
    "block average": operators.block_average(SHAPE, 2),
    "gaussian blur": operators.gaussian_blur(SHAPE, 0.7),
    "motion blur": operators.motion_blur(3, 30.0),
    "random projection": operators.random_projection(jax.random.key(0), SHAPE, 10),
    "dense": operators.dense(np.random.RandomState(1).randn(5, 72), SHAPE),
    "a user's": LinearOperator(apply=lambda x: x[:, 1:] - x[:, :-1]),
}
each = pytest.mark.parametrize("name", OPERATORS)


def matrix_of(operator):
    """The images of the standard basis, flattened."""
    basis = jnp.eye(72).reshape(72, *SHAPE)
    return np.asarray(operator(basis)).reshape(72, -1).T


@pytest.mark.sweep(2)
@each
def test_adjoint_and_decomposition_are_those_of_the_matrix(name):
    operator = OPERATORS[name]
    matrix = matrix_of(operator)
    y = jnp.asarray(np.random.RandomState(2).randn(2, *operator(jnp.zeros((1, *SHAPE))).shape[1:]), jnp.float32)
    flat = np.asarray(y).reshape(2, -1)
    adjoint = np.asarray(operator.adjoint(y, (2, *SHAPE))).reshape(2, -1)
    np.testing.assert_allclose(adjoint, flat @ matrix, atol=1e-5)
    operators.check_linear(operator, (2, *SHAPE))
    inverse = np.asarray(pseudo_inverse(operator, y, (2, *SHAPE))).reshape(2, -1)
    np.testing.assert_allclose(inverse, flat @ np.linalg.pinv(matrix, rcond=1e-4).T, rtol=2e-3, atol=2e-3)
    if operator.svd is None:
        return
    x = jnp.asarray(np.random.RandomState(3).randn(2, *SHAPE), jnp.float32)
    svd = operator.svd
    np.testing.assert_allclose(svd.u(svd.values[None] * svd.vt(x)), operator(x), atol=1e-5)
    both = jnp.asarray(svd.vt(x)) * (svd.values > 0)[None]
    np.testing.assert_allclose(svd.vt(svd.v(both)), both, atol=1e-5)  # orthonormal columns
    np.testing.assert_allclose(svd.ut(svd.u(both)), both, atol=1e-5)


@pytest.mark.sweep(2)
@each
def test_a_noisy_system_is_solved_with_and_without_the_decomposition(name):
    operator, weights, variance = OPERATORS[name], (0.5, 100.0), 0.1
    matrix = matrix_of(operator)
    y = operator(jnp.asarray(np.random.RandomState(4).randn(2, *SHAPE), jnp.float32))
    plain = LinearOperator(apply=operator.apply)
    for solver in (operator, plain):
        found = np.asarray(solve_noisy(solver, y, (2, *SHAPE), jnp.asarray(weights), variance)).reshape(2, -1)
        for example, weight in enumerate(weights):
            system = weight * matrix @ matrix.T + variance * np.eye(len(matrix))
            exact = np.linalg.solve(system, np.asarray(y[example]).ravel())
            # What the adjoint takes away plays no part.
            np.testing.assert_allclose(found[example] @ matrix, exact @ matrix, rtol=2e-3, atol=2e-3)


def test_each_operator_is_what_it_is_called():
    image = jnp.asarray(np.random.RandomState(5).rand(1, *SHAPE), jnp.float32)
    np.testing.assert_allclose(operators.gray()(image)[..., 0], image.mean(axis=-1), rtol=1e-5)
    blocks = np.asarray(image).reshape(1, 2, 2, 3, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(operators.block_average(SHAPE, 2)(image), blocks, rtol=1e-5)
    for blur in (operators.gaussian_blur((40, 40, 1), 2.0), operators.motion_blur(9, 20.0)):
        point = jnp.zeros((1, 40, 40, 1)).at[0, 20, 20, 0].set(1.0)
        spread = np.asarray(blur(point))[0, :, :, 0]
        i, j = np.mgrid[:40, :40] - 20
        np.testing.assert_allclose([spread.sum(), (i * spread).sum(), (j * spread).sum()], [1.0, 0.0, 0.0], atol=1e-4)
    variances = [(operators.gaussian_blur((40, 40, 1), 2.0)(point)[0, :, :, 0] * k**2).sum() for k in (i, j)]
    np.testing.assert_allclose(variances, 4.0, rtol=0.01)
    # The line of a motion of 9 pixels at 20 degrees: variance (9^2 - 1) / 12 along it, and next to none across.
    angle = np.deg2rad(20.0)
    along, across = j * np.cos(angle) - i * np.sin(angle), j * np.sin(angle) + i * np.cos(angle)
    np.testing.assert_allclose([(spread * along**2).sum(), (spread * across**2).sum()], [80 / 12, 0.0], atol=0.4)
    np.testing.assert_allclose(operators.gaussian_blur(SHAPE, 30.0)(jnp.ones((1, *SHAPE))), 1.0, rtol=1e-5)
    rows = matrix_of(OPERATORS["random projection"])
    np.testing.assert_allclose(rows @ rows.T, np.eye(10), atol=1e-5)


WRONG = {
    "a factor that divides not": (lambda: operators.block_average(SHAPE, 4), "factor is 4, and images are 4 x 6"),
    "a gray mask": (lambda: operators.mask(np.array([0.0, 0.5])), "The mask has values other than 0 and 1"),
    "no blur": (lambda: operators.gaussian_blur(SHAPE, 0.0), "std is 0.0; expected a number of pixels above 0"),
    "no motion": (lambda: operators.motion_blur(0), "length is 0; expected a whole number of at least 1"),
    "too many": (lambda: operators.random_projection(jax.random.key(0), (2,), 3), "count is 3; expected .* 1 to 2"),
    "a matrix": (lambda: operators.dense(np.ones((2, 3)), (2,)), r"shape \(2, 3\), and an example 2 values"),
    "a mask of pixels": (
        lambda: operators.mask(np.ones((4, 6)))(jnp.ones((2, *SHAPE))),
        r"takes examples of shape \(4, 6\), and these have shape \(4, 6, 3\)\.",
    ),
    "one channel": (
        lambda: operators.gray()(jnp.ones((2, 4, 6, 1))),
        r"takes examples of shape \(None, None, 3\), and these have shape \(4, 6, 1\); None is any size",
    ),
    "another size": (
        lambda: OPERATORS["block average"](jnp.ones((2, 6, 4, 3))),
        r"takes examples of shape \(4, 6, None\), and these have shape \(6, 4, 3\)",
    ),
    "no batch": (lambda: OPERATORS["dense"](jnp.ones(SHAPE)), r"\(4, 6, 3\), and these have shape \(6, 3\)"),
    "no weights": (lambda: operators.gray((0.0, 0.0, 0.0)), "expected one weight above 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_told(name):
    make, message = WRONG[name]
    with pytest.raises(UserError, match=message):
        make()
