r"""Linear measurements ``y = A x`` of a batch of examples: masks, gray images, small, blurred and projected ones.

Any function from a batch of examples to a batch of observations is an operator for
:func:`~score_sde.conditioning.posterior_score`. A :class:`LinearOperator` also knows its adjoint ``A^T`` and, if there
is a cheap one, its singular value decomposition, which gives its pseudo-inverse. Images are NHWC, and shapes of one
example are ``(height, width, channels)``.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.arguments import not_fulfilled, not_whole
from score_sde.errors import UserError, refuse
from score_sde.typing import Batch, PRNGKey, holds, is_known

Observations: TypeAlias = Float[Array, "batch *observed"]  #: what is observed of each example
Linear: TypeAlias = Callable[[Array], Array]  #: a linear function of a batch

_EXACT = jax.lax.Precision.HIGHEST
#: Singular values below this share of the largest count as zero.
_SMALLEST = 1e-5


class SVD(NamedTuple):
    r"""``A = U diag(values) V^T``, with orthonormal columns of ``U`` and ``V`` as functions of batches.

    Attributes:
        values: Singular values, of the shape of the coefficients of one example, or broadcast to it.
        u: From coefficients to observations.
        ut: From observations to coefficients.
        v: From coefficients to examples.
        vt: From examples to coefficients.
    """

    values: Array
    u: Linear
    ut: Linear
    v: Linear
    vt: Linear

    def scaled(self, coefficients: Observations, gain: Callable[[Array], Array]) -> Observations:
        """Coefficients times a function of their singular values; where these are zero, so is the product."""
        values = self.values[None]
        known = values > _SMALLEST * jnp.max(values)
        return jnp.where(known, gain(jnp.where(known, values, 1.0)), 0.0).astype(coefficients.dtype) * coefficients


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LinearOperator:
    """A linear function from a batch of examples to a batch of observations, the same for every example.

    Attributes:
        apply: The function.
        adjoint_fn: Its transpose; by default ``jax.linear_transpose`` of it.
        svd: Its singular value decomposition, if there is a cheap one.
        shape: Shape of the examples that it takes, with ``None`` for an axis of any size; by default any.

    >>> pairs = LinearOperator(apply=lambda x: x[:, ::2] + x[:, 1::2])
    >>> pairs(jnp.array([[1.0, 2.0, 3.0, 4.0]])).tolist()
    [[3.0, 7.0]]
    >>> pairs.adjoint(jnp.array([[1.0, 2.0]]), (1, 4)).tolist()
    [[1.0, 1.0, 2.0, 2.0]]
    """

    apply: Linear
    adjoint_fn: Linear | None = None
    svd: SVD | None = None
    shape: tuple[int | None, ...] | None = None

    def __call__(self, x: Batch) -> Observations:
        """The observations ``A x``.

        Raises:
            UserError: If the examples have another shape, and would be broadcast.
        """
        wanted, found = self.shape, jnp.shape(x)[1:]
        if (
            wanted is not None
            and tuple(own if size is None else size for size, own in itertools.zip_longest(wanted, found, fillvalue=-1))
            != found
        ):
            raise UserError(
                f"The operator takes examples of shape {wanted}, and these have shape {found}"
                f"{'; None is any size' * (None in wanted)}."
            )
        return self.apply(x)

    def adjoint(self, y: Observations, shape: tuple[int, ...]) -> Batch:
        """``A^T y``, a batch of examples of the given shape."""
        if self.adjoint_fn is not None:
            return self.adjoint_fn(y)
        return jax.linear_transpose(self.apply, jax.ShapeDtypeStruct(shape, y.dtype))(y)[0]


def linear(operator: Linear) -> LinearOperator:
    """A function as a :class:`LinearOperator`; one is returned unchanged.

    >>> linear(lambda x: 2.0 * x)(jnp.ones((1, 2))).tolist()
    [[2.0, 2.0]]
    """
    return operator if isinstance(operator, LinearOperator) else LinearOperator(apply=operator)


def observed_shape(operator: Callable[[Array], Array], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the observations that an operator makes of a batch of examples; nothing is computed.

    Args:
        operator: The function, linear or not.
        shape: Shape of a batch of examples.

    >>> observed_shape(lambda x: x[:, ::2], (8, 5))
    (8, 3)
    """
    return jax.eval_shape(operator, jax.ShapeDtypeStruct(shape, jnp.result_type(float))).shape


def check_linear(operator: Linear, shape: tuple[int, ...]) -> None:
    """Refuse a function that is not linear, by random inputs; one that depends on traced values cannot be checked.

    Args:
        operator: The function.
        shape: Shape of a batch of examples.

    Raises:
        UserError: If ``A(2 a - 3 b)`` is not ``2 A(a) - 3 A(b)``.

    >>> check_linear(lambda x: x**2, (1, 2))
    Traceback (most recent call last):
    ...
    score_sde.errors.UserError: The operator is not linear: ...
    """
    rng = np.random.default_rng(0)
    with jax.ensure_compile_time_eval():
        a, b = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
        found, parts = operator(2.0 * a - 3.0 * b), (2.0 * operator(a), 3.0 * operator(b))
    if not is_known(found, *parts):
        return
    found, first, second = (np.asarray(part, np.float64) for part in (found, *parts))
    error, size = np.abs(found - (first - second)).max(), np.abs(first).max() + np.abs(second).max()
    if not error <= 1e-3 * size:
        raise UserError(
            f"The operator is not linear: A(2 a - 3 b) and 2 A(a) - 3 A(b) are {error:.3g} apart for random a and b; "
            'expected a linear function, or method="dps", which takes any differentiable one.'
        )


def mask(known: Any) -> LinearOperator:
    """The values of an example where a mask of the shape of one example is 1, and 0 elsewhere.

    Raises:
        UserError: If the mask has values other than 0 and 1.

    >>> mask(jnp.array([1, 0]))(jnp.array([[3.0, 4.0]])).tolist()
    [[3.0, 0.0]]
    """
    known = jnp.asarray(known)
    if not holds(lambda known: (known == 0) | (known == 1), known):
        raise UserError("The mask has values other than 0 and 1; expected 1 where values are known and 0 elsewhere.")

    def keep(x: Batch) -> Batch:
        return x * known[None].astype(x.dtype)

    svd = SVD(known.astype(float), keep, keep, keep, keep)
    return LinearOperator(apply=keep, adjoint_fn=keep, svd=svd, shape=known.shape)


def gray(weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3)) -> LinearOperator:
    """The projection of the channels of an image onto one: ``sum_c w_c x_c``. Its inverse problem is colorization.

    With equal weights it is, up to a factor, the channel that Song et al. 2021 (appendix I.3) hold while they draw the
    two others.

    Raises:
        UserError: If all weights are zero.

    >>> gray()(jnp.array([[[[0.0, 0.5, 1.0]]]])).round(3).tolist()
    [[[[0.5]]]]
    """
    size = float(np.linalg.norm(weights))
    refuse(not_fulfilled("weights", size, lambda size: np.isfinite(size) & (size > 0.0), "one weight above 0 at least"))
    direction = jnp.asarray(weights) / size

    def project(x: Batch) -> Observations:
        return jnp.einsum("...c,c->...", x, direction.astype(x.dtype), precision=_EXACT)[..., None]

    def spread(y: Observations) -> Batch:
        return y * direction.reshape((1,) * (y.ndim - 1) + (-1,)).astype(y.dtype)

    def same(y: Observations) -> Observations:
        return y

    svd = SVD(jnp.full((1, 1, 1), size), same, same, spread, project)
    return LinearOperator(
        apply=lambda x: size * project(x),
        adjoint_fn=lambda y: size * spread(y),
        svd=svd,
        shape=(None, None, len(direction)),
    )


def block_average(shape: tuple[int, int, int], factor: int) -> LinearOperator:
    """The means of blocks of ``factor x factor`` pixels; its inverse problem is super-resolution.

    Raises:
        UserError: If the factor does not divide height and width.

    >>> block_average((2, 2, 1), 2)(jnp.arange(4.0).reshape(1, 2, 2, 1)).tolist()
    [[[[1.5]]]]
    """
    refuse(not_whole("factor", factor, 1))
    if shape[0] % factor or shape[1] % factor:
        raise UserError(f"factor is {factor}, and images are {shape[0]} x {shape[1]}; expected a divisor of both.")
    return separable(*(np.kron(np.eye(size // factor), np.full((1, factor), 1 / factor)) for size in shape[:2]))


def gaussian_blur(shape: tuple[int, int, int], std: float) -> LinearOperator:
    """A blur by a Gaussian of a std in pixels, with the image mirrored at its edges.

    Raises:
        UserError: If the std is not positive.

    >>> blurred = gaussian_blur((8, 8, 1), 1.0)(jnp.ones((1, 8, 8, 1)))
    >>> bool(jnp.allclose(blurred, 1.0, atol=1e-6))
    True
    """
    refuse(not_fulfilled("std", std, lambda std: np.isfinite(std) & (std > 0.0), "a number of pixels above 0"))
    reach = int(np.ceil(4.0 * std))
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / std) ** 2)
    matrices = []
    for size in shape[:2]:
        place = (np.arange(size)[:, None] + offsets[None]) % (2 * size)
        mirrored = np.minimum(place, 2 * size - 1 - place)
        matrix = np.zeros((size, size))
        np.add.at(matrix, (np.arange(size)[:, None], mirrored), kernel[None] / kernel.sum())
        matrices.append(matrix)
    return separable(*matrices)


def motion_blur(length: int, angle: float = 0.0) -> LinearOperator:
    """A blur along a line of a length in pixels, ``angle`` degrees from the horizontal, with the edges repeated.

    Raises:
        UserError: If the length is not a whole number of pixels.

    >>> motion_blur(4)(4.0 * jnp.eye(1, 7, 3).reshape(1, 1, 7, 1)).ravel().tolist()
    [0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0]
    """
    refuse([*not_whole("length", length, 1), *not_fulfilled("angle", angle, np.isfinite, "a number of degrees")])
    reach = length // 2 + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for along in np.arange(length) - (length - 1) / 2:  # every point is shared between the four pixels around it
        place = reach + along * np.array([-np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])
        low = np.floor(place + 1e-9).astype(int)
        part = np.clip(place - low, 0.0, 1.0)
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            share = (part[0] if i else 1.0 - part[0]) * (part[1] if j else 1.0 - part[1])
            kernel[low[0] + i, low[1] + j] += share / length
    pads = ((0, 0), (reach, reach), (reach, reach), (0, 0))

    def blur(x: Batch) -> Observations:
        channels = x.shape[-1]
        weights = jnp.broadcast_to(jnp.asarray(kernel, x.dtype)[:, :, None, None], (*kernel.shape, 1, channels))
        return jax.lax.conv_general_dilated(
            jnp.pad(x, pads, mode="edge"),
            weights,
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=channels,
            precision=_EXACT,
        )

    return LinearOperator(apply=blur)


def random_projection(key: PRNGKey, shape: tuple[int, ...], count: int) -> LinearOperator:
    """``count`` random directions of a space of examples, orthonormal.

    Raises:
        UserError: If there are more directions than dimensions.

    >>> project = random_projection(jax.random.key(0), (4, 4, 1), 5)
    >>> y = jnp.ones((1, 5))
    >>> bool(jnp.allclose(project(project.adjoint(y, (1, 4, 4, 1))), y, atol=1e-5))
    True
    """
    dim = int(np.prod(shape))
    refuse(not_whole("count", count, 1, dim))
    directions, _ = np.linalg.qr(np.asarray(jax.random.normal(key, (dim, count)), np.float64))
    return dense(directions.T, shape)


def dense(matrix: Any, shape: tuple[int, ...]) -> LinearOperator:
    """A matrix that acts on the values of an example in row-major order.

    Raises:
        UserError: If the matrix does not have one column for each value.

    >>> dense([[1.0, 2.0, 3.0]], (3, 1))(jnp.ones((1, 3, 1))).tolist()
    [[6.0]]
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != int(np.prod(shape)):
        raise UserError(
            f"The matrix has shape {matrix.shape}, and an example {int(np.prod(shape))} values; expected a column for "
            "each."
        )
    u, values, vt = np.linalg.svd(matrix, full_matrices=False)

    def flat(matrix: np.ndarray) -> Linear:
        return lambda x: _times(matrix, x.reshape(x.shape[0], -1))

    def shaped(matrix: np.ndarray) -> Linear:
        return lambda y: _times(matrix, y).reshape(y.shape[0], *shape)

    svd = SVD(jnp.asarray(values, float), flat(u), flat(u.T), shaped(vt.T), flat(vt))
    return LinearOperator(apply=flat(matrix), adjoint_fn=shaped(matrix.T), svd=svd, shape=tuple(shape))


def separable(rows: Float[np.ndarray, "out_h h"], columns: Float[np.ndarray, "out_w w"]) -> LinearOperator:
    """``rows x columns^T`` of every channel of an image.

    >>> separable(np.ones((1, 2)), np.eye(2))(jnp.arange(4.0).reshape(1, 2, 2, 1))[0, :, :, 0].tolist()
    [[2.0, 4.0]]
    """
    (ru, rs, rvt), (cu, cs, cvt) = (np.linalg.svd(matrix, full_matrices=False) for matrix in (rows, columns))

    def both(left: np.ndarray, right: np.ndarray) -> Linear:
        def apply(x: Batch) -> Observations:
            parts = (jnp.asarray(matrix, x.dtype) for matrix in (left, right))
            return jnp.einsum("ih,jw,nhwc->nijc", *parts, x, precision=_EXACT)

        return apply

    values = jnp.asarray(np.outer(rs, cs)[..., None], float)
    svd = SVD(values, both(ru, cu), both(ru.T, cu.T), both(rvt.T, cvt.T), both(rvt, cvt))
    return LinearOperator(
        apply=both(rows, columns),
        adjoint_fn=both(rows.T, columns.T),
        svd=svd,
        shape=(rows.shape[1], columns.shape[1], None),
    )


def _times(matrix: np.ndarray, x: Float[Array, "batch values"]) -> Float[Array, "batch outputs"]:
    return jnp.einsum("ij,nj->ni", jnp.asarray(matrix, x.dtype), x, precision=_EXACT)
