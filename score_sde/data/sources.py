"""From a name to a data source: the registry of data sets."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from score_sde.data.base import SPLITS, ArraySource, Source, SourceInfo
from score_sde.data.folders import load_folder
from score_sde.data.npz import load_npz
from score_sde.data.records import load_array_records
from score_sde.data.tfds_prepared import load_prepared, prepared_info
from score_sde.data.tfds_sources import TFDS_INFO, load_tfds
from score_sde.data.toys import TOYS, load_toy, toy_info
from score_sde.errors import UserError, unknown

DIGITS_SPLIT_SEED = 1797
DIGITS_NUM_TRAIN = 1500
DIGITS_INFO = SourceInfo("digits", (8, 8, 1), 17, 10)

_USER_LOADERS: dict[str, Callable[[str, str], Source]] = {
    "npz": load_npz,
    "folder": load_folder,
    "arrayrecord": load_array_records,
}


def load_digits(split: str) -> ArraySource:
    """The 1797 handwritten 8x8 digits that ship with scikit-learn, grey levels 0 to 16: 1500 train, 297 test.

    The set has no official split; this one is a permutation by ``DIGITS_SPLIT_SEED`` from a generator whose
    stream NumPy has frozen, so it is the same on every machine and in every version.
    """
    from sklearn import datasets

    digits: Any = datasets.load_digits()
    order = np.random.RandomState(DIGITS_SPLIT_SEED).permutation(len(digits.images))
    chosen = order[:DIGITS_NUM_TRAIN] if split == "train" else order[DIGITS_NUM_TRAIN:]
    images = digits.images[chosen, :, :, None].astype(np.uint8)
    return ArraySource(DIGITS_INFO, images, digits.target[chosen].astype(np.uint8))


def load_source(name: str, split: str, *, data_dir: str | None = None, shape: tuple[int, ...] = ()) -> Source:
    """The data source of a name.

    ============================================  ==========================================================
    ``digits``                                    8x8x1, 17 levels; ships with scikit-learn
    ``mnist``, ``fashion_mnist``, ``cifar10``     through TFDS, prepared from the original files if necessary
    ``tfds:NAME``                                 any prepared TFDS data set of images, see
                                                  :func:`score_sde.data.tfds_prepared.load_prepared`
    ``npz:PATH``                                  an .npz file, see :func:`score_sde.data.npz.load_npz`
    ``folder:PATH``                               a folder of images of one size
    ``arrayrecord:PATH``                          a folder of ArrayRecord files, see
                                                  :func:`score_sde.data.records.load_array_records`
    ``toy:NAME``                                  checkerboard, moons, rings, gaussians or swissroll in 2-D
    ============================================  ==========================================================

    Args:
        name: one of the above.
        split: "train" or "test".
        data_dir: the directory of TFDS data sets and their original files; the other sources ignore it.
        shape: the required shape of the examples, as 8-bit images; empty for any.

    Raises:
        UserError: for an unknown name or split, or data that are missing, damaged or of an unusable kind.

    Example:
        >>> source = load_source("digits", "train")
        >>> len(source), source.info.num_grey_levels, source.gather(np.arange(2)).shape
        (1500, 17, (2, 8, 8, 1))
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    source = _load(name, split, data_dir)
    if shape and (shape, 256) != (source.info.shape, source.info.num_grey_levels):
        raise UserError(
            f"{name} holds data of shape {source.info.shape} with {source.info.num_grey_levels} levels; expected "
            f"{shape} with 256 levels. Set config.data.shape to that of the data, or to ()."
        )
    return source


def _load(name: str, split: str, data_dir: str | None) -> Source:
    # The shell expands no tilde after a colon, so it is expanded here.
    kind, _, rest = name.partition(":")
    if kind == "toy" and rest:
        return load_toy(rest, split)
    if kind == "tfds" and rest:
        return load_prepared(rest, split, data_dir)
    if kind in _USER_LOADERS and rest:
        return _USER_LOADERS[kind](os.path.expanduser(rest), split)
    if name == "digits":
        return load_digits(split)
    if name in TFDS_INFO:
        return load_tfds(name, split, data_dir)
    raise _unknown_name(name)


def source_info(name: str, *, data_dir: str | None = None) -> SourceInfo:
    """The info that :func:`load_source` would give of a data set, without loading it unless it is the user's own.

    Args:
        name: as for :func:`load_source`.
        data_dir: the directory of the data set of ``tfds:NAME``.

    Raises:
        UserError: for an unknown name, or user data that cannot be read.

    Example:
        >>> source_info("cifar10").shape
        (32, 32, 3)
    """
    kind, _, rest = name.partition(":")
    if kind == "toy" and rest:
        return toy_info(rest)
    if kind == "tfds" and rest:
        return prepared_info(rest, data_dir)
    if kind in _USER_LOADERS and rest:
        return _USER_LOADERS[kind](os.path.expanduser(rest), "train").info
    known = {"digits": DIGITS_INFO, **TFDS_INFO}
    if name not in known:
        raise _unknown_name(name)
    return known[name]


def _unknown_name(name: str) -> UserError:
    return unknown(
        "dataset",
        name,
        ["digits", *TFDS_INFO, *(f"toy:{toy}" for toy in TOYS), "tfds:NAME", *(f"{k}:PATH" for k in _USER_LOADERS)],
    )
