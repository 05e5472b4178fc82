"""Convolutions that are fast in loops on a CPU as well, whoever wrote them.

XLA's fast code for CPUs wants batch first, then pixels, then channels. XLA brings the axes of a convolution into that
order itself, but in the outermost computation alone (``ConvCanonicalization``). In the body of a loop, where solvers
evaluate networks, three kinds of convolution take ten times as long: those of networks with channels before pixels, as
in Equinox, and of every network the gradients by images and by kernels. :func:`order_axes` has JAX write all
convolutions for CPUs in that order. Other devices get them as before.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.interpreters import mlir
from jax.lax import ConvDimensionNumbers, conv_general_dilated_p
from jaxtyping import Array


@functools.cache
def order_axes() -> bool:
    """Replace JAX's rule that writes convolutions for CPUs; once per process.

    Returns:
        Whether it is replaced. A version of JAX that keeps its rules elsewhere is left alone, and is slower in loops.

    >>> order_axes() is order_axes()
    True
    """
    rules = getattr(mlir, "_platform_specific_lowerings", {}).get("cpu", {})
    entry = rules.get(conv_general_dilated_p)
    if not callable(plain := getattr(entry, "rule", None)):
        return False
    ordered = mlir.lower_fun(_ordered, multiple_results=False)

    def rule(context: Any, x: Any, kernel: Any, *, dimension_numbers: ConvDimensionNumbers, **fields: Any) -> Any:
        is_ordered = dimension_numbers == _order(len(dimension_numbers.lhs_spec))
        # Axes that a user has split over devices by hand stay where they are.
        is_explicit = any(axis for aval in context.avals_in for axis in aval.sharding.spec)
        chosen = plain if is_ordered or is_explicit else ordered
        return chosen(context, x, kernel, dimension_numbers=dimension_numbers, **fields)

    mlir.register_lowering(conv_general_dilated_p, rule, platform="cpu")
    return True


def _order(ndim: int) -> ConvDimensionNumbers:
    """The order of XLA's fast code: batch, pixels, channels; of kernels pixels, channels, features."""
    images = (0, ndim - 1, *range(1, ndim - 1))
    return ConvDimensionNumbers(images, (ndim - 1, ndim - 2, *range(ndim - 2)), images)


def _ordered(x: Array, kernel: Array, *, dimension_numbers: ConvDimensionNumbers, **fields: Any) -> Array:
    """The same convolution between transposes."""
    found, order = dimension_numbers, _order(x.ndim)
    x, kernel = _moved(x, found.lhs_spec, order.lhs_spec), _moved(kernel, found.rhs_spec, order.rhs_spec)
    result = conv_general_dilated_p.bind(x, kernel, dimension_numbers=order, **fields)
    return _moved(result, order.out_spec, found.out_spec)


def _moved(x: Array, places: Sequence[int], new_places: Sequence[int]) -> Array:
    """An array with the axes at some places at new places."""
    of_new = dict(zip(new_places, places, strict=True))
    return jnp.transpose(x, [of_new[axis] for axis in range(x.ndim)])
