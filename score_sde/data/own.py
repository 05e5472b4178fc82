"""Data of a user's module: ``module:name`` in ``config.data.name``."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from score_sde.data.base import SPLITS, Source
from score_sde.data.npz import source_of
from score_sde.outside.parts import Part


def load_own(part: Part, options: Mapping[str, Any], split: str, data_dir: str | None) -> Source:
    """A split of the data that a function or class makes, or of arrays.

    It returns a :class:`~score_sde.data.base.Source`, or arrays as :func:`~score_sde.data.npz.load_npz` takes them: the
    examples, a tuple of examples and labels, or a dictionary. A function with an argument ``split`` returns the
    examples of that split; of other examples a fixed random tenth is the test split.

    Raises:
        UserError: If it is none of these, or breaks the contract of data.
    """
    found = part.made(options, split=split, data_dir=data_dir)
    if isinstance(found, Source):
        part.calling(_check_source, part, found)
        return found
    arrays = _named(part, found)
    if "split" in part.parameters:
        whole = {one: _named(part, part.made(options, split=one, data_dir=data_dir)) for one in SPLITS}
        arrays = {
            **{_KEY.get(name, name).format(split=one): value for one in SPLITS for name, value in whole[one].items()},
            **({"num_levels": arrays["num_levels"]} if "num_levels" in arrays else {}),
        }
    return source_of(part.name, arrays, split, names=list(arrays))


_KEY = {**dict.fromkeys(("x", "images", "samples"), "{split}"), "labels": "{split}_labels"}  # of the arrays of a split


def _named(part: Part, found: Any) -> dict[str, np.ndarray]:
    """The arrays of an array, of a pair, or of a dictionary."""
    if isinstance(found, tuple) and len(found) == 2:
        found = {"x": found[0], "labels": found[1]}
    elif not isinstance(found, Mapping):
        found = {"x": found}
    arrays = {name: np.asarray(value) for name, value in found.items() if value is not None}
    if not arrays or any(value.dtype == object for value in arrays.values()):
        raise part.refused(
            f"returns {', '.join(sorted({type(value).__name__ for value in found.values()})) or 'nothing'}",
            "an array of examples, a tuple (examples, labels), a dictionary of arrays, or a Source",
        )
    return arrays


def _check_source(part: Part, source: Source) -> None:
    """Check the first and last examples of a source against its info."""
    if not len(source):
        raise part.refused("has no examples", "one at least")
    info, rows = source.info, np.unique([0, len(source) - 1])
    examples, again = (source.gather(rows) for _ in range(2))
    kind = "f" if info.num_grey_levels is None else "u"
    if examples.shape != (len(rows), *info.shape) or examples.dtype.kind != kind:
        raise part.refused(
            f"gathers {examples.dtype} of shape {examples.shape} for {len(rows)} examples, and its info has shape "
            f"{info.shape} with {info.num_grey_levels} gray levels",
            "examples of this shape: uint8 levels, or float32 without gray levels",
        )
    if not np.isfinite(examples).all():
        raise part.refused("has examples that are not finite", "finite numbers")
    if not np.array_equal(examples, again):
        raise part.refused("gathers other examples at the same indices the second time", "the same")
    labels = source.labels(rows)
    if (labels is None) != (info.num_classes is None) or (labels is not None and labels.shape != rows.shape):
        raise part.refused(
            f"has labels {labels} at {rows}, and its info has {info.num_classes} classes", "a label for each, or none"
        )
