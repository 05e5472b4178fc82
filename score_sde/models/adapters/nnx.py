"""NNX modules as networks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from score_sde.errors import UserError
from score_sde.models.adapters.calls import Takes
from score_sde.typing import Batch, Labels, Params, PRNGKey, Times


@dataclasses.dataclass(frozen=True)
class NNXNetwork:
    """An NNX module ``(x, condition) -> output``, which may also take ``label``, ``span`` and ``train``.

    Its parameters (``nnx.Param``) are trained. Its random streams, such as those of dropout, follow the key of the
    call; without one it is in its ``eval`` mode. Other state would be lost from one step to the next, and is refused.
    """

    make: Callable[..., nnx.Module]  # of ``rngs``

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Parameters, as a nested dictionary."""
        del shape
        self._check()
        _, params, _ = nnx.split(self.make(rngs=nnx.Rngs(key)), nnx.Param, ...)
        return _named(nnx.to_pure_dict(params))

    @functools.cached_property
    def _parts(self) -> tuple[Any, ...]:
        """Graph, parameters, random streams and other state, all abstract."""
        return nnx.split(nnx.eval_shape(lambda: self.make(rngs=nnx.Rngs(0))), nnx.Param, nnx.RngState, ...)

    def _check(self) -> None:
        if state := nnx.to_flat_state(self._parts[3]):
            path, variable = next(iter(state))
            raise UserError(
                f"The network has state besides its parameters, {'.'.join(map(str, path))} of type "
                f"{type(variable).__name__}, which training would not carry from step to step; expected parameters "
                "alone. In place of BatchNorm, GroupNorm and LayerNorm have none."
            )

    @functools.cached_property
    def _takes(self) -> Takes:
        return Takes.of_class(type(nnx.eval_shape(lambda: self.make(rngs=nnx.Rngs(0)))))

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
        """The raw output; a key switches dropout on."""
        graph, state, streams, _ = self._parts
        state = jax.tree.map(lambda leaf: leaf, state)  # a copy, which takes the values
        nnx.replace_by_pure_dict(state, _numbered(params, nnx.to_pure_dict(state)))
        model = nnx.merge(graph, state, _seeded(streams, jax.random.key(0) if key is None else key))
        model.eval() if key is None else model.train()
        noise = (condition,) if self._takes.condition else ()
        return model(x, *noise, **self._takes.keywords(label, train=key is not None, told={"span": span}))


def _seeded(streams: Any, key: PRNGKey) -> Any:
    """Random streams that all follow from one key, each on its own."""
    flat = [
        (path, variable.replace(jax.random.fold_in(key, index) if _is_key(variable) else jnp.zeros((), jnp.uint32)))
        for index, (path, variable) in enumerate(nnx.to_flat_state(streams))
    ]
    return nnx.from_flat_state(flat)


def _is_key(variable: Any) -> bool:
    return isinstance(variable, nnx.RngKey)


def _named(tree: Any) -> Any:
    """A tree with texts for the numbers of list entries, which records of parameters cannot hold."""
    return {str(name): _named(value) for name, value in tree.items()} if isinstance(tree, dict) else tree


def _numbered(tree: Any, like: Any) -> Any:
    """The inverse of :func:`_named`."""
    return {name: _numbered(tree[str(name)], part) for name, part in like.items()} if isinstance(like, dict) else tree
