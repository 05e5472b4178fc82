"""The user's own arrays: ``npz:PATH``."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from score_sde.data.base import SPLITS, ArraySource, SourceInfo
from score_sde.errors import UserError
from score_sde.files import array_names, read_arrays

NPZ_SPLIT_SEED = 20210504
NPZ_TEST_SHARE = 10  # one example in ten goes to the test split when the file has no "test" array
_FLOATS = "use .astype('float32')"
_REMEDY = "expected an intact .npz file of plain arrays; write it anew with numpy.savez"


def load_npz(path: str, split: str) -> ArraySource:
    """A split of an ``.npz`` file.

    The file holds either ``train`` and ``test``, or one array called ``images``, ``x`` or ``samples`` (the name that
    ``--mode=sample`` gives it), of which a fixed random tenth is the test split. Images are uint8 ``(n, height, width,
    channels)`` with 1 or 3 channels. Continuous data are floats: vectors ``(n, columns)``, series ``(n, length,
    channels)``, images ``(n, height, width, channels)`` or volumes ``(n, depth, height, width, channels)``, which are
    not called ``images``. Optional keys: an integer scalar ``num_levels`` (256 by default), and integer ``labels`` (or
    ``train_labels`` and ``test_labels``) of shape ``(n,)``.
    Floats of any precision become float32. Pickled objects are never loaded, and other keys are ignored.

    Raises:
        UserError: for a missing or unreadable file, a missing key, or an array of the wrong dtype, shape or range, of
            float32 too.

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/tiny.npz"
    >>> np.savez(path, x=np.zeros((20, 3)))
    >>> len(load_npz(path, "train")), len(load_npz(path, "test"))
    (18, 2)
    """
    names = array_names(Path(path), remedy=_REMEDY)
    if names is None:
        whole = "" if Path(path).is_absolute() else f", {Path(path).absolute()}"
        raise UserError(
            f"npz:{path}: there is no such file{whole}. Give the path of an .npz file written by numpy.savez."
        )
    name = f"npz:{path}"
    _, _, used = _keys(name, names, split)
    return source_of(name, read_arrays(Path(path), used, remedy=_REMEDY) or {}, split, names=names)


def source_of(name: str, arrays: Mapping[str, np.ndarray], split: str, *, names: Collection[str]) -> ArraySource:
    """A split of named arrays, as :func:`load_npz` describes them; ``names`` are theirs and those of ignored ones.

    Raises:
        UserError: For a missing array, and one of the wrong dtype, shape or range.
    """
    key, labels_key, used = _keys(name, names, split)
    examples, labels = arrays[key], arrays.get(labels_key)
    info = _describe(name, key, arrays, labels_key)
    if info.num_grey_levels is None:
        used.discard("num_levels")
        examples = single_precision(name, key, examples)
    if key != split:
        rows = split_rows(name, len(examples), split)
        examples, labels = examples[rows], None if labels is None else labels[rows]
    ignored = ", ".join(ascii(name) for name in names if name not in used)
    notes = [f"the arrays it holds besides are ignored ({ignored})"] if ignored else []
    if info.num_grey_levels is None and examples.ndim == 4 and examples.shape[3] in (1, 3):
        notes += [f"the floats are taken as continuous data; for images of gray levels, store {_as_levels(examples)}"]
    return ArraySource(info, examples, labels, notes=tuple(notes))


def _keys(name: str, names: Collection[str], split: str) -> tuple[str, str, set[str]]:
    """The names of the arrays with the examples and the labels of a split, and of all arrays that are checked."""
    if set(names) >= set(SPLITS):
        return split, f"{split}_labels", {*SPLITS, *(f"{one}_labels" for one in SPLITS), "num_levels"}
    for key in ("images", "x", "samples"):
        if key in names:
            return key, "labels", {key, "labels", "num_levels"}
    raise UserError(
        f"{name} has the keys {sorted(names)}, expected 'images' or 'x' (split for you), or both 'train' and "
        "'test'. Write it with numpy.savez(path, images=array)."
    )


def split_rows(name: str, num_examples: int, split: str) -> np.ndarray:
    """The rows of a split, by a permutation that depends on the number of examples alone."""
    if num_examples < 2:
        raise UserError(f"{name} has {num_examples} example, expected at least 2 to split. Add data.")
    order = np.random.RandomState(NPZ_SPLIT_SEED).permutation(num_examples)
    num_test = max(1, num_examples // NPZ_TEST_SHARE)
    return order[:num_test] if split == "test" else order[num_test:]


def _describe(name: str, key: str, arrays: Mapping[str, np.ndarray], labels_key: str) -> SourceInfo:
    """The info of the file, after a check of the dtype, shape and range of the array under ``key``."""
    examples = arrays[key]
    shapes = {split: arrays[split].shape for split in SPLITS if split in arrays}
    if len({shape[1:] for shape in shapes.values()}) > 1:
        raise UserError(
            f"{name}: 'train' has shape {shapes['train']}, 'test' {shapes['test']}, expected the same after the first "
            "axis. Bring the examples to one shape."
        )
    if examples.ndim == 0 or examples.size == 0:
        raise UserError(f"{name}: '{key}' has shape {examples.shape}, expected at least one example. Add data.")
    num_classes = _num_classes(name, arrays, labels_key, len(examples))
    if examples.dtype.kind == "f" and 2 <= examples.ndim <= (2 if key == "images" else 5):
        if not np.isfinite(examples).all():
            raise UserError(
                f"{name}: '{key}' contains NaN or infinity, expected finite numbers. Remove those examples."
            )
        return SourceInfo(name, examples.shape[1:], None, num_classes)
    if examples.ndim != 4 or examples.dtype != np.uint8:
        raise UserError(
            f"{name}: '{key}' is {examples.dtype} of shape {examples.shape}, expected uint8 images of shape (n, "
            f"height, width, channels), or floats of 1 to 4 axes per example, the last of columns or channels. "
            f"{_hint(examples)}"
        )
    if examples.shape[3] not in (1, 3):
        first = examples.shape[1] in (1, 3)
        hint = "The channels seem to come first: use .transpose(0, 2, 3, 1)." if first else "Convert the images."
        raise UserError(f"{name}: images have {examples.shape[3]} channels, expected 1 or 3 on the last axis. {hint}")
    return SourceInfo(name, examples.shape[1:], _levels(name, arrays, examples), num_classes)


def _hint(examples: np.ndarray) -> str:
    kind, ndim = examples.dtype.kind, examples.ndim
    if kind not in "biuf":
        return "Convert it to numbers."
    if kind == "f" and ndim == 1:
        return "Add the axis of columns with [:, None]."
    if ndim not in (3, 4):
        numbers = "" if kind == "f" else ".astype('float32')"
        return f"If these are continuous data, use .reshape(len(x), -1){numbers}."
    axis = "[..., None]" if ndim == 3 else ""
    if examples.dtype == np.uint8:
        return f"Add the channel axis with {axis}."
    levels = f"If these are images, store their levels: {_as_levels(examples)}{axis}."
    return f"{levels} If they are continuous data, {'call the array x' if kind == 'f' else _FLOATS}."


def _as_levels(examples: np.ndarray) -> str:
    """How images become gray levels."""
    low, high = examples.min(), examples.max()
    if examples.dtype.kind == "f" and 0.0 <= low and high <= 1.0:
        return "(255 * x).round().astype('uint8')"
    if examples.dtype.kind == "f" and -1.0 <= low and high <= 1.0:
        return "(127.5 * (x + 1)).round().astype('uint8')"
    if 0 <= low and high <= 255:
        return "x.round().astype('uint8')" if examples.dtype.kind == "f" else "x.astype('uint8')"
    return "integers from 0 to 255, as uint8"


def single_precision(name: str, key: str, examples: np.ndarray) -> np.ndarray:
    """Continuous data as float32, within whose range they must lie."""
    with np.errstate(over="ignore", under="ignore"):
        single = examples.astype(np.float32)
    if not (finite := np.isfinite(single).reshape(len(single), -1).all(axis=1)).all():
        row = int(np.argmin(finite))
        raise UserError(
            f"{name}: '{key}' holds {examples[row][~np.isfinite(single[row])][0]:.3g} in example {row}, and float32 "
            f"ends at {np.finfo(np.float32).max:.3g}. Rescale the data to about unit standard deviation."
        )
    lost = (np.ptp(examples, axis=0) > 0) & (np.ptp(single, axis=0) == 0)
    if lost.any():
        raise UserError(
            f"{name}: all values of coordinate {int(np.argmax(lost))} of '{key}' are the same in float32, and differ "
            f"in {examples.dtype}. Standardize the data: subtract the mean, and divide by the standard deviation."
        )
    return single


def _num_classes(name: str, arrays: Mapping[str, np.ndarray], labels_key: str, num_examples: int) -> int | None:
    labels = arrays.get(labels_key)
    if labels is None:
        return None
    good = labels.shape == (num_examples,) and labels.dtype.kind in "iu"
    if not good or not 0 <= labels.min() <= labels.max() < 2**31:
        raise UserError(
            f"{name}: '{labels_key}' is {labels.dtype} of shape {labels.shape}, expected integers from 0 of shape "
            f"({num_examples},). Store one class number per example."
        )
    # Over both splits: a class that is missing from one of them is still a class.
    known = [arrays[key] for key in ("labels", "train_labels", "test_labels") if key in arrays]
    return 1 + max(int(array.max()) for array in known if array.size and array.dtype.kind in "iu")


def _levels(name: str, arrays: Mapping[str, np.ndarray], examples: np.ndarray) -> int:
    levels = arrays.get("num_levels", np.asarray(256))
    if levels.ndim != 0 or levels.dtype.kind not in "iu" or not 2 <= int(levels) <= 256:
        raise UserError(f"{name}: 'num_levels' is {levels!r}, expected one integer from 2 to 256. Correct or omit it.")
    if int(examples.max()) >= int(levels):
        raise UserError(
            f"{name}: found level {int(examples.max())}, expected 0 to {int(levels) - 1} because 'num_levels' is "
            f"{int(levels)}. Correct 'num_levels' or rescale the images."
        )
    return int(levels)
