"""Arrays that are computed once: a fence for XLA's fusion on a CPU.

There XLA fuses what produces an array into everything that reads it. A transpose before a convolution, or a sum over
pixels, then computes a whole chain of activations again, number by number, and on one core. Its optimization barriers
are gone before it fuses. It fuses nothing through a loop, however, and a loop that is left before its first turn costs
nothing. Other devices get no fence.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, Shaped

_store = Primitive("store")  # identity in x; the values of x, its cotangent, or both are stored
_fence = Primitive("fence")  # what is written for one of them
_MARK, _NAME = "mhlo.frontend_attributes", "score_sde"  # by which an operation is known to be a fence


def stored(x: Shaped[Array, "*shape"], weights: Array) -> Shaped[Array, "*shape"]:
    """The array itself, computed once for all of its users.

    Args:
        x: The array.
        weights: Any array that is not split over devices. Its first number decides when the loop ends, which XLA must
            not know; the result does not depend on it.
    """
    return _store.bind(x, _first(weights), value=True, cotangent=False)


def stored_gradient(x: Float[Array, "*shape"], weights: Array) -> Float[Array, "*shape"]:
    """The array itself, the gradient for which is computed once; arguments as in :func:`stored`."""
    return _store.bind(x, _first(weights), value=False, cotangent=True)


def _first(weights: Array) -> Float[Array, ""]:
    return jax.lax.stop_gradient(jnp.asarray(weights)[(0,) * weights.ndim])


def _through_loop(x: Array, number: Array) -> Array:
    turns = jnp.isnan(number).astype(jnp.int32)

    def turn(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        index, x = carry
        return index + 1, jnp.where(index < 0, jnp.zeros_like(x), x)  # x, but not obviously

    return jax.lax.while_loop(lambda carry: carry[0] < turns, turn, (jnp.int32(0), x))[1]


def _jvp(primals: Any, tangents: Any, **fields: bool) -> tuple[Array, Any]:
    (x, number), (tangent, _) = primals, tangents
    if isinstance(tangent, ad.Zero):
        return _store.bind(x, number, **fields), tangent
    return _store.bind(x, number, **fields), _store.bind(tangent, number, **fields)


def _transpose(cotangent_of: Any, x: Any, number: Array, *, value: bool, cotangent: bool) -> list[Any]:
    if isinstance(cotangent_of, ad.Zero):
        return [ad.Zero(x.aval), None]
    return [_store.bind(cotangent_of, number, value=cotangent, cotangent=value), None]


def _batch(arguments: tuple[Array, Array], axes: tuple[Any, Any], **fields: bool) -> tuple[Array, Any]:
    (x, number), (axis, of_number) = arguments, axes
    number = number if of_number is None else number[0]
    return _store.bind(x, number, **fields), axis


def _is_fence(operation: Any) -> bool:
    attributes = getattr(operation, "attributes", {})  # the owner of an argument is a block, which has none
    return _MARK in attributes and _NAME in attributes[_MARK]


def _lower(context: Any, x: Any, number: Any, *, value: bool, cotangent: bool) -> Sequence[Any]:
    """One fence for an array, however many store it: two loops would each begin with a copy."""
    if not value or _is_fence(x.owner):
        return [x]
    here: Any = mlir.ir.InsertionPoint.current
    for use in x.uses:
        fence = use.owner
        if _is_fence(fence) and fence.operation.block == here.block:
            return [fence.results[use.operand_number]]
    (result,) = _lower_fence(context, x, number)
    if result != x:  # as it is for devices without fences
        result.owner.attributes[_MARK] = mlir.ir.DictAttr.get({_NAME: mlir.ir.StringAttr.get("stored")})
    return [result]


_store.def_impl(lambda x, number, **_: x)
_store.def_abstract_eval(lambda x, number, **_: x)
ad.primitive_jvps[_store] = _jvp
ad.primitive_transposes[_store] = _transpose
batching.primitive_batchers[_store] = _batch
mlir.register_lowering(_store, _lower, cacheable=False)  # it depends on who else stores the array

_fence.def_abstract_eval(lambda x, number: x)
_lower_fence = mlir.lower_fun(_fence.bind, multiple_results=False)
mlir.register_lowering(_fence, mlir.lower_fun(lambda x, number: x, multiple_results=False))
mlir.register_lowering(_fence, mlir.lower_fun(_through_loop, multiple_results=False), platform="cpu")
