r"""The divergence of a vector field, exact or estimated, from one linearization that also yields its value.

Hutchinson's estimator (Skilling 1989; Hutchinson 1990) ``E[e^T J e] = tr J`` holds for probes of mean zero and unit
covariance. Rademacher probes have the least variance and are exact where ``J`` is diagonal.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arguments import not_whole
from score_sde.errors import UserError, unknown
from score_sde.typing import PRNGKey, Scalar

Event: TypeAlias = Float[Array, "*event"]  #: one example
Probes: TypeAlias = Float[Array, "probes *event"]  #: random directions for one example
ProbeKind = Literal["rademacher", "gaussian"]  #: the law of the entries of a probe


def draw_probes(key: PRNGKey, num_probes: int | None, event_shape: tuple[int, ...], kind: ProbeKind) -> Probes:
    """Probes for one example: random ones, or the standard basis for the exact trace (``num_probes=None``).

    Raises:
        UserError: For a number of probes that is not a whole number from 1, and for an unknown kind.
    """
    check_probes(num_probes, kind)
    if num_probes is None:
        size = 1
        for extent in event_shape:
            size *= extent
        return jnp.eye(size).reshape(size, *event_shape)
    draw = jax.random.rademacher if kind == "rademacher" else jax.random.normal
    return draw(key, (num_probes, *event_shape), jnp.float32)


def check_probes(num_probes: Any, kind: Any) -> None:
    """Refuse invalid numbers and kinds of probes, whether they are used or not.

    Raises:
        UserError: For a number of probes that is not a whole number from 1, and for an unknown kind.
    """
    if num_probes is not None and list(not_whole("num_probes", num_probes, 1)):
        raise UserError(f"num_probes is {num_probes}; expected 1 or more, or None for the exact trace.")
    if kind not in get_args(ProbeKind):
        raise unknown("kind of probes", str(kind), get_args(ProbeKind))


def value_and_quadratic_forms(
    field: Callable[[Event], Event], x: Event, probes: Probes
) -> tuple[Event, Float[Array, " probes"]]:
    """The field at ``x`` and ``e^T J e`` for each probe ``e``.

    The sum over the standard basis is the exact divergence; the mean over random probes is Hutchinson's estimate.

    >>> value, forms = value_and_quadratic_forms(lambda x: 3.0 * x, jnp.ones(2), jnp.eye(2))
    >>> float(forms.sum())
    6.0
    """
    value, jacobian = jax.linearize(field, x)

    def quadratic_form(probe: Event) -> Scalar:
        return jnp.sum(probe * jacobian(probe))

    return value, jax.vmap(quadratic_form)(probes)
