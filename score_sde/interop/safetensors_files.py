"""Files of named arrays and nothing else: https://github.com/huggingface/safetensors."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from score_sde.errors import UserError
from score_sde.files import atomic_path
from score_sde.interop.sniff import existing_file, reading


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write named arrays and a few words about them, whole or not at all.

    Raises:
        UserError: If the format lacks the type of an array or allows no such name, or the file cannot be written; an
            existing file then stays unchanged.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "weights.safetensors")
    >>> write_safetensors(path, {"bias": np.zeros(3)}, {"step": "12"})
    >>> read_safetensors(path)
    ({'bias': array([0., 0., 0.])}, {'step': '12'})
    """
    path = path if isinstance(path, Path) else Path(path)
    if "__metadata__" in tensors:
        raise UserError(f"Cannot write {path}: '__metadata__' is no name for an array in this format. Choose another.")
    # The library writes the memory of an array as if it were always contiguous.
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            safetensors.numpy.save_file(arrays, temporary, metadata=dict(metadata))
        except (safetensors.SafetensorError, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"Cannot write {path} ({error}). Convert the arrays, or free space there.") from error


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays in a file by name, and its metadata.

    Raises:
        UserError: If the file is missing, damaged, or has arrays of a type that NumPy lacks.
    """
    path = existing_file(path)
    with reading(path, "a safetensors file"), safetensors.safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
