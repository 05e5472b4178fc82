"""Checks of the arguments that the functions and classes of the core receive.

Shapes and types are known under a trace too. Values are looked at only where they are not traced
(:func:`~score_sde.typing.holds`), so that no check stands in the way of ``jit``, ``vmap`` or ``grad``.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from score_sde.errors import UserError, plural, refuse
from score_sde.labels import Labeled
from score_sde.typing import Batch, Labels, ScoreFn, Times, holds, is_known, time_dtype


class Checked:
    """Base of the classes that validate their numbers at construction."""

    def __post_init__(self) -> None:
        """Refuse numbers with :meth:`problems`.

        Raises:
            UserError: If there are any.
        """
        refuse(self.problems())

    def problems(self) -> Iterator[str]:
        """Sentences about invalid numbers; traced ones cannot be read, and pass."""
        return iter(())


def not_whole(name: str, value: Any, least: int, most: int | None = None) -> Iterator[str]:
    """The sentence about a value that is not a whole number within bounds.

    >>> list(not_whole("order", 2.0, 1, 3)), list(not_whole("order", 2, 1, 3))
    (['order is 2.0; expected a whole number from 1 to 3.'], [])
    """
    if isinstance(value, Tracer):
        return
    fits = is_known(value) and np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.integer)
    if not fits or not least <= int(np.asarray(value)) <= (np.inf if most is None else most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        yield f"{name} is {value}; expected a whole number {bounds}."


def check_pairs(name: str, value: Any) -> None:
    """Refuse a number of draws that is not even, where each stratum takes two.

    Raises:
        UserError: If it is odd, less than 2, or no whole number.
    """
    if list(not_whole(name, value, 2)) or value % 2:
        raise UserError(f"{name} is {value}; expected an even number, of two draws in each stratum.")


def not_fulfilled(name: str, value: Any, condition: Callable[[np.ndarray], Any], expected: str) -> Iterator[str]:
    """The sentence about a number that violates a condition.

    >>> list(not_fulfilled("snr", -1.0, lambda snr: snr >= 0.0, "0 or more"))
    ['snr is -1.0; expected 0 or more.']
    """
    if isinstance(value, str) or not holds(condition, value):
        yield f"{name} is {value}; expected {expected}."


def not_inner_time(name: str, t: Any) -> Iterator[str]:
    """The sentence about a time that does not lie strictly between 0 and 1.

    >>> list(not_inner_time("t_min", 1.0))
    ['t_min is 1.0; expected a time between 0 and 1, where data have some noise.']
    """
    yield from not_fulfilled(
        name, t, lambda t: (t > 0.0) & (t < 1.0), "a time between 0 and 1, where data have some noise"
    )


def not_masked(name: str, x: Any) -> Iterator[str]:
    """The sentence about an array that hides some of its numbers; as an array of NumPy or JAX it would show them.

    >>> list(not_masked("x", np.ma.masked_greater([1.0, 2.0], 1.5)))
    ['x is a masked array, of whose numbers 1 is hidden; expected all numbers. Leave those examples out, or fill them.']
    """
    if isinstance(x, np.ma.MaskedArray) and (count := int(np.ma.count_masked(x))):
        yield (
            f"{name} is a masked array, of whose numbers {count} {plural(count, 'is', 'are')} hidden; expected all "
            "numbers. Leave those examples out, or fill them."
        )


def check_floats(x: Any, noun: str = "samples", advice: str = "") -> None:
    """Refuse anything but a batch of floating-point numbers.

    Raises:
        UserError: If ``x`` is not an array, has no axis, or holds whole numbers.
    """
    if not isinstance(x, (np.ndarray, jax.Array)):
        raise UserError(f"The {noun} are of type {type(x).__name__}; expected an array of shape (batch, *event).")
    refuse(not_masked(f"The array of {noun}", x))
    if x.ndim == 0:
        raise UserError(f"The {noun} have shape (); expected one of shape (batch, *event).")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(f"The {noun} are of type {x.dtype}; expected floating-point numbers{advice}.")


def as_data(x: Any) -> Array:
    """The data whose density is requested, in single precision at least.

    Raises:
        UserError: If they are whole numbers, empty, or not an array.
    """
    if isinstance(x, (np.ndarray, jax.Array)) and (x.ndim == 0 or x.size == 0):
        raise UserError(f"The data have shape {x.shape}; expected one example at least, of shape (batch, *event).")
    dequantized = "Quantization(num_grey_levels=...).dequantize(key, levels)"
    check_floats(x, "data", f", whose density is asked for: of gray levels, {dequantized}")
    array = jnp.asarray(x)
    return array.astype(time_dtype(array))


def _axes_of_keys(keys: Any) -> tuple[int, ...] | None:
    """The shape of an array of keys, typed or raw; ``None`` for anything else."""
    if not isinstance(keys, (np.ndarray, jax.Array)):
        return None
    if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        return keys.shape
    return keys.shape[:-1] if keys.dtype == jnp.uint32 and keys.ndim else None


def check_samples(keys: Any, x: Any) -> None:
    """Check that samples are floating-point numbers with one key each.

    Raises:
        UserError: If they are not.
    """
    check_floats(x)
    if (axes := _axes_of_keys(keys)) != x.shape[:1]:
        given = f"of shape {axes}" if axes is not None else f"a {type(keys).__name__} that holds none"
        raise UserError(
            f"The keys are {given}, and the samples have shape {x.shape}; expected one key for each of the "
            f"{x.shape[0]}, such as sample_keys(key, 0, {x.shape[0]})."
        )


def check_key(key: Any) -> None:
    """Refuse anything but a single key.

    Raises:
        UserError: If it is not a key, or an array of several.
    """
    if (axes := _axes_of_keys(key)) != ():
        given = f"an array of keys of shape {axes}" if axes is not None else f"of type {type(key).__name__}"
        raise UserError(f"The key is {given}; expected a single one, such as jax.random.key(0).")


def check_labeled(batch: Any) -> None:
    """Refuse a batch without labels, where a loss is of examples with a class each.

    Raises:
        UserError: If it has none.
    """
    if not isinstance(batch, Labeled):
        raise UserError(
            f"The batch is of type {type(batch).__name__}, without labels; expected Labeled(data, label) with a class "
            "for each example, -1 for none."
        )


def labels_of(labels: Any, x: Batch) -> Labels:
    """A label for each example of a batch, from one for each or one for all.

    Raises:
        UserError: If there is another number of them.

    >>> labels_of(3, jnp.zeros((2, 1))).tolist()
    [3, 3]
    """
    labels, (count,) = jnp.asarray(labels), x.shape[:1]
    if labels.ndim and labels.shape[0] != count:
        raise UserError(f"There are {labels.shape[0]} labels for a batch of {count}; expected one for each example.")
    return jnp.broadcast_to(labels, (count,))


def score_at(score_fn: ScoreFn, x: Batch, t: Times) -> Batch:
    """The score of every example at its own time: where the scores of a user enter the core.

    Raises:
        UserError: If the score does not have the shape of the samples, and would be broadcast.
    """
    return of_shape(score_fn(x, t), x.shape, "score")


def of_shape(values: Any, shape: tuple[int, ...], noun: str) -> Any:
    """Values, unchanged, of an expected shape; others would be broadcast.

    Raises:
        UserError: If they have another shape.
    """
    if jnp.shape(values) != shape:
        raise UserError(f"The {noun} of a batch has shape {jnp.shape(values)}; expected {shape}.")
    return values


def of_examples(score_fn: Any, indices: Array) -> Any:
    """A score function, or another function of a batch and its times, for some examples of the batch alone.

    Whatever takes every example by itself, such as an adaptive solver, calls a score with batches of one. A function
    that holds something for each example, such as its class, therefore has a method ``of_examples`` that returns the
    function of these examples; any other is the same for all.
    """
    select = getattr(score_fn, "of_examples", None)
    return score_fn if select is None else select(indices)


def rows(values: Any, indices: Array) -> Any:
    """The values of some examples; values that all examples share, a scalar or a single row, stay as they are.

    >>> third = jnp.array([2])
    >>> rows(jnp.arange(3.0), third).tolist(), rows(jnp.ones((1, 2)), third).tolist(), rows(0.5, third)
    ([2.0], [[1.0, 1.0]], 0.5)
    """
    return values if jnp.ndim(values) == 0 or jnp.shape(values)[0] == 1 else jnp.asarray(values)[indices]
