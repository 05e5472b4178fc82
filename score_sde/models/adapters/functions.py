"""A pair of functions as a network."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from score_sde.models.adapters.calls import Takes
from score_sde.typing import Batch, Labels, Params, PRNGKey, Times


@dataclasses.dataclass(frozen=True)
class FunctionNetwork:
    """Functions ``init(key, shape) -> params`` and ``apply(params, x, condition) -> output``.

    ``apply`` may also take ``label``, ``span``, ``train`` and ``key``, the key of dropout, ``None`` without it.
    """

    init_fn: Callable[..., Params]
    apply_fn: Callable[..., Any]

    def init(self, key: PRNGKey, shape: tuple[int, ...]) -> Params:
        """Parameters for inputs of ``shape``, batch axis included."""
        return self.init_fn(key, shape)

    @functools.cached_property
    def _takes(self) -> Takes:
        return Takes.of(functools.partial(self.apply_fn, None))

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
        """The raw output."""
        noise = (condition,) if self._takes.condition else ()
        return self.apply_fn(
            params, x, *noise, **self._takes.keywords(label, train=key is not None, told={"span": span}, key=key)
        )
