"""The kind of a checkpoint file, by its content; names and suffixes are not trusted."""

import contextlib
import os
import zipfile
from pathlib import Path
from typing import Literal

from score_sde.errors import UserError, explained

Kind = Literal["torch-zip", "torch-legacy", "flax", "safetensors"]

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_MAGIC_PICKLED = b"\x8a\x0a" + TORCH_MAGIC.to_bytes(10, "little")  # as the instruction LONG1
_HEAD = 64


def file_kind(path: str | os.PathLike[str]) -> Kind:
    """The format of a checkpoint file, from its first bytes and, for an archive, from the names in it.

    Raises:
        UserError: If there is no such file, it is a directory, or it has none of the formats.
    """
    path = existing_file(path)
    with reading(path, "a checkpoint"):
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if head.startswith(b"PK\x03\x04") and _holds_pickle(path):
            return "torch-zip"
        if head.startswith(b"\x80") and _MAGIC_PICKLED in head:
            return "torch-legacy"
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
            return "safetensors"
        if _is_named_map(head):
            return "flax"
    raise UserError(
        f"{path} is in none of the known checkpoint formats (it begins with {head[:8]!r}). Expected a file written by "
        "torch.save, by flax.training.checkpoints or by safetensors; give the checkpoint itself, unpacked."
    )


def existing_file(path: str | os.PathLike[str]) -> Path:
    """The path, if a regular file is there."""
    path = Path(path)
    try:
        if path.is_file():
            return path
        what = _kind_of_directory(path) if path.is_dir() else "does not exist or is not a regular file"
    except (OSError, ValueError) as error:  # no permission; a zero byte in the name
        what = f"cannot be looked at ({error})"
    raise UserError(f"{path} {what}. Give the path of one checkpoint file.")


def _kind_of_directory(path: Path) -> str:
    for place in (path, *path.absolute().parents[:2]):
        if (place / "config.json").is_file() and (place / "checkpoints").is_dir():
            return f"belongs to the run in {place}, which --mode=export writes to {place / 'model.safetensors'}"
    return "is a directory"


def reading(path: Path, what: str) -> contextlib.AbstractContextManager[None]:
    """Turn exceptions of parsers over damaged or hostile files, of a dozen kinds, into a :class:`UserError`."""

    def explain(error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        return UserError(
            f"{path} cannot be read as {what} ({reason}). Nothing in it was executed. Expected an intact file; fetch "
            "or save it again."
        )

    return explained(explain)


def _holds_pickle(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.count("/") == 1 and name.endswith("/data.pkl") for name in archive.namelist())


def _is_named_map(head: bytes) -> bool:
    """Whether msgpack would read a map that is not empty and whose first key is text."""
    if not head:
        return False
    start = {0xDE: 3, 0xDF: 5}.get(head[0], 1 if 0x81 <= head[0] <= 0x8F else _HEAD)
    key = head[start] if start < len(head) else 0
    return 0xA0 <= key <= 0xBF or key in (0xD9, 0xDA)
