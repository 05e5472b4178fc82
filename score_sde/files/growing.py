"""Files that grow: appended to on disk, and rewritten in a bucket, whose objects cannot be appended to."""

import shutil
import tempfile
import time
import weakref
from pathlib import Path

from score_sde.cluster import is_main
from score_sde.files.buckets import Bucket
from score_sde.files.reading import REMEDY, is_there, reading
from score_sde.files.writing import writing

_SHARE = 0.05  # largest share of the time for rewriting a growing file in a bucket


class Growing:
    """A file that grows.

    Attributes:
        local: The file to read and to append to; for a bucket, a copy on the local disk.
    """

    def __init__(self, path: Path) -> None:
        """Continue an existing file, if there is one."""
        self.path = self.local = path
        self._due = 0.0
        if isinstance(path, Bucket):
            folder = tempfile.mkdtemp()
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self.local = Path(folder, path.name)
            with reading(path, REMEDY):
                if is_there(path):
                    path.download(self.local)

    def append(self, data: bytes) -> None:
        """Append to the file, which need not exist yet."""
        with writing(self.local):
            self.local.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a write that a full disk refused must not be retried when the file is closed.
            with open(self.local, "ab", buffering=0) as file:
                while data:
                    data = data[file.write(data) :]

    def publish(self, *, now: bool = True) -> bool:
        """Write new data to the bucket: now, or when due; returns whether the bucket is up to date."""
        if not isinstance(self.path, Bucket) or not is_main():
            return True
        if not now and time.monotonic() < self._due:
            return False
        began = time.monotonic()
        with writing(self.path):
            self.path.upload(self.local)
        ended = time.monotonic()
        self._due = ended + (ended - began) / _SHARE
        return True
