"""Equinox modules as networks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from score_sde.errors import UserError
from score_sde.fields.settings import nested
from score_sde.models.adapters.calls import Takes
from score_sde.typing import Batch, Labels, Params, PRNGKey, Times


@dataclasses.dataclass(frozen=True)
class EquinoxNetwork:
    """An Equinox module of one example: ``(x, condition) -> output``, without an axis of the batch.

    It may also take ``label``, ``span``, ``train`` and ``key``. Its floating-point arrays are trained. Without a key it
    is in inference mode.
    """

    make: Callable[..., Any]  # of ``key``

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Parameters, as a nested dictionary."""
        del shape
        model = self.make(key=key)
        for path, leaf in jax.tree_util.tree_leaves_with_path(model, is_leaf=_is_state):
            if _is_state(leaf) or (eqx.is_array(leaf) and not eqx.is_inexact_array(leaf)):
                kind = "state" if _is_state(leaf) else f"an array of type {leaf.dtype}"
                raise UserError(
                    f"The network holds {kind} at {jax.tree_util.keystr(path)}, which is not trained and which a "
                    "checkpoint would not hold; expected floating-point arrays, which are its parameters, and "
                    "constants as NumPy arrays. In place of BatchNorm, GroupNorm and LayerNorm have no state."
                )
        return nested(_leaves(model))

    @functools.cached_property
    def _abstract(self) -> Any:
        return eqx.filter_eval_shape(self.make, key=jax.random.key(0))

    @functools.cached_property
    def _takes(self) -> Takes:
        return Takes.of_class(type(self._abstract))

    def apply(
        self,
        params: Params,
        x: Batch,
        condition: Times,
        *,
        label: Labels | None = None,
        span: Times | None = None,
        key: PRNGKey | None = None,
    ) -> Any:
        """The raw output; a key, of which each example gets its own, switches dropout on."""
        known, takes = _flat(params), self._takes
        paths, structure = jax.tree_util.tree_flatten_with_path(self._abstract)
        filled = [known.get(_name(path), leaf) for path, leaf in paths]
        model = eqx.nn.inference_mode(jax.tree_util.tree_unflatten(structure, filled), value=key is None)

        def one(x: Any, condition: Any, label: Any, span: Any, key: Any) -> Any:
            noise = (condition,) if takes.condition else ()
            return model(x, *noise, **takes.keywords(label, train=key is not None, told={"span": span}, key=key))

        keys = None if key is None else jax.random.split(key, x.shape[0])
        return jax.vmap(one)(x, condition, label, span, keys)


def _is_state(node: Any) -> bool:
    return isinstance(node, eqx.nn.StateIndex)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _leaves(model: Any) -> dict[str, Any]:
    """The floating-point arrays of a module under dotted names."""
    return {
        _name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model) if eqx.is_inexact_array(leaf)
    }


def _flat(params: Params) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
