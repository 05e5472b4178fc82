r"""Score matching without noise levels: four losses that a score function ``s(x)`` of a density ``p`` minimizes.

    explicit   1/2 |s - grad log p|^2                       (Hyvarinen 2005, JMLR 6, section 2)
    implicit   tr grad s + 1/2 |s|^2                        (theorem 1 there; Song & Ermon 2019, eq. 1)
    sliced     v^T grad s v + 1/2 (v^T s)^2                 (Song et al. 2019, arXiv 1905.07088, section 3)
    denoising  1/2 |s(x + sigma z) + z / sigma|^2           (Vincent 2011; Song & Ermon 2019, eq. 2)

In expectation they differ by constants in ``s``: implicit is explicit minus half the Fisher information
``E|grad log p|^2``, sliced equals implicit, and denoising is explicit for ``p`` convolved with the noise, plus
``d / (2 sigma^2)`` minus half the Fisher information of this convolution. All are summed over the event, per example.
The score acts on a batch and must treat its examples independently.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.errors import UserError, unknown
from score_sde.typing import Batch, Number, PRNGKey, Times, event_sum

StaticScore: TypeAlias = Callable[[Batch], Batch]  #: a score of one density, without a time
Projections: TypeAlias = Float[Array, "batch projections *event"]  #: random directions for each example
ProjectionKind = Literal["rademacher", "gaussian", "sphere"]  #: the law of the directions


def explicit_score_matching(score: StaticScore, x: Batch, target: StaticScore) -> Times:
    """Half the squared distance to a known score, ``1/2 |s - target|^2``.

    Hyvarinen 2005, section 2. It evaluates a score where the density is known.

    >>> explicit_score_matching(lambda x: -x, jnp.array([[3.0, 4.0]]), lambda x: jnp.zeros_like(x)).tolist()
    [12.5]
    """
    return 0.5 * event_sum((score(x) - target(x)) ** 2)


def implicit_score_matching(score: StaticScore, x: Batch) -> Times:
    """``tr grad s + 1/2 |s|^2`` with the exact trace (Hyvarinen 2005, theorem 1).

    The trace takes one Jacobian-vector product for each of the ``d`` coordinates, all at once: time and memory grow
    like ``d`` evaluations of the score. :func:`sliced_score_matching` takes one for each direction.

    >>> implicit_score_matching(lambda x: -x, jnp.array([[3.0, 4.0]])).tolist()  # -2 + 25 / 2
    [10.5]
    """
    basis = jnp.eye(x[0].size, dtype=x.dtype).reshape(x[0].size, 1, *x.shape[1:])
    value, forms = _value_and_forms(score, x, jnp.broadcast_to(basis, (x[0].size, *x.shape)))
    return jnp.sum(forms, axis=0) + 0.5 * event_sum(value**2)


def sliced_score_matching(
    score: StaticScore, x: Batch, projections: Projections, *, variance_reduced: bool = True
) -> Times:
    """The mean over directions ``v`` of ``v^T grad s v + 1/2 (v^T s)^2`` (Song et al. 2019, section 3).

    The directions need mean zero and unit covariance, so that the expectation is :func:`implicit_score_matching`.

    Args:
        score: The score of a batch.
        x: Data.
        projections: Directions of every example; see :func:`draw_projections`.
        variance_reduced: Take the expectation of the second term, ``1/2 |s|^2``, in closed form (SSM-VR).

    >>> v = jnp.array([[[1.0, -1.0], [1.0, 1.0]]])
    >>> for reduced in (True, False):
    ...     sliced_score_matching(lambda x: -x, jnp.array([[3.0, 4.0]]), v, variance_reduced=reduced).tolist()
    [10.5]
    [10.5]
    """
    directions = jnp.moveaxis(projections, 1, 0)
    value, forms = _value_and_forms(score, x, directions)
    if variance_reduced:
        return jnp.mean(forms, axis=0) + 0.5 * event_sum(value**2)
    along = jax.vmap(lambda v: event_sum(v * value))(directions)
    return jnp.mean(forms + 0.5 * along**2, axis=0)


def denoising_score_matching(score: StaticScore, x: Batch, noise: Batch, std: Number) -> Times:
    """``1/2 |s(x + std z) + z / std|^2`` for noise ``z`` (Vincent 2011; Song & Ermon 2019, eq. 2), one level of eq. 5.

    The multi-level loss of NCSN, ``sum_i sigma_i^2 l(sigma_i) / L`` (eq. 6 there), is
    :func:`~score_sde.objectives.score_matching_loss` on :class:`~score_sde.chains.NCSN` at ``LevelTimes``.

    >>> denoising_score_matching(lambda x: -x, jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]]), 1.0).tolist()
    [0.0]
    """
    return 0.5 * event_sum((score(x + std * noise) + noise / std) ** 2)


def draw_projections(key: PRNGKey, num_projections: int, x: Batch, kind: ProjectionKind = "rademacher") -> Projections:
    """Random directions of mean zero and unit covariance, independent between examples.

    Signs (``"rademacher"``) have the least variance of the three; ``"sphere"`` is uniform on the sphere of radius
    ``sqrt(d)``, and ``"gaussian"`` is standard normal.

    Raises:
        UserError: For an unknown kind, and for less than one projection.

    >>> v = draw_projections(jax.random.key(0), 3, jnp.zeros((2, 4)), "sphere")
    >>> v.shape, bool(jnp.allclose(jnp.sum(v**2, axis=-1), 4.0))
    ((2, 3, 4), True)
    """
    if num_projections < 1:
        raise UserError(f"{num_projections} projections were asked for; expected 1 or more.")
    shape = (x.shape[0], num_projections, *x.shape[1:])
    if kind == "rademacher":
        return jax.random.rademacher(key, shape, x.dtype)
    normal = jax.random.normal(key, shape, x.dtype)
    if kind == "gaussian":
        return normal
    if kind == "sphere":
        axes = tuple(range(2, normal.ndim))
        return normal * jnp.sqrt(x[0].size / jnp.sum(normal**2, axis=axes, keepdims=True))
    raise unknown("kind of projections", kind, ("rademacher", "gaussian", "sphere"))


def _value_and_forms(
    score: StaticScore, x: Batch, directions: Float[Array, "directions batch *event"]
) -> tuple[Batch, Float[Array, "directions batch"]]:
    """The score and ``v^T grad s v`` for each direction, from one linearization."""
    value, jacobian = jax.linearize(score, x)
    # At once, not one after another: on a CPU the gradient of a convolution's weights is slow inside a loop.
    return value, jax.vmap(lambda v: event_sum(v * jacobian(v)))(directions)
