"""The only seam between Flax and the core: a Linen module as a :class:`~score_sde.typing.Network`."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_sde.typing import Batch, Params, PRNGKey, Times


@dataclasses.dataclass(frozen=True)
class LinenNetwork:
    """A Linen module ``(x, condition, train) -> output`` behind the two pure functions of a network."""

    module: nn.Module

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Parameters for inputs of ``shape``, batch axis included."""
        return self.module.init(key, jnp.zeros(shape), jnp.zeros(shape[:1]))["params"]

    def apply(self, params: Params, x: Batch, condition: Times, *, key: PRNGKey | None = None) -> Batch:
        """The raw output; a key switches dropout on."""
        rngs: dict[str, PRNGKey] = {} if key is None else {"dropout": key}
        output = self.module.apply({"params": params}, x, condition, train=key is not None, rngs=rngs)
        assert isinstance(output, jax.Array)  # Linen types the result loosely
        return output
