"""The user's own arrays: ``npz:PATH``."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from score_sde.data.base import ArraySource, SourceInfo
from score_sde.errors import UserError

NPZ_SPLIT_SEED = 20210504
NPZ_TEST_SHARE = 10  # one example in ten goes to the test split when the file has no "test" array


def load_npz(path: str, split: str) -> ArraySource:
    """A split of an ``.npz`` file.

    The file holds either ``train`` and ``test``, or one array called ``images``, ``x`` or ``samples`` (the name that
    ``--mode=sample`` gives it), of which a fixed random tenth is the test split. Images are uint8 ``(n, height, width,
    channels)`` with 1 or 3 channels; continuous data are floats ``(n, dim)``. Optional keys: an integer scalar
    ``num_levels`` (256 by default), and integer ``labels`` (or ``train_labels`` and ``test_labels``) of shape ``(n,)``.
    Pickled objects are never loaded.

    Raises:
        UserError: for a missing or unreadable file, a missing key, or an array of the wrong dtype, shape or range.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/tiny.npz"
        >>> np.savez(path, x=np.zeros((20, 3)))
        >>> len(load_npz(path, "train")), len(load_npz(path, "test"))
        (18, 2)
    """
    arrays = _read(path)
    key, labels_key = _keys(path, arrays, split)
    examples, labels = arrays[key], arrays.get(labels_key)
    info = _describe(path, key, arrays, labels_key)
    if key != split:
        rows = _split_rows(path, len(examples), split)
        examples, labels = examples[rows], None if labels is None else labels[rows]
    if info.num_levels is None:
        examples = examples.astype(np.float32)
    return ArraySource(info, examples, labels)


def _read(path: str) -> dict[str, np.ndarray]:
    if not Path(path).is_file():
        raise UserError(f"npz:{path}: there is no such file. Give the path of an .npz file written by numpy.savez.")
    try:
        # Opened here, because numpy leaves a file open that it finds to be no archive.
        with open(path, "rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise UserError(f"npz:{path} holds a bare array, expected an archive: numpy.savez(path, images=array).")
            with archive:
                return {key: archive[key] for key in archive.files}
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError) as error:
        raise UserError(
            f"npz:{path} cannot be read ({error}). Expected an intact .npz file of plain arrays (object arrays are "
            "refused because they may run code); write it anew with numpy.savez."
        ) from error


def _keys(path: str, arrays: dict[str, np.ndarray], split: str) -> tuple[str, str]:
    """The names of the arrays that hold the examples and the labels of a split."""
    if "train" in arrays and "test" in arrays:
        if arrays["train"].shape[1:] != arrays["test"].shape[1:]:
            raise UserError(
                f"npz:{path}: 'train' has shape {arrays['train'].shape}, 'test' {arrays['test'].shape}, expected the "
                "same after the first axis. Bring the examples to one shape."
            )
        return split, f"{split}_labels"
    for key in ("images", "x", "samples"):
        if key in arrays:
            return key, "labels"
    raise UserError(
        f"npz:{path} has the keys {sorted(arrays)}, expected 'images' or 'x' (split for you), or both 'train' and "
        "'test'. Write it with numpy.savez(path, images=array)."
    )


def _split_rows(path: str, num_examples: int, split: str) -> np.ndarray:
    """The rows of a split, by a permutation that depends on the number of examples alone."""
    if num_examples < 2:
        raise UserError(f"npz:{path} has {num_examples} example, expected at least 2 to split. Add data.")
    order = np.random.RandomState(NPZ_SPLIT_SEED).permutation(num_examples)
    num_test = max(1, num_examples // NPZ_TEST_SHARE)
    return order[:num_test] if split == "test" else order[num_test:]


def _describe(path: str, key: str, arrays: dict[str, np.ndarray], labels_key: str) -> SourceInfo:
    """The info of the file, after a look at the dtype, shape and range of the array under ``key``."""
    name, examples = f"npz:{path}", arrays[key]
    if examples.ndim == 0 or examples.size == 0:
        raise UserError(f"{name}: '{key}' has shape {examples.shape}, expected at least one example. Add data.")
    num_classes = _num_classes(name, arrays, labels_key, len(examples))
    if examples.ndim == 2 and examples.dtype.kind == "f":
        if not np.isfinite(examples).all():
            raise UserError(
                f"{name}: '{key}' contains NaN or infinity, expected finite numbers. Remove those examples."
            )
        return SourceInfo(name, examples.shape[1:], None, num_classes)
    if examples.ndim != 4 or examples.dtype != np.uint8:
        hint = "Add the channel axis with [..., None]." if examples.ndim == 3 else "Convert the array."
        raise UserError(
            f"{name}: '{key}' is {examples.dtype} of shape {examples.shape}, expected uint8 images of shape (n, "
            f"height, width, channels) or floats of shape (n, dim). {hint}"
        )
    if examples.shape[3] not in (1, 3):
        first = examples.shape[1] in (1, 3)
        hint = "The channels seem to come first: use .transpose(0, 2, 3, 1)." if first else "Convert the images."
        raise UserError(f"{name}: images have {examples.shape[3]} channels, expected 1 or 3 on the last axis. {hint}")
    return SourceInfo(name, examples.shape[1:], _levels(name, arrays, examples), num_classes)


def _num_classes(name: str, arrays: dict[str, np.ndarray], labels_key: str, num_examples: int) -> int | None:
    labels = arrays.get(labels_key)
    if labels is None:
        return None
    if labels.shape != (num_examples,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise UserError(
            f"{name}: '{labels_key}' is {labels.dtype} of shape {labels.shape}, expected integers from 0 of shape "
            f"({num_examples},). Store one class number per example."
        )
    # Over both splits: a class that is missing from one of them is still a class.
    known = [arrays[key] for key in ("labels", "train_labels", "test_labels") if key in arrays and arrays[key].size]
    return 1 + max(int(array.max()) for array in known)


def _levels(name: str, arrays: dict[str, np.ndarray], examples: np.ndarray) -> int:
    levels = arrays.get("num_levels", np.asarray(256))
    if levels.ndim != 0 or levels.dtype.kind not in "iu" or not 2 <= int(levels) <= 256:
        raise UserError(f"{name}: 'num_levels' is {levels!r}, expected one integer from 2 to 256. Correct or omit it.")
    if int(examples.max()) >= int(levels):
        raise UserError(
            f"{name}: found level {int(examples.max())}, expected 0 to {int(levels) - 1} because 'num_levels' is "
            f"{int(levels)}. Correct 'num_levels' or rescale the images."
        )
    return int(levels)
