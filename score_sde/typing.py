"""The vocabulary of the package: the array types, and the protocols that extensions implement.

Conventions, fixed once for the whole package:

* Time ``t`` lies in ``[0, 1]``; 0 is data, 1 is the prior. A solver step goes *from t to s*.
* Arrays are ``"batch *event"``; images are NHWC. Networks and marginals get ``t`` of shape ``(batch,)``,
  solvers get scalar times. Only :func:`expand_like` may broadcast a coefficient over an event.
* SDEs are ``dx = f(t) x dt + g(t) dw`` with marginal ``N(m(t) x0, s(t)^2 I)``.
* Log-densities are in nats per example.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, cast, dataclass_transform, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key

from score_sde.convolutions import order_axes

order_axes()  # before any program: all modules that make one import this one

Batch: TypeAlias = Float[Array, "batch *event"]  #: a batch of examples
Output: TypeAlias = Float[Array, "batch *output"]  #: of a network, of the data's shape or with one more axis
Times: TypeAlias = Float[Array, " batch"]  #: a time for each example
Labels: TypeAlias = Int[Array, " batch"]  #: a class for each example; -1 for none
Scalar: TypeAlias = Float[Array, ""]  #: one number
Time: TypeAlias = Float[Array, "..."]  #: a scalar time or a vector of them; coefficients act elementwise
PRNGKey: TypeAlias = Key[Array, ""]  #: a random key
SampleKeys: TypeAlias = Key[Array, " batch"]  #: one key per sample, so that sample i ignores its neighbors
Number: TypeAlias = Any  #: a float, or the scalar array in its place under a transformation
Params: TypeAlias = Any  #: the parameters of a network, a pytree
Metrics: TypeAlias = dict[str, Array]  #: numbers by name

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def component(cls: type[_T]) -> type[_T]:
    """Make a class a frozen, keyword-only dataclass that is a pytree: numbers are leaves, structure is static.

    A field declared with :func:`static` belongs to the structure. Because numbers are leaves, a new beta or
    signal-to-noise ratio passes through a compiled function without retracing it. Objects rebuilt from leaves, such as
    gradients, are not constructed, and no ``__post_init__`` sees them.

    >>> @component
    ... class Scale:
    ...     factor: Number = 2.0
    >>> jax.tree.leaves(Scale(factor=3.0))
    [3.0]
    """
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    fields = dataclasses.fields(cast(Any, made))
    structure = tuple(field.name for field in fields if field.metadata.get("static"))
    numbers = tuple(field.name for field in fields if not field.metadata.get("static"))

    def flatten_with_keys(value: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        leaves = [(jax.tree_util.GetAttrKey(name), getattr(value, name)) for name in numbers]
        return leaves, tuple(getattr(value, name) for name in structure)

    def flatten(value: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(value, name) for name in numbers], tuple(getattr(value, name) for name in structure)

    def unflatten(held: tuple[Any, ...], leaves: Any) -> Any:
        value = object.__new__(made)
        for name, part in (*zip(numbers, leaves, strict=True), *zip(structure, held, strict=True)):
            object.__setattr__(value, name, part)
        return value

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made


def static(**kwargs: Any) -> Any:
    """A dataclass field that belongs to the structure of a :func:`component`, not to its leaves."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


def is_known(*values: Any) -> bool:
    """Whether numbers can be read: none of them is traced or a placeholder.

    >>> is_known(1.0, np.ones(3)), jax.jit(lambda x: is_known(x))(1.0).item()
    (True, False)
    """
    numbers = (bool, int, float, np.generic, np.ndarray, jax.Array)
    return all(isinstance(value, numbers) and not isinstance(value, Tracer) for value in values)


def holds(condition: Callable[..., Any], *values: Any) -> bool:
    """Whether numbers satisfy a condition, elementwise for arrays; numbers that cannot be read pass.

    >>> holds(np.less, 1.0, 2.0), holds(np.less, np.array([1.0, 3.0]), 2.0), holds(np.less, float("nan"), 2.0)
    (True, False, False)
    """
    return not is_known(*values) or bool(np.all(condition(*map(np.asarray, values))))


def time_dtype(x: Array) -> Any:
    """The type of the times and coefficients for an array: its own, but at least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)


def expand_like(coefficient: Time, x: Batch) -> Array:
    """Give a per-example coefficient trailing axes so that it multiplies ``x``; a scalar keeps its shape.

    It takes the type that belongs to ``x`` (:func:`time_dtype`), so that a product has the type of ``x`` under
    ``jax_enable_x64`` too.

    >>> expand_like(jnp.ones(4), jnp.zeros((4, 8, 8, 1))).shape
    (4, 1, 1, 1)
    """
    coefficient = coefficient.astype(time_dtype(x))
    if coefficient.ndim == 0:
        return coefficient
    return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - 1))


def event_sum(x: Batch) -> Times:
    """The sum over the event of every example.

    >>> event_sum(jnp.ones((2, 3, 4))).tolist()
    [12.0, 12.0]
    """
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


@runtime_checkable
class ScoreFn(Protocol):
    """The score of the marginal at time t: ``grad_x log p_t(x)``."""

    def __call__(self, x: Batch, t: Times, /) -> Batch:
        """The score of every example at its own time."""
        ...


@runtime_checkable
class Network(Protocol):
    """A score network as two pure functions, independent of the library behind them."""

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Parameters for inputs of ``shape`` (batch axis included)."""
        ...

    def apply(
        self, params: Params, x: Batch, condition: Times, *, label: Labels | None = None, key: PRNGKey | None = None
    ) -> Output:
        """The raw output at a noise condition; labels condition on classes, a key switches dropout on."""
        ...


@runtime_checkable
class Dequantizer(Protocol):
    """A density ``q(u | levels)`` of the position of a pixel in its bin, as two pure functions."""

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Parameters for levels of ``shape`` (batch axis included)."""
        ...

    def sample(
        self, params: Params, keys: SampleKeys, levels: Array, *, dropout_key: PRNGKey | None = None
    ) -> tuple[Batch, Times]:
        """Draw ``u`` in ``(0, 1)``, of the shape of the levels, and ``log q(u | levels)`` in nats per example.

        Each example draws from its own key. The other key switches dropout on.
        """
        ...


class TimeSamples(NamedTuple):
    """Times and the weights that make a weighted mean over them an average over uniform time."""

    t: Times
    weight: Times


@runtime_checkable
class TimeSampler(Protocol):
    """Draws the training times of one batch."""

    def sample(self, key: PRNGKey, n: int) -> TimeSamples:
        """Draw ``n`` times."""
        ...


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss of every example, in two steps; a caller may mask, average or bound it.

    Attributes:
        draw: Everything random in the losses of ``(key, batch)``, a pytree whose arrays begin with the axis of the
            batch, so that a part of the batch takes its share of them, and a key for dropout.
        losses: The losses of ``(params, batch, draws, dropout_key)``, of shape ``(batch,)``; a key switches dropout on.
        scheduled: For a loss that changes in the course of training, the one of a step; this is then the last of them.
    """

    draw: Callable[[PRNGKey, Any], tuple[Any, PRNGKey]]
    losses: Callable[[Params, Any, Any, PRNGKey | None], Times]
    scheduled: Callable[[Int[Array, ""]], "Loss"] | None = None

    def __call__(self, params: Params, key: PRNGKey, batch: Any, *, train: bool) -> Times:
        """Draw, and take the losses; ``train`` switches dropout on."""
        draws, dropout_key = self.draw(key, batch)
        return self.losses(params, batch, draws, dropout_key if train else None)

    def at(self, step: Int[Array, ""]) -> "Loss":
        """The loss that is minimized at a step of training."""
        return self if self.scheduled is None else self.scheduled(step)
