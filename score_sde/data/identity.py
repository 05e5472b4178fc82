"""The identity of data, wherever they are stored: shape, gray levels, the sizes of the splits and their contents."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from score_sde.data.base import ArraySource, Source, SourceInfo, labels_of
from score_sde.errors import UserError, plural
from score_sde.standardization import Standardization

#: Fields of ``config.data`` about the location and reading of data, not their content.
PLACE_FIELDS = ("name", "data_dir", "shape", "workers", "prefetch", "options")

IN_FULL = 2**28  # largest number of bytes of a split in memory to read in full
SPREAD = 128  # examples to read of any other split

_CHUNK = 2**22  # bytes read at once


def is_small(source: Source) -> bool:
    """Whether a split is in memory, and small enough to be read in full."""
    return isinstance(source, ArraySource) and len(source) * source.gather(np.arange(1)).nbytes <= IN_FULL


def fingerprint(source: Source, *, labels: bool = False) -> str:
    """A SHA-256 of a split's number of examples, their shape and type, and their contents; labels count if asked to.

    An array in memory of at most ``IN_FULL`` bytes is read in full. Of a larger one, and of examples that must be
    decoded one by one, ``SPREAD`` evenly spaced examples are read, including the first and the last. This takes about a
    second at most, but misses changes in the other examples.

    >>> info = SourceInfo("tiny", (2,), None, None)
    >>> one, same, other = (ArraySource(info, np.full((3, 2), value, np.float32)) for value in (1, 1, 2))
    >>> fingerprint(one) == fingerprint(same), fingerprint(one) == fingerprint(other)
    (True, False)
    """
    count, first = len(source), source.gather(np.arange(1))
    rows = np.arange(count) if is_small(source) else np.unique(np.linspace(0, count - 1, SPREAD).astype(np.int64))
    digest = hashlib.sha256(f"{count} {first.shape[1:]} {first.dtype.str} {len(rows)}".encode())
    for chunk in np.array_split(rows, math.ceil(len(rows) * first.nbytes / _CHUNK)):
        digest.update(np.ascontiguousarray(source.gather(chunk)).data)
        if labels:
            digest.update(labels_of(source, chunk).data)
    return digest.hexdigest()


def statistics_to_json(standardization: Standardization | None) -> dict[str, Any]:
    """The statistics of a standardization for a record, under its key; nothing for data as they are.

    >>> statistics_to_json(Standardization(mean=np.zeros(1, np.float32), std=np.ones(1, np.float32)))
    {'standardization': {'mean': [0.0], 'std': [1.0]}}
    """
    if standardization is None:
        return {}
    return {"standardization": {name: getattr(standardization, name).tolist() for name in ("mean", "std")}}


def statistics_from_json(value: Mapping[str, Any]) -> Standardization:
    """The standardization of a record.

    Raises:
        KeyError, TypeError, ValueError: If the value does not have this form.
    """
    try:
        return Standardization(**{name: np.asarray(value[name], np.float32) for name in ("mean", "std")})
    except UserError as error:
        raise ValueError(f"its standardization is wrong: {error}") from error


def _short(standardization: Standardization | None) -> str:
    """A standardization in a few characters."""
    statistics = json.dumps(statistics_to_json(standardization))
    return "none" if standardization is None else f"fingerprint {hashlib.sha256(statistics.encode()).hexdigest()[:12]}"


class SplitRecord(NamedTuple):
    """The record of a split: the number of its examples and their fingerprint."""

    num_examples: int
    contents: str


class DataRecord(NamedTuple):
    """The record of a run's data."""

    name: str  # the source of the data, for the reader
    shape: tuple[int, ...]  # shape of an example
    num_levels: int | None  # the number of gray levels; None for continuous data
    num_classes: int | None  # the number of classes, for data with labels
    splits: Mapping[str, SplitRecord]  # the splits by their names; none for data that were not available
    standardization: Standardization | None = None  # the scale of continuous data; None for data as they are

    @classmethod
    def of(
        cls,
        info: SourceInfo,
        sources: Mapping[str, Source],
        *,
        labels: bool = False,
        standardization: Standardization | None = None,
    ) -> "DataRecord":
        """The record of data, with the available splits, whose labels count if asked to."""
        splits = {
            name: SplitRecord(len(source), fingerprint(source, labels=labels)) for name, source in sources.items()
        }
        return cls(*info, splits, standardization)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "DataRecord":
        """Read :meth:`to_json` back.

        Raises:
            KeyError, TypeError, ValueError: If the value does not have this form.
        """
        levels, classes, scale = value["num_levels"], value["num_classes"], value.get("standardization")
        standardization = None if scale is None else statistics_from_json(scale)
        if standardization is not None and standardization.num_columns != int(value["shape"][-1]):
            raise ValueError(f"it has {standardization.num_columns} standardized columns and shape {value['shape']}")
        return cls(
            name=str(value["name"]),
            shape=tuple(int(size) for size in value["shape"]),
            num_levels=None if levels is None else int(levels),
            num_classes=None if classes is None else int(classes),
            splits={
                str(name): SplitRecord(int(split["num_examples"]), str(split["contents"]))
                for name, split in dict(value["splits"]).items()
            },
            standardization=standardization,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        known = self._asdict() | {"splits": {name: split._asdict() for name, split in self.splits.items()}}
        del known["standardization"]
        return known | statistics_to_json(self.standardization)

    def summary(self) -> dict[str, Any]:
        """The compared facts, in short form."""
        splits = {
            f"the {name} split": f"{count} {plural(count, 'example')}, fingerprint {contents[:12]}"
            for name, (count, contents) in self.splits.items()
        }
        return {
            "the shape of the data": self.shape,
            "gray levels": self.num_levels,
            **splits,
            **({} if self.standardization is None else {"the standardization": _short(self.standardization)}),
        }

    @property
    def info(self) -> SourceInfo:
        """The facts about the data that a model needs."""
        return SourceInfo(self.name, self.shape, self.num_levels, self.num_classes)

    def differences(self, other: "DataRecord") -> list[str]:
        """Lines ``what: ours -> theirs``; names and labels do not count, and neither do splits missing from one record.

        >>> ours, theirs = (DataRecord("x", (n,), None, None, {"train": SplitRecord(n, f"{n:064}")}) for n in (2, 3))
        >>> ours.differences(theirs)
        ['shape: (2,) -> (3,)', 'examples of the train split: 2 -> 3']
        """
        pairs = {"shape": (self.shape, other.shape), "gray levels": (self.num_levels, other.num_levels)}
        for name in sorted(self.splits.keys() & other.splits.keys()):
            ours, theirs = self.splits[name], other.splits[name]
            if ours.num_examples != theirs.num_examples:
                pairs[f"examples of the {name} split"] = (ours.num_examples, theirs.num_examples)
            elif self.shape == other.shape:
                contents = (f"fingerprint {split.contents[:12]}" for split in (ours, theirs))
                pairs[f"contents of the {name} split"] = tuple(contents)
        pairs["standardization"] = (_short(self.standardization), _short(other.standardization))
        return [f"{what}: {old} -> {new}" for what, (old, new) in pairs.items() if old != new]
