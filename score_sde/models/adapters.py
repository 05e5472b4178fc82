"""The only seam between Flax and the core: a Linen module as a :class:`~score_sde.typing.Network`."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_sde.typing import Batch, Labels, Params, PRNGKey, Times

# The layers whose products are computed in the lower precision: nine tenths of the work. What flows between them,
# normalisations, dense layers (noise embedding, attention, shortcuts) and softmax stay in float32: rounding the dense
# layers too would raise the error by half, all activations would double it.
_PRODUCTS = nn.Conv


@dataclasses.dataclass(frozen=True)
class LinenNetwork:
    """A Linen module ``(x, condition, train) -> output`` behind the two pure functions of a network.

    Attributes:
        module: The module.
        dtype: What convolutions multiply in, ``"float32"`` or ``"bfloat16"``; parameters and outputs
            are float32 in any case.
    """

    module: nn.Module
    dtype: str = "float32"

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Parameters for inputs of ``shape``, batch axis included."""
        return self.module.init(key, jnp.zeros(shape), jnp.zeros(shape[:1]))["params"]

    def apply(
        self,
        params: Params,
        x: Batch,
        condition: Times,
        *,
        label: Labels | None = None,
        key: PRNGKey | None = None,
    ) -> Batch:
        """The raw output; a key switches dropout on, a label goes to class-conditional modules."""
        rngs: dict[str, PRNGKey] = {} if key is None else {"dropout": key}
        options: dict[str, Any] = {"train": key is not None} | ({} if label is None else {"label": label})
        with nn.intercept_methods(self._round) if self.dtype != "float32" else contextlib.nullcontext():
            output = self.module.apply({"params": params}, x, condition, rngs=rngs, **options)
        assert isinstance(output, jax.Array)  # Linen types the result loosely
        return output

    def _round(self, call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        """Run convolutions in the lower precision, with float32 parameters and outputs."""
        module = context.module
        if not isinstance(module, _PRODUCTS) or context.method_name != "__call__" or module.dtype is not None:
            return call(*args, **kwargs)
        rounded = module.clone(dtype=self.dtype, parent=None, name=None)  # comes by here again, with its dtype set
        output = rounded.apply({"params": module.variables["params"]}, *args)
        assert isinstance(output, jax.Array)
        return output.astype(jnp.float32)
