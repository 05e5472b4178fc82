"""Decoded arrays, cached beside their source files."""

import contextlib
import uuid
from pathlib import Path

import numpy as np


def read_cached(path: Path) -> np.ndarray | None:
    """The array at ``path`` as a memory map, or None if it is missing or damaged and must be made again."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # a damaged header makes numpy raise almost anything
        return None
    return found if isinstance(found, np.ndarray) else None


def write_cached(path: Path, array: np.ndarray) -> None:
    """Keep a decoded array for the next run; a read-only directory only costs decoding again.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "decoded" / "levels.npy"
        >>> write_cached(path, np.arange(3))
        >>> np.asarray(read_cached(path)).tolist()
        [0, 1, 2]
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        try:
            with partial.open("wb") as sink:
                np.save(sink, array, allow_pickle=False)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
