"""An extractor of a user's module: ``module:name`` in ``config.evaluation.extractor``."""

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.metrics.extractors.base import Extractor, Features
from score_sde.outside.parts import Part


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FunctionExtractor(Extractor):
    """A function ``images -> features`` as an extractor."""

    function: Callable[[np.ndarray], Any]

    def __call__(self, images: np.ndarray) -> Features:
        """The features, in single precision."""
        return Features(np.asarray(self.function(images), np.float32), None)


def own_extractor(
    part: Part, options: Mapping[str, Any], *, shape: tuple[int, ...], num_levels: int | None, weights: Path | None
) -> Extractor:
    """The extractor that a function of ``images`` is, or that any other function or class makes.

    A function of ``images``, an array ``(n, *shape)``, returns features ``(n, d)``; its digest is the digest of its
    file and options. A maker takes what it wants of ``shape``, ``num_levels`` and ``weights``, and returns an
    :class:`~score_sde.metrics.extractors.Extractor`.

    Raises:
        UserError: If it does not, or its features are not finite or differ from call to call.
    """
    examples = np.zeros((2, *shape), np.float32 if num_levels is None else np.uint8)
    examples[1] = 1
    if "images" in part.parameters:
        function = part.bound(options)
        first = np.asarray(part.calling(function, examples))
        file = inspect.getsourcefile(inspect.unwrap(part.value))
        content = Path(file).read_bytes() if file else b""
        digest = hashlib.sha256(content + json.dumps(dict(options), sort_keys=True).encode()).hexdigest()
        size = first.shape[-1] if first.ndim == 2 else 0
        made: Any = FunctionExtractor(
            name=part.name, sha256=digest, num_features=size, num_classes=None, function=function
        )
    else:
        made = part.made(options, shape=shape, num_levels=num_levels, weights=weights)
    if not isinstance(made, Extractor):
        raise part.refused(f"makes a {type(made).__name__}", "an Extractor, or a function of images")
    features, again = (np.asarray(part.calling(made, examples).features) for _ in range(2))
    if features.ndim != 2 or features.shape != (2, made.num_features) or not made.num_features:
        raise part.refused(f"gives features of shape {features.shape} for 2 examples", "an array (2, features)")
    if not np.isfinite(features).all():
        raise part.refused("gives features that are not finite", "finite numbers")
    if not np.array_equal(features, again):
        raise part.refused("gives other features for the same examples the second time", "the same")
    return made
