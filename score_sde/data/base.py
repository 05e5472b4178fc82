"""The contract of a data source, and the source that holds everything in one array."""

import functools
import mmap
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from score_sde.errors import UserError

SPLITS = ("train", "test")

#: How data of each kind come to have labels.
_HOW_TO_LABEL = {
    "npz": "an array 'labels' (or 'train_labels' and 'test_labels')",
    "folder": "a subfolder for every class, in train/ and test/ or at the top",
    "arrayrecord": "labels.npz beside the records, with arrays 'train' and 'test'",
    "tfds": "a data set with a class as its feature 'label'",
    "toy": "a toy of several parts, such as toy:gaussians",
}


class SourceInfo(NamedTuple):
    """The facts about the data that a model needs."""

    name: str  # the requested name of the source, such as ``"cifar10"``
    shape: tuple[int, ...]  # the event shape; ``(height, width, channels)`` for images
    # The number of gray levels, on which bits per dimension depend; None for continuous data.
    num_grey_levels: int | None
    num_classes: int | None  # the number of classes when the source has labels


@runtime_checkable
class Source(Protocol):
    """Random access to the examples of one split.

    Images come as integer levels ``0 .. num_grey_levels - 1`` (uint8, NHWC), so that a dequantizer knows the original
    levels. Continuous data come as float32 ``(n, dim)``, at about unit scale. A further attribute, ``notes``, may list
    omissions and changes: a tuple of clauses such as "1 hidden file is ignored", which
    :func:`~score_sde.data.description.describe` reports. So may ``classes``, the names of the classes in order.
    """

    @property
    def info(self) -> SourceInfo:
        """Shape, gray levels and classes."""
        ...

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """The examples at ``indices``, stacked: ``(n, *info.shape)``."""
        ...

    def labels(self, indices: np.ndarray) -> np.ndarray | None:
        """The int32 labels at ``indices``, or None for a source without labels."""
        ...


class ArraySource:
    """A source held in one array, in memory or memory-mapped.

    >>> info = SourceInfo("tiny", (2,), None, None)
    >>> source = ArraySource(info, np.arange(6, dtype=np.float32).reshape(3, 2))
    >>> len(source), source.gather(np.array([2, 0])).tolist()
    (3, [[4.0, 5.0], [0.0, 1.0]])
    """

    def __init__(
        self,
        info: SourceInfo,
        examples: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        notes: tuple[str, ...] = (),
        classes: tuple[str, ...] = (),
    ) -> None:
        """Wrap ``examples`` of shape ``(n, *info.shape)``, with ``labels`` of shape ``(n,)`` and the classes' names."""
        self.info = info
        self._examples = examples
        self._labels = labels
        self.notes = notes
        self.classes = classes

    def __len__(self) -> int:
        return len(self._examples)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """The examples at ``indices``: ``(n, *info.shape)``, a plain array even where the store is memory-mapped."""
        return np.asarray(self._examples[indices])

    def __getstate__(self) -> dict[str, Any]:
        """The state for another process: a memory-mapped file is sent by its name, not by its contents."""
        return {name: _by_name(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open a file sent by its name."""
        vars(self).update({name: v() if isinstance(v, functools.partial) else v for name, v in state.items()})

    def labels(self, indices: np.ndarray) -> np.ndarray | None:
        """The int32 labels at ``indices``, or None."""
        return None if self._labels is None else np.asarray(self._labels[indices], dtype=np.int32)


def no_labels(name: str) -> str:
    """The sentence about data without labels where a class-conditional run needs them."""
    how = _HOW_TO_LABEL.get(name.partition(":")[0], "data with labels, such as digits")
    return f"{name} has no labels; expected {how}, or config.conditioning.classes=False."


def labels_of(source: Source, indices: np.ndarray) -> np.ndarray:
    """The int32 labels of examples that must have some; -1 stands for no class.

    Raises:
        UserError: for a source without labels.
    """
    labels = source.labels(indices)
    if labels is None:
        raise UserError(no_labels(source.info.name))
    return labels


def _by_name(value: Any) -> Any:
    """How to open a memory map of a whole file; anything else, a part of a map included, unchanged."""
    whole = isinstance(value, np.memmap) and isinstance(value.base, mmap.mmap) and value.flags.c_contiguous
    if not whole:
        return value
    return functools.partial(np.memmap, str(value.filename), value.dtype, "r", value.offset, value.shape)
