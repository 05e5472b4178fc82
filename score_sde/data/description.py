"""A description of a data set in words, with omissions and changes, logged once at the start of a run."""

import collections
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from score_sde.data.base import Source, labels_of
from score_sde.data.identity import is_small
from score_sde.errors import plural

log = logging.getLogger(__name__)

_MOST_LISTED = 5
_MOST_CLASSES = 20
_CHUNK = 4096  # examples read at once
_FAR = 10.0  # how far from 1 a scale may be


def tell(sources: Mapping[str, Source], *, labels: bool = False, standardized: bool = False) -> None:
    """Log :func:`describe`."""
    for line in describe(sources, labels=labels, standardized=standardized):
        log.info("%s", line)


def describe(sources: Mapping[str, Source], *, labels: bool = False, standardized: bool = False) -> list[str]:
    """Lines about the number and kind of examples, and about omissions and changes.

    Where the labels are used, the lines tell of the classes too, and of the scale unless the data are standardized.

    >>> from score_sde.data.sources import load_source
    >>> print(*describe({split: load_source("digits", split) for split in ("train", "test")}))
    digits: 1,797 images of 8x8x1 with 17 levels, 1,500 in train and 297 in test.
    >>> print(*describe({"train": load_source("digits", "train")}, labels=True))
    digits: 1,500 images of 8x8x1 with 17 levels in 10 classes, 1,500 in train.
    """
    first = next(iter(sources.values()))
    info, total = first.info, sum(len(source) for source in sources.values())
    size = "x".join(map(str, info.shape))
    kind = f"{plural(total, 'example')} of shape {size}"
    if info.num_grey_levels is not None:
        kind = f"{plural(total, 'image')} of {size} with {info.num_grey_levels} levels"
    if labels and info.num_classes:
        kind += f" in {info.num_classes:,} {plural(info.num_classes, 'class', 'classes')}"
    splits = " and ".join(f"{len(source):,} in {name}" for name, source in sources.items())
    lines = [f"{info.name}: {total:,} {kind}, {splits}."]
    notes = dict.fromkeys(note for source in sources.values() for note in getattr(source, "notes", ()))
    if notes:
        lines.append(f"{info.name}: {'; '.join(notes)}.")
    whole = {name: source for name, source in sources.items() if is_small(source)}
    if names := getattr(first, "classes", ()) if labels else ():
        listed = ", ".join(f"{index} {name}" for index, name in enumerate(names[:_MOST_CLASSES]))
        lines.append(f"{info.name}: the classes are {listed}{', ...' * (len(names) > _MOST_CLASSES)}.")
    if labels:
        lines += [line for name, source in whole.items() for line in _classes(name, source)]
    if info.num_grey_levels is None and not standardized:
        lines += [line for name, source in whole.items() for line in _scale(name, source)]
    if set(whole) >= {"train", "test"} and (shared := _shared(whole["train"], whole["test"])):
        known = f"{len(whole['test']):,} test {plural(len(whole['test']), 'example')} {plural(shared, 'is', 'are')}"
        lines.append(f"{info.name}: {shared:,} of {known} in the training split too.")
    return lines


def counted(number: int, one: str, many: str, rest: str) -> str:
    """A clause about a number of things, or nothing about none.

    >>> counted(1, "file is", "files are", "ignored"), counted(1200, "file is", "files are", "ignored")
    ('1 file is ignored', '1,200 files are ignored')
    """
    return f"{number:,} {one if number == 1 else many} {rest}" if number else ""


def suffixes(names: Iterable[str]) -> str:
    """The suffixes of file names with their counts, the most frequent first.

    >>> suffixes(["a.txt", "b.TXT", "c.mp4", "README"])
    '.txt 2, .mp4 1, without suffix 1'
    """
    found = collections.Counter(os.path.splitext(name)[1].lower() or "without suffix" for name in names)
    most = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:_MOST_LISTED]
    parts = [f"{ascii(suffix)[1:-1]} {count:,}" for suffix, count in most]
    return ", ".join(parts + ["others"] * (len(found) > _MOST_LISTED))


def _classes(name: str, source: Source) -> Iterator[str]:
    """Classes without an example, and examples without a class."""
    found, total = labels_of(source, np.arange(len(source))), source.info.num_classes or 0
    empty = np.setdiff1d(np.arange(total), found)
    without = int((found < 0).sum())
    notes = (
        counted(len(empty), "class has", "classes have", f"no example ({', '.join(map(str, empty[:_MOST_LISTED]))})"),
        counted(without, "example has", "examples have", "no class"),
    )
    yield from (f"{source.info.name}: in the {name} split {note}." for note in notes if note)


def _scale(name: str, source: Source) -> Iterator[str]:
    """The range of the coordinates of continuous data, if it is far from the range that the defaults assume."""
    if len(source) < 2:
        return
    values = source.gather(np.arange(len(source))).reshape(len(source), -1).astype(np.float64)
    constant = values.min(axis=0) == values.max(axis=0)
    if name == "train" and constant.any():
        yield (
            f"{source.info.name}: in the train split {_listed(np.flatnonzero(constant))} constant; leave "
            f"{'it' if constant.sum() == 1 else 'them'} out."
        )
    varying = np.flatnonzero(~constant)
    mean, std = np.abs(values.mean(axis=0))[varying], values.std(axis=0)[varying]
    if not len(varying) or (mean.max() <= _FAR and std.min() >= 1.0 / _FAR and std.max() <= _FAR):
        return
    digits = np.spacing(np.abs(values).max(axis=0)[varying].astype(np.float32)) > 1e-2 * std
    lost = "" if not digits.any() else " Single precision, in which they are kept, tells few of its values apart."
    worst = int(np.argmax(np.maximum(mean, np.maximum(std, 1.0 / np.maximum(std, 1e-300)))))
    yield (
        f"{source.info.name}: the {name} split is far from unit scale: coordinate {varying[worst]} has mean "
        f"{values[:, varying[worst]].mean():.4g} and standard deviation {std[worst]:.4g}.{lost} The defaults are made "
        "for means near 0 and standard deviations near 1; set config.data.standardize=columns."
    )


def _listed(coordinates: np.ndarray) -> str:
    """Coordinates as the subject of a sentence, with its verb.

    >>> _listed(np.array([1])), _listed(np.arange(7))
    ('coordinate 1 is', '7 coordinates (0, 1, 2, 3, 4, ...) are')
    """
    if len(coordinates) == 1:
        return f"coordinate {coordinates[0]} is"
    first = ", ".join(map(str, coordinates[:_MOST_LISTED])) + ", ..." * (len(coordinates) > _MOST_LISTED)
    return f"{len(coordinates):,} coordinates ({first}) are"


def _shared(train: Source, test: Source) -> int:
    known = set(_digests(train))
    return sum(digest in known for digest in _digests(test))


def _digests(source: Source) -> Iterable[bytes]:
    for start in range(0, len(source), _CHUNK):
        for example in source.gather(np.arange(start, min(start + _CHUNK, len(source)))):
            yield hashlib.blake2b(np.ascontiguousarray(example).data, digest_size=16).digest()
