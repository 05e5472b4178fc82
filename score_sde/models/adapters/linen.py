"""The interface between Flax and the core: Linen modules as networks and dequantizers of :mod:`score_sde.typing`."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.errors import UserError, plural
from score_sde.fields import DEFAULTS
from score_sde.models.adapters.calls import Takes
from score_sde.models.layers import Conv
from score_sde.typing import Batch, Labels, Output, Params, PRNGKey, SampleKeys, Times, event_sum

# The layers whose products are computed in the lower precision: nine tenths of the work. Activations between them,
# normalizations, dense layers (noise embedding, attention, shortcuts) and softmax stay in float32: rounding the dense
# layers too would raise the error by half, and rounding all activations would double it.
_PRODUCTS = Conv


@dataclasses.dataclass(frozen=True)
class LinenNetwork:
    """A Linen module ``(x, condition) -> output`` behind the two pure functions of a network.

    It may also take ``label``, ``span``, the time between two times, and ``train`` (or ``deterministic``), which
    switches dropout on; it is called with what its signature has.
    """

    module: nn.Module
    # Precision of the products in convolutions, ``"float32"`` or ``"bfloat16"``; parameters and outputs are always
    # float32.
    dtype: str = DEFAULTS.model.dtype
    labeled: bool = False  # whether the parameters are those of a call with classes
    spanned: bool = False  # or with the time between two times

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Parameters for inputs of ``shape``, batch axis included.

        Raises:
            UserError: If the module has state besides its parameters.
        """
        noise = (jnp.zeros(shape[:1]),) if self._takes.condition else ()
        label = jnp.full(shape[:1], -1) if self.labeled else None
        options = self._takes.keywords(label, train=False, told={"span": jnp.zeros(shape[:1])} if self.spanned else {})
        variables = self.module.init(key, jnp.zeros(shape), *noise, **options)
        if state := sorted(set(variables) - {"params"}):
            raise UserError(
                f"The network has state besides its parameters, in the {plural(len(state), 'collection')} "
                f"{', '.join(state)}, which training would not carry from step to step; expected parameters alone. In "
                "place of BatchNorm, GroupNorm and LayerNorm have none."
            )
        return variables.get("params", {})

    @functools.cached_property
    def _takes(self) -> Takes:
        return Takes.of_class(type(self.module))

    def apply(
        self,
        params: Params,
        x: Batch,
        condition: Times,
        *,
        label: Labels | None = None,
        span: Times | None = None,
        augmentations: Float[Array, "batch kinds"] | None = None,
        key: PRNGKey | None = None,
    ) -> Output:
        """The raw output; a key switches dropout on, a label goes to class-conditional modules.

        Raises:
            UserError: If a span or augmentations are given, and the module takes none.
        """
        rngs: dict[str, PRNGKey] = {} if key is None else {"dropout": key}
        noise = (condition,) if self._takes.condition else ()
        told = {"span": span, "augmentations": augmentations}
        options = self._takes.keywords(label, train=key is not None, told=told)
        with nn.intercept_methods(self._round) if self.dtype != "float32" else contextlib.nullcontext():
            output = self.module.apply({"params": params}, x, *noise, rngs=rngs, **options)
        assert isinstance(output, jax.Array)  # Linen types the result loosely
        return output

    def _round(self, call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        """Run convolutions in the lower precision, with float32 parameters and outputs."""
        module = context.module
        if not isinstance(module, _PRODUCTS) or context.method_name != "__call__" or module.dtype is not None:
            return call(*args, **kwargs)
        rounded = module.clone(dtype=self.dtype, parent=None, name=None)  # passes here again, with its dtype set
        output = rounded.apply({"params": module.variables["params"]}, *args)
        assert isinstance(output, jax.Array)
        return output.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class LinenDequantizer:
    """A Linen flow ``(noise, image, inverse, train) -> (u, log_det)`` as a :class:`~score_sde.typing.Dequantizer`.

    The flow sees the levels at the middle of their bins, ``(k + 1/2) / K - 1/2`` in ``(-1/2, 1/2)``; the originals use
    ``k / 255 - 1/2``, which is the same up to a factor of 255/256.
    """

    module: nn.Module
    num_grey_levels: int  # number of gray levels ``K``

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Parameters for levels of ``shape``, batch axis included."""
        return self.module.init(key, jnp.zeros(shape), jnp.zeros(shape))["params"]

    def sample(
        self, params: Params, keys: SampleKeys, levels: Array, *, dropout_key: PRNGKey | None = None
    ) -> tuple[Batch, Times]:
        """``u`` from standard normal noise, and ``log q(u | k) = log N(noise; 0, I) - log |det du/dnoise|``."""
        noise = jax.vmap(lambda k: jax.random.normal(k, levels.shape[1:]))(keys)
        image = (levels.astype(noise.dtype) + 0.5) / self.num_grey_levels - 0.5
        rngs: dict[str, PRNGKey] = {} if dropout_key is None else {"dropout": dropout_key}
        u, log_det = self.module.apply({"params": params}, noise, image, train=dropout_key is not None, rngs=rngs)
        assert isinstance(u, jax.Array) and isinstance(log_det, jax.Array)  # Linen types the result loosely
        return u, event_sum(jax.scipy.stats.norm.logpdf(noise)) - log_det


@dataclasses.dataclass(frozen=True)
class LinenClassifier:
    """A Linen module ``(x, condition) -> logits`` behind two pure functions."""

    module: nn.Module
    num_classes: int

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Parameters for data of ``shape``, batch axis included."""
        return self.module.init(key, jnp.zeros(shape), jnp.zeros(shape[:1]))["params"]

    def logits(self, params: Params, x: Batch, condition: Times) -> Float[Array, "batch classes"]:
        """The logits of data with noise of standard deviation ``e^condition``."""
        found = self.module.apply({"params": params}, x, condition)
        assert isinstance(found, jax.Array)  # Linen types the result loosely
        return found
