"""The original files of MNIST, Fashion-MNIST and CIFAR-10: found, fetched, verified and parsed, stdlib only.

The *uncompressed* content is verified, so that a recompressed file, such as the one a Linux distribution packages, is
accepted like the published one, and nothing else is.
"""

import gzip
import hashlib
import http.client
import io
import shutil
import struct
import tarfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np

from score_sde.errors import UserError
from score_sde.files import reason_of, replacing

_TIMEOUT_SECONDS = 20
_MOST_BYTES = 2**26  # of an uncompressed file; the largest published file has 47 million bytes


class RawFile(NamedTuple):
    """A published file: its address, its size, and the digests of the file and of its content."""

    name: str
    url: str
    size: int
    md5: str
    content_md5: str


class RawSplit(NamedTuple):
    """One split: uint8 images ``(n, height, width, channels)`` and uint8 labels ``(n,)``, in the original order."""

    images: np.ndarray
    labels: np.ndarray


_CIFAR_TRAIN = tuple(f"cifar-10-batches-bin/data_batch_{k}.bin" for k in range(1, 6))
_CIFAR_TEST = ("cifar-10-batches-bin/test_batch.bin",)


def _idx_files(url: str, *published: tuple[int, str, str]) -> tuple[RawFile, ...]:
    """The four files of an MNIST-like set, from the (size, MD5, content MD5) of each."""
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    names = [f"{part}-ubyte.gz" for part in parts]
    return tuple(RawFile(name, url + name, *row) for name, row in zip(names, published, strict=True))


RAW_FILES: dict[str, tuple[RawFile, ...]] = {
    "mnist": _idx_files(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        (9912422, "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
        (28881, "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
        (1648877, "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
        (4542, "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
    ),
    "fashion_mnist": _idx_files(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (26421880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        (29515, "25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
        (4422102, "bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
        (5148, "bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
    ),
    # The content of the archive is its six .bin files joined in order, training batches first.
    "cifar10": (
        RawFile(
            "cifar-10-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            170052171,
            "c32a1d4ab5d03f1284b67883e8d87530",
            "3b791db1eb8a35b4f03b44faab0d7560",
        ),
    ),
}


def read_raw(name: str, data_dir: Path) -> dict[str, RawSplit]:
    """Both splits of a data set from its original files, which are downloaded if they are not in ``data_dir``.

    Searched are ``data_dir`` and its ``<name>/``, ``downloads/manual/<name>/`` and ``downloads/manual/``.

    Raises:
        UserError: for a damaged file, or when a file is missing and cannot be downloaded.
    """
    contents = [_content(name, file, data_dir) for file in RAW_FILES[name]]
    if name == "cifar10":
        records = np.frombuffer(contents[0], np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        num_train = len(records) * len(_CIFAR_TRAIN) // (len(_CIFAR_TRAIN) + len(_CIFAR_TEST))
        return {
            "train": RawSplit(images[:num_train], records[:num_train, 0]),
            "test": RawSplit(images[num_train:], records[num_train:, 0]),
        }
    arrays = [parse_idx(content) for content in contents]
    return {
        "train": RawSplit(arrays[0][..., None], arrays[1]),
        "test": RawSplit(arrays[2][..., None], arrays[3]),
    }


def parse_idx(content: bytes) -> np.ndarray:
    """A uint8 array in LeCun's idx format: two zeros, the type 8, the rank, the sizes, the values.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9])).tolist()
    [7, 8, 9]
    """
    rank = content[3]
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _content(name: str, file: RawFile, data_dir: Path) -> bytes:
    """The verified content of a raw file, wherever it lies."""
    manual = data_dir / "downloads" / "manual"
    places = [folder / file.name for folder in (data_dir / name, data_dir, manual / name, manual)]
    found = [place for place in places if place.is_file()]
    for place in found:
        content = _verified(place, file)
        # MNIST and Fashion-MNIST share their file names, so the wrong one may come first in a shared folder.
        if content is not None:
            return content
    if found:
        raise UserError(
            f"{found[0]} is not the {name} file: it has {found[0].stat().st_size} bytes and is truncated, damaged or "
            f"of another data set, expected the published {file.size} bytes (MD5 {file.md5}). Remove it and fetch "
            f"{file.url} again."
        )
    return _download(name, file, manual / name)


def _verified(path: Path, file: RawFile) -> bytes | None:
    """The uncompressed content of ``path``, or None if it differs from the content of ``file``."""
    try:
        if file.name.endswith(".tar.gz"):
            content = _untar(path)
        else:
            with gzip.open(path) as stream:
                content = stream.read(_MOST_BYTES)
    except gzip.BadGzipFile:
        return None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({reason_of(error)}), expected a readable file. Check its permissions."
        ) from error
    except Exception:  # any of a dozen classes, by the place of the damage
        return None
    return content if hashlib.md5(content, usedforsecurity=False).hexdigest() == file.content_md5 else None


def _untar(path: Path) -> bytes:
    joined = io.BytesIO()
    with tarfile.open(path, "r:gz") as archive:
        for member in (*_CIFAR_TRAIN, *_CIFAR_TEST):
            stream = archive.extractfile(member)
            if stream is None:
                raise KeyError(member)
            joined.write(stream.read(_MOST_BYTES))
    return joined.getvalue()


def _download(name: str, file: RawFile, folder: Path) -> bytes:
    """Fetch a raw file into ``folder``; nothing is left there unless it is complete and correct."""
    try:
        with replacing(folder / file.name) as partial:
            with partial.open("wb") as sink, urllib.request.urlopen(file.url, timeout=_TIMEOUT_SECONDS) as response:
                shutil.copyfileobj(response, sink)
            if (content := _verified(partial, file)) is None:
                raise UserError(_missing(name, folder, f"{file.url} sent something other than the published file"))
        return content
    # OSError covers an unwritable folder, no network, a refused connection and a time-out alike.
    except (OSError, http.client.HTTPException) as error:
        raise UserError(_missing(name, folder, f"fetching {file.url} failed: {error}")) from error


def _missing(name: str, folder: Path, reason: str) -> str:
    listing = "\n".join(f"  {file.name}  {file.size} bytes  MD5 {file.md5}  {file.url}" for file in RAW_FILES[name])
    return (
        f"The data set {name} is not there and could not be had ({reason}). Put the original files\n{listing}\n"
        f"into {folder} (or straight into the data directory) and start again; nothing else is needed."
    )
