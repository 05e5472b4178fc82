"""Paths as people type them, and the configurations that come with the package."""

import os
import re
import sys
import urllib.parse
from pathlib import Path

from score_sde.errors import UserError, nearest
from score_sde.fields import FIELDS, Settings
from score_sde.fields.kinds import Path as Place
from score_sde.fields.settings import leaves

#: Fields of a configuration that name a place in the file system.
PLACES = tuple(name for name, kind in FIELDS.items() if isinstance(kind, Place))
#: The prefix of a path in ``data.name``.
DATA = ("npz:", "folder:", "arrayrecord:")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


def typed(text: str, name: str, *, bucket: bool = False) -> str:
    """The intended path: ``~``, ``$VARIABLE`` and ``file://`` are replaced, since a shell does so only in places.

    Errors call the flag or field ``name``. A path may be in a ``bucket``, which must then be accessible.

    Raises:
        UserError: If it is empty, or names an unknown home, an unset variable, or a bucket where none is accepted.

    >>> typed("file:///data/my%20run", "--workdir"), typed("runs/a b/", "--workdir")
    ('/data/my run', 'runs/a b/')
    """
    if not text.strip():
        raise UserError(f"{name} is empty; expected a path, such as {name}=runs/digits.")
    if "\0" in text:
        raise UserError(f"{name} holds a zero byte, which no path can.")
    if (scheme := _SCHEME.match(text)) is not None and bucket and scheme[1].lower() != "file":
        from score_sde.files import check_bucket

        check_bucket(text, name)
        return text
    if scheme is not None:
        text = _without_scheme(text, scheme[1].lower(), name)
    if "$" in text and not os.path.lexists(text):
        text = _with_variables(text, name)
    found = os.path.expanduser(text)
    if found.startswith("~") and not os.path.lexists(found):
        raise UserError(f"{name} is '{text}', and there is no such home directory; give the whole path.")
    _check_characters(found, name)
    return found


def place(text: str) -> Path:
    """The directory of a path that :func:`typed` has given, on a disk or in a bucket."""
    if _SCHEME.match(text) is None:
        return Path(text)
    from score_sde.files import Bucket

    return Bucket(text)


def whole(text: str) -> str:
    """The path made absolute, so that it does not depend on the working directory.

    >>> whole("gs://bucket/runs/a")
    'gs://bucket/runs/a'
    """
    return os.path.abspath(text) if _SCHEME.match(text) is None else str(place(text))


def _check_characters(path: str, name: str) -> None:
    """Refuse a path that is not Unicode text: the libraries that write checkpoints cannot take it."""
    try:
        whole = os.path.abspath(path)
    except OSError as error:
        raise UserError("The current directory no longer exists; change to another one.") from error
    try:
        whole.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name} means {whole!a}, and these bytes are not valid {sys.getfilesystemencoding()}. Give another path; "
            "if the name is in UTF-8, set LC_ALL=C.UTF-8 and unset PYTHONUTF8."
        ) from error


def _without_scheme(text: str, scheme: str, name: str) -> str:
    if scheme != "file":
        raise UserError(
            f"{name} is '{text}'; expected a path in a file system. {scheme}:// is not supported. "
            "Mount the bucket, with gcsfuse or the like, or copy its files."
        )
    parts = urllib.parse.urlsplit(text)
    if parts.netloc not in ("", "localhost"):
        raise UserError(f"{name} is '{text}', a file of the machine {parts.netloc}; expected one of this machine.")
    return urllib.parse.unquote(parts.path)


def _with_variables(text: str, name: str) -> str:
    for found in _VARIABLE.findall(text):
        if found.strip("{}") not in os.environ:
            raise UserError(f"{name} is '{text}', and the environment variable {found.strip('{}')} is not set.")
    return os.path.expandvars(text)


def typed_fields(config: Settings) -> Settings:
    """The configuration with :func:`typed` paths replaced by the intended ones."""
    given = leaves(config)
    found = {field: typed(given[field], f"config.{field}") for field in PLACES if given[field]}
    kind = next((kind for kind in DATA if config.data.name.startswith(kind)), None)
    if kind is not None:
        found["data.name"] = kind + typed(config.data.name.removeprefix(kind), f"{kind}PATH in config.data.name")
    return config.with_fields(found)


def shipped() -> Path:
    """The folder of the shipped configurations: inside the package when installed, beside it in a repository."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "configs"


def config_file(text: str) -> Path:
    """The file that ``--config`` names: an existing file, else a configuration that comes with the package.

    Shipped configurations may be named with or without the folder ``configs/``, and with or without ``.py``.

    Raises:
        UserError: If there is neither; with the nearest name of either kind.

    >>> config_file("vp/toy_mlp").name, config_file("configs/vp/toy_mlp.py").name
    ('toy_mlp.py', 'toy_mlp.py')
    """
    path = Path(typed(text, "--config"))
    if path.is_file():
        return path
    inner = path.relative_to("configs") if path.is_relative_to("configs") else path
    known = {file.relative_to(shipped()).with_suffix("").as_posix(): file for file in shipped().rglob("*.py")}
    if (file := known.get(inner.with_suffix("").as_posix())) is not None and path.suffix in ("", ".py"):
        return file
    beside = sorted(str(file) for file in path.parent.glob("*.py")) if path.parent.is_dir() else []
    raise UserError(f"There is no config file {path}.{nearest(str(path), beside) or nearest(inner.as_posix(), known)}")
