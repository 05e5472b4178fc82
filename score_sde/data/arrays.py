"""Arrays in memory as the splits of a data set."""

import logging
from typing import Any

import numpy as np

from score_sde.arguments import not_masked
from score_sde.data.base import ArraySource, SourceInfo
from score_sde.data.npz import single_precision, split_rows
from score_sde.errors import UserError, refuse

log = logging.getLogger(__name__)

#: The name of data that were given as an array, in the records of a run.
NAME = "array"
MAX_LEVELS = 2**16
_MOST_CHANNELS = 4  # of an image; an axis with more is a side of one


def array_splits(
    data: Any, labels: Any = None, *, held_out: Any = None, num_levels: int = 256
) -> dict[str, ArraySource]:
    """The splits of an array of shape ``(examples, *event)``: floats are continuous data, whole numbers gray levels.

    Args:
        data: The examples. Floats become float32.
        labels: The class of each example, from 0; -1 for none.
        held_out: The examples of the test split, with ``labels`` a pair of examples and their classes. Unless given, a
            fixed random tenth of the data.
        num_levels: The number of gray levels of whole numbers.

    Raises:
        UserError: For arrays that are empty, of another rank or of no numbers, for numbers that are not finite or
            beyond the gray levels, and for labels that are no classes of the examples.

    >>> splits = array_splits(np.zeros((20, 3)))
    >>> len(splits["train"]), len(splits["test"]), splits["train"].info.shape
    (18, 2, (3,))
    """
    if not 2 <= num_levels <= MAX_LEVELS:
        raise UserError(f"num_levels is {num_levels}; expected 2 to {MAX_LEVELS}.")
    levels = num_levels if np.asarray(data).dtype.kind in "iub" else None
    examples = checked_examples("data", data, levels)
    classes = _classes("labels", labels, len(examples))
    if held_out is None:
        rows = {split: split_rows("The array", len(examples), split) for split in ("train", "test")}
        parts = {split: (examples[row], None if classes is None else classes[row]) for split, row in rows.items()}
    else:
        pair = held_out if labels is not None and isinstance(held_out, tuple | list) else (held_out, None)
        other = checked_examples("held_out", pair[0], levels)
        parts = {"train": (examples, classes), "test": (other, _classes("held_out[1]", pair[1], len(other)))}
        _check_alike(*parts["train"], *parts["test"])
    known = [own for _, own in parts.values() if own is not None]
    num_classes = 1 + max(int(own.max()) for own in known) if known else None
    if levels is not None and examples.ndim == 3 and examples.shape[2] > _MOST_CHANNELS:
        log.warning(
            "data has shape %s: series of %d places with %d channels. Give images of one channel as x[..., None].",
            *(examples.shape, *examples.shape[1:]),
        )
    info = SourceInfo(NAME, examples.shape[1:], levels, num_classes)
    return {split: ArraySource(info, *part) for split, part in parts.items()}


def checked_examples(name: str, given: Any, num_levels: int | None) -> np.ndarray:
    """Examples as float32, or as gray levels in the smallest type that holds them; errors call them ``name``.

    Raises:
        UserError: As :func:`array_splits`.
    """
    refuse(not_masked(name, given))
    array = np.asarray(given)
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name} is of type {array.dtype}; expected an array of floats or of whole numbers.")
    if array.ndim < 2:
        raise UserError(
            f"{name} has shape {array.shape}; expected (examples, *event), such as x[:, None] for single numbers."
        )
    if not array.size:
        raise UserError(f"{name} has shape {array.shape}; expected at least one example, and one number of each.")
    if num_levels is None:
        return _continuous(name, array)
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" or low < 0 or high >= num_levels:
        raise UserError(
            f"{name} has {array.dtype} from {low:g} to {high:g}; expected gray levels, whole numbers from 0 to "
            f"{num_levels - 1} (num_levels is {num_levels})."
        )
    return array.astype(np.uint8 if num_levels <= 256 else np.int32)


def _continuous(name: str, array: np.ndarray) -> np.ndarray:
    """Finite numbers as float32."""
    if not (finite := np.isfinite(array).reshape(len(array), -1).all(axis=1)).all():
        raise UserError(
            f"{name} has NaN or infinity in {int((~finite).sum())} of {len(array)} examples, the first of them number "
            f"{int(np.argmin(finite))}; expected finite numbers. Remove those examples."
        )
    return single_precision("The array", name, array.reshape(len(array), -1)).reshape(array.shape)


def _classes(name: str, given: Any, count: int) -> np.ndarray | None:
    if given is None:
        return None
    refuse(not_masked(name, given))
    labels = np.asarray(given)
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < -1:
        raise UserError(
            f"{name} is {labels.dtype} of shape {labels.shape}; expected {count} whole numbers, a class from 0 for "
            "every example, or -1 for none."
        )
    return labels.astype(np.int32)


def _check_alike(
    train: np.ndarray, train_labels: np.ndarray | None, test: np.ndarray, test_labels: np.ndarray | None
) -> None:
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise UserError(
            f"held_out is {test.dtype} with examples of shape {test.shape[1:]}, and data is {train.dtype} with "
            f"examples of shape {train.shape[1:]}; expected the same."
        )
    if (train_labels is None) != (test_labels is None):
        raise UserError("data has labels and held_out has none; expected held_out=(examples, labels).")
