"""A bucket for tests: ``gs://`` is a directory of this disk, under the rules of object stores."""

import contextlib
import io
import os
import shutil
import tempfile
from pathlib import Path

from etils.epath import backend
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry

from score_sde.files import Bucket


class Written(io.BytesIO):
    """An object that is being written, which nobody sees before it is closed."""

    def __init__(self, objects, path):
        super().__init__()
        self.objects, self.path = objects, path

    def close(self):
        if not self.closed:
            with tempfile.NamedTemporaryFile() as file:
                file.write(self.getvalue())
                file.flush()
                self.objects.put_file(file.name, self.path)
        super().close()


class Objects(DirFileSystem):
    """Objects that appear when they are closed; directories that are there while something lies below them."""

    protocol = ("gs", "gcs")
    cachable = False
    root = ""

    def __init__(self, **_):
        super().__init__(self.root, LocalFileSystem(auto_mkdir=True))

    def mkdir(self, path, *_, **__):
        pass

    makedirs = mkdir

    def open(self, path, mode="rb", **keywords):
        assert mode in ("rb", "wb", "xb", "r", "w"), f"no object store opens an object with mode {mode}"
        if mode == "wb":
            return Written(self, path)
        return io.TextIOWrapper(Written(self, path)) if mode == "w" else super().open(path, mode, **keywords)

    def put_file(self, source, target):
        place = Path(self._join(target))
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f"{self.root}.")
        os.close(descriptor)
        os.replace(shutil.copyfile(source, name), place)

    def mv(self, source, *arguments, **keywords):
        if self.isdir(source):
            raise FileNotFoundError(source)
        super().mv(source, *arguments, **keywords)
        self._forget_empty()

    def rm(self, *arguments, **keywords):
        super().rm(*arguments, **keywords)
        self._forget_empty()

    def _forget_empty(self):
        for folder, _, _ in os.walk(self.root, topdown=False):
            if folder != self.root and not os.listdir(folder):
                os.rmdir(folder)


@contextlib.contextmanager
def opened(folder):
    """A bucket whose objects lie below a folder."""
    forget = backend._FileSystemSpecBackend._get_filesystem.cache_clear
    folder.mkdir()
    forget()
    before = _registry.get("gcs")
    Objects.root, _registry["gcs"] = str(folder), Objects
    try:
        yield Bucket("gs://bucket")
    finally:
        forget()
        del _registry["gcs"]
        if before is not None:
            _registry["gcs"] = before
