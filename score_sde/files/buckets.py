"""Directories in buckets, such as ``gs://bucket/runs/a``, under the calls of :mod:`pathlib`.

An object appears as a whole once it is written; it can be neither appended to nor renamed. Directories exist only while
something lies below them, and need not be created.
"""

import contextlib
import fnmatch
import os
import pathlib
import stat
import tempfile
from collections.abc import Iterator
from typing import Any

import fsspec
from etils.epath import backend, gpath

from score_sde.errors import UserError
from score_sde.files.reading import reason_of

#: The packages of fsspec's drivers, by the URL scheme of a working directory.
DRIVERS = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}


class Bucket(gpath.PosixGPath, pathlib.PosixPath):  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
    """A path in a bucket: an etils path that is also an instance of :class:`pathlib.Path`.

    >>> Bucket("gs://bucket/runs") / "a", isinstance(Bucket("s3://bucket"), pathlib.Path)
    (Bucket('gs://bucket/runs/a'), True)
    """

    @property
    def _backend(self) -> Any:
        """The calls of fsspec, without cached listings, since others write to the bucket too."""
        backend.fsspec_backend.fs(self).invalidate_cache()
        return backend.fsspec_backend

    @property
    def _driver(self) -> Any:
        return self._backend.fs(self)

    def absolute(self) -> "Bucket":
        """The path itself."""
        return self

    def resolve(self, strict: bool = False) -> "Bucket":
        """The path itself."""
        return self

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Kind and size, as for a file."""
        found = super().stat()
        kind = stat.S_IFDIR if found.is_directory else stat.S_IFREG
        return os.stat_result((kind, *5 * (0,), found.length or 0, *3 * (found.mtime,)))

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        return self._driver.isfile(str(self))

    def glob(self, pattern: str) -> Iterator["Bucket"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The paths below that match a pattern, which may have several parts."""
        first, _, rest = pattern.partition("/")
        for path in sorted(self.iterdir()) if self.is_dir() else ():
            if fnmatch.fnmatchcase(path.name, first):
                yield from path.glob(rest) if rest else (path,)

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing to do: directories need not be created."""

    def replace(self, target: os.PathLike[str]) -> "Bucket":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move this object, or all objects below, to another path in the bucket, by copy and removal."""
        for name, rest in self._objects():
            self._driver.mv(name, f"{target}{rest}")
        return type(self)(target)

    def create(self, data: bytes) -> None:
        """Write a new object.

        Raises:
            FileExistsError: If the object exists.
        """
        self._driver.pipe_file(str(self), data, mode="create")

    def upload(self, source: pathlib.Path, *, last: str | None = None) -> None:
        """Upload a local file, or the files of a directory, with the file ``last`` as the final one."""
        files = sorted((path for path in source.rglob("*") if path.is_file()), key=lambda path: path.name == last)
        if not files:
            self._driver.put_file(str(source), str(self))
        for path in files:
            self._driver.put_file(str(path), str(self / path.relative_to(source).as_posix()))

    def download(self, target: pathlib.Path) -> None:
        """Download this object, or all objects below, to the local disk."""
        for name, rest in self._objects():
            place = pathlib.Path(f"{target}{rest}")
            place.parent.mkdir(parents=True, exist_ok=True)
            self._driver.get_file(name, str(place))

    def _objects(self) -> list[tuple[str, str]]:
        """The objects here and below: driver names, and names relative to this path."""
        here = self._driver._strip_protocol(str(self))
        return [(name, name.removeprefix(here)) for name in self._driver.find(str(self))]


def check_bucket(text: str, name: str) -> None:
    """Check that a bucket can be used.

    Errors call its flag ``name``.

    Raises:
        UserError: If the kind of bucket is unknown, its driver is not installed, or it does not respond.
    """
    scheme, _, inside = text.partition("://")
    if scheme not in DRIVERS or not inside.strip("/"):
        known = " or ".join(f"{scheme}://BUCKET/PATH" for scheme in DRIVERS)
        raise UserError(f"{name} is '{text}'; expected a path in a file system, or {known}.")
    try:
        fsspec.get_filesystem_class("gcs" if scheme == "gs" else scheme)
    except ImportError as error:
        package = DRIVERS[scheme]
        raise UserError(f"{name} is '{text}', and {scheme}:// needs a driver: pip install {package}.") from error
    try:
        with contextlib.suppress(FileNotFoundError):  # nothing exists there yet
            next(Bucket(text).iterdir(), None)
    except Exception as error:
        raise UserError(
            f"{name} is '{text}', which cannot be reached ({reason_of(error)}); mend the name, or your credentials."
        ) from error


def failures(path: pathlib.Path) -> tuple[type[Exception], ...]:
    """The exceptions of refused reads and writes; bucket drivers have their own."""
    return (Exception,) if isinstance(path, Bucket) else (OSError,)


@contextlib.contextmanager
def fetched(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A local directory or file: the path itself, or a copy from its bucket for the duration of the block."""
    if not isinstance(path, Bucket):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        path.download(target := pathlib.Path(folder, path.name))
        yield target
