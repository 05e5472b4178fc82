"""From a name to a data source: the registry of data sets."""

import functools
import importlib.util
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from score_sde.data.base import SPLITS, ArraySource, Source, SourceInfo
from score_sde.data.folders import load_folder
from score_sde.data.npz import load_npz
from score_sde.data.own import load_own
from score_sde.data.records import load_array_records
from score_sde.data.tfds_prepared import load_prepared, prepared_info
from score_sde.data.tfds_sources import TFDS_INFO, load_tfds
from score_sde.data.toys import TOYS, load_toy, toy_info
from score_sde.errors import UserError, unknown
from score_sde.fields.kinds import is_outside
from score_sde.outside.parts import Part, part_of

DIGITS_SPLIT_SEED = 1797
DIGITS_NUM_TRAIN = 1500
DIGITS_INFO = SourceInfo("digits", (8, 8, 1), 17, 10)


def load_digits(split: str) -> ArraySource:
    """The 1797 handwritten 8x8 digits that ship with scikit-learn, gray levels 0 to 16: 1500 train, 297 test.

    The set has no official split; this one is a permutation by ``DIGITS_SPLIT_SEED`` from a generator whose
    stream NumPy has frozen, so it is the same on every machine and in every version.
    """
    table = _digits_table()
    order = np.random.RandomState(DIGITS_SPLIT_SEED).permutation(len(table))
    rows = table[order[:DIGITS_NUM_TRAIN] if split == "train" else order[DIGITS_NUM_TRAIN:]]
    return ArraySource(DIGITS_INFO, rows[:, :-1].reshape(-1, *DIGITS_INFO.shape), rows[:, -1].copy())


@functools.cache
def _digits_table() -> np.ndarray:
    """One row per digit: its 64 gray levels and its class. Importing scikit-learn for one file would take a second."""
    package = importlib.util.find_spec("sklearn")
    for place in (package and package.submodule_search_locations) or ():
        if os.path.isfile(path := os.path.join(place, "datasets", "data", "digits.csv.gz")):
            return np.loadtxt(path, delimiter=",").astype(np.uint8)
    from sklearn import datasets  # of a version that keeps the file elsewhere

    digits: Any = datasets.load_digits()
    return np.column_stack([digits.data, digits.target]).astype(np.uint8)


def load_source(
    name: str,
    split: str,
    *,
    data_dir: str | None = None,
    shape: tuple[int, ...] = (),
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Source:
    """The data source of a name.

    ============================================  ==========================================================
    ``digits``                                    8x8x1, 17 levels; ships with scikit-learn
    ``array``                                     the array that was given to :func:`score_sde.fit`: not loaded, refused
    ``mnist``, ``fashion_mnist``, ``cifar10``     through TFDS, prepared from the original files if necessary
    ``tfds:NAME``                                 any prepared TFDS data set of images, see
                                                  :func:`score_sde.data.tfds_prepared.load_prepared`
    ``npz:PATH``                                  an .npz file, see :func:`score_sde.data.npz.load_npz`
    ``folder:PATH``                               a folder of images of one size
    ``arrayrecord:PATH``                          a folder of ArrayRecord files, see
                                                  :func:`score_sde.data.records.load_array_records`
    ``toy:NAME``                                  checkerboard, moons, rings, gaussians or swissroll in 2-D
    ``module:name``                               data of your own, see :func:`score_sde.data.own.load_own`
    ============================================  ==========================================================

    The split is ``train`` or ``test``. TFDS data sets and their original files lie in ``data_dir``. With a shape,
    examples must be 8-bit images of this shape. Options are those of data of your own.

    Raises:
        UserError: for an unknown name or split, or data that are missing, damaged or of an unusable kind.

    >>> source = load_source("digits", "train")
    >>> len(source), source.info.num_grey_levels, source.gather(np.arange(2)).shape
    (1500, 17, (2, 8, 8, 1))
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    source = _entry(name, options).load(split, data_dir)
    if shape and (shape, 256) != (source.info.shape, source.info.num_grey_levels):
        raise UserError(
            f"{name} holds data of shape {source.info.shape} with {source.info.num_grey_levels} levels; expected "
            f"{shape} with 256 levels. Set config.data.shape to that of the data, or to ()."
        )
    return source


def source_info(
    name: str, *, data_dir: str | None = None, options: Mapping[str, Any] = MappingProxyType({})
) -> SourceInfo:
    """The info that :func:`load_source` would give of a data set, without loading it unless it is the user's own.

    Raises:
        UserError: for an unknown name, or user data that cannot be read.

    >>> source_info("cifar10").shape
    (32, 32, 3)
    """
    return _entry(name, options).info(data_dir)


def _not_kept() -> Any:
    raise UserError(
        "The data of this run were given to score_sde.fit as an array, and are in no file; measure with the methods of "
        "score_sde.load, or give the data as config.data.name=npz:PATH."
    )


class _Entry(NamedTuple):
    """A data set: from a split and the directory of data sets to its source, and its info without the split."""

    load: Callable[[str, str | None], Source]
    info: Callable[[str | None], SourceInfo]


def _of_user(load: Callable[[str, str], Source], path: str) -> _Entry:
    path = os.path.expanduser(path)  # the shell expands no tilde after a colon
    return _Entry(lambda split, _: load(path, split), lambda _: load(path, "train").info)


_NAMES: Mapping[str, _Entry] = {
    "digits": _Entry(lambda split, _: load_digits(split), lambda _: DIGITS_INFO),
    "array": _Entry(lambda split, _: _not_kept(), lambda _: _not_kept()),
    **{name: _Entry(functools.partial(load_tfds, name), lambda _, info=info: info) for name, info in TFDS_INFO.items()},
}
_KINDS: Mapping[str, Callable[[str], _Entry]] = {
    "toy": lambda name: _Entry(lambda split, _: load_toy(name, split), lambda _: toy_info(name)),
    "tfds": lambda name: _Entry(functools.partial(load_prepared, name), functools.partial(prepared_info, name)),
    "npz": functools.partial(_of_user, load_npz),
    "folder": functools.partial(_of_user, load_folder),
    "arrayrecord": functools.partial(_of_user, load_array_records),
}


def _own(part: Part, options: Mapping[str, Any]) -> _Entry:
    load = functools.partial(load_own, part, options)
    return _Entry(load, lambda data_dir: load("train", data_dir).info)


def _entry(name: str, options: Mapping[str, Any]) -> _Entry:
    kind, _, rest = name.partition(":")
    if kind in _KINDS and rest:
        return _KINDS[kind](rest)
    if name in _NAMES:
        return _NAMES[name]
    if is_outside(name) and kind not in _KINDS:
        return _own(part_of(name, "data.name"), options)
    paths = [f"{kind}:PATH" for kind in ("npz", "folder", "arrayrecord")]
    raise unknown("dataset", name, [*_NAMES, *(f"toy:{toy}" for toy in TOYS), "tfds:NAME", *paths])
