"""Reading of small files, without trust.

One rule holds for all readers. A missing file gives ``None``. A file that exists but cannot be read, for whatever
reason, raises :class:`Unreadable`, which is the user's error unless the caller can do without the file.
"""

import contextlib
import json
import math
import stat
import zipfile
from pathlib import Path
from typing import Any

from score_sde.errors import UserError, explained

REMEDY = "remove it and run the mode that writes it again"
_JSON_BYTES = 1 << 30  # limit of a JSON file
_JSON_DEPTH = 64


class Unreadable(UserError):
    """A file exists but cannot be read.

    Attributes:
        path: The file.
        reason: The reason, as part of a sentence.
    """

    def __init__(self, path: Path, reason: str, remedy: str = REMEDY) -> None:
        """Name the file, the reason and the remedy."""
        super().__init__(path, reason, remedy)
        self.path, self.reason, self._remedy = path, reason, remedy

    def __str__(self) -> str:
        return f"{self.path} cannot be read ({self.reason}); {self._remedy}."


def read_bytes(path: Path, *, remedy: str = REMEDY, limit: int | None = None) -> bytes | None:
    """The contents of a file, or ``None`` if there is no such file.

    Raises:
        Unreadable: For a file without read permission, an irregular file, or more bytes than ``limit``.
    """
    with reading(path, remedy):
        if not is_there(path):
            return None
        if limit is not None and path.stat().st_size > limit:
            raise ValueError(f"it has more than {limit} bytes")
        return path.read_bytes()


def read_json(path: Path, *, remedy: str = REMEDY) -> dict[str, Any] | None:
    """The JSON object in a file, or ``None`` if there is no such file.

    Raises:
        Unreadable: For a file without read permission, invalid UTF-8 or JSON, a value other than an object, a number
            that is not finite, or nesting deeper than in any file of this package.
    """
    content = read_bytes(path, remedy=remedy, limit=_JSON_BYTES)
    with reading(path, remedy):
        return None if content is None else parse_json(content.decode("utf-8-sig"))


def parse_json(text: str) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        ValueError: For contents that :func:`read_json` refuses.
        RecursionError: If it is nested too deeply.
    """
    number = _finite_number
    found = json.loads(text, parse_constant=number, parse_float=number, parse_int=number)
    if not isinstance(found, dict):
        raise ValueError("it is JSON, but no object")
    _check_depth(found)
    if "\\u" in text:
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is not valid text
    return found


def read_json_lines(path: Path) -> list[dict[str, Any]] | None:
    """The objects in a file of metrics, one a line; see :func:`parse_json_line`. ``None`` if there is no such file.

    Raises:
        Unreadable: For a file without read permission, or anything but a regular file.
    """
    if (content := read_bytes(path, remedy="make it a readable file, or remove it")) is None:
        return None
    records = map(parse_json_line, content.split(b"\n"))
    return [record for record in records if record is not None]


def parse_json_line(line: bytes) -> dict[str, Any] | None:
    """A line of metrics, or ``None`` for a truncated line or one without an integer ``step``.

    Non-finite numbers become NaN, however they are written: null, NaN, or an exponent too large.

    >>> parse_json_line(b'{"step": 3, "loss": 1e999}'), parse_json_line(b'{"step": null}'), parse_json_line(b'{"st')
    ({'step': 3, 'loss': nan}, None, None)
    """
    try:
        number = _number_or_nan
        record = json.loads(line.decode(), parse_constant=number, parse_float=number, parse_int=number)
        _check_depth(record)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(step := record.get("step"), int) or isinstance(step, bool):
        return None
    return {name: math.nan if value is None else value for name, value in record.items()}


def reading(path: Path, remedy: str) -> contextlib.AbstractContextManager[None]:
    """Turn any exception from reading a file into :class:`Unreadable`."""
    # Parsers raise a dozen classes of errors for damaged files, which differ between versions.
    return explained(lambda error: Unreadable(path, reason_of(error), remedy))


def reason_of(error: Exception) -> str:
    """The reason of a failure, as part of a sentence.

    >>> reason_of(PermissionError(13, "Permission denied")), reason_of(KeyError("x")), reason_of(MemoryError())
    ('permission denied', "KeyError: 'x'", 'it does not fit into memory')
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    known = {MemoryError: "it does not fit into memory", RecursionError: "it is nested too deeply"}
    known[UnicodeDecodeError] = "it is not UTF-8"
    known[UnicodeEncodeError] = "it holds text that is not Unicode"
    if type(error) in known:
        return known[type(error)]
    first = next(iter(str(error).strip().splitlines()), "")[:200].rstrip(".")
    plain = bool(first) and isinstance(error, ValueError | OSError | zipfile.BadZipFile)
    return first if plain else f"{type(error).__name__}{': ' * bool(first)}{first}"


def is_there(path: Path) -> bool:
    """Whether a file exists; anything but a regular file is refused."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer
        raise ValueError("it is a directory" if stat.S_ISDIR(mode) else "it is no regular file")
    return True


def _number_or_nan(text: str) -> int | float:
    value = float(text)
    if not math.isfinite(value):
        return math.nan
    return int(text) if text.removeprefix("-").isdecimal() else value


def _finite_number(text: str) -> int | float:
    if math.isnan(value := _number_or_nan(text)):
        raise ValueError(f"it holds {text[:40]}, which is no number of JSON")
    return value


def _check_depth(value: Any, most: int = _JSON_DEPTH) -> None:
    level = [value]
    for _ in range(most):
        inner = (one.values() if isinstance(one, dict) else one if isinstance(one, list) else () for one in level)
        level = [item for items in inner for item in items]
    if level:
        raise RecursionError
