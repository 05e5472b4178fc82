"""MNIST, Fashion-MNIST and CIFAR-10 in the TFDS layout, prepared and read without TensorFlow.

The stock builders of tensorflow-datasets need TensorFlow to *prepare* a data set (they read through ``tf.io.gfile``
and encode through ``tf.image``) but not to *read* one in the array_record format. So a small builder that inherits
name, version, features and shuffling from the stock one reads the original files itself and hands over encoded
images; the directory it writes is the standard one, example for example. It is then decoded once into a
memory-mapped array beside it, because decoding an image per example and step is a hundred times slower.
"""

import contextlib
import io
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.data.base import ArraySource, SourceInfo
from score_sde.data.raw_files import RawSplit, read_raw
from score_sde.errors import UserError

TFDS_INFO = {
    "mnist": SourceInfo("mnist", (28, 28, 1), 256, 10),
    "fashion_mnist": SourceInfo("fashion_mnist", (28, 28, 1), 256, 10),
    "cifar10": SourceInfo("cifar10", (32, 32, 3), 256, 10),
}
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_DECODE_CHUNK = 1000


def load_tfds(name: str, split: str, data_dir: str | None) -> ArraySource:
    """A split of a TFDS data set, prepared first if need be: uint8 images and labels, in the order of TFDS.

    Args:
        name: "mnist", "fashion_mnist" or "cifar10".
        split: "train" or "test".
        data_dir: where prepared data sets and original files are; by default ``$TFDS_DATA_DIR``, or
            ``~/tensorflow_datasets``.

    Raises:
        UserError: when the data set is neither prepared nor to be had, when it was prepared in a format that needs
            TensorFlow, or when ``data_dir`` is not writable.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    version = _prepared_version(name, root) or _prepare_locked(name, root)
    cached = [version / "decoded" / f"{split}_{part}.npy" for part in ("images", "labels")]
    arrays = [_read_cached(path) for path in cached]
    images, labels = arrays
    info = TFDS_INFO[name]
    if images is None or labels is None or images.shape != (len(labels), *info.shape):
        images, labels = _decode(name, version, split)
        for path, array in zip(cached, (images, labels), strict=True):
            _write_cached(path, array)
    return ArraySource(info, images, labels)


def _prepared_version(name: str, root: Path) -> Path | None:
    """The directory of the newest prepared version, or None."""
    found = [path.parent for path in (root / name).glob("*/dataset_info.json")]
    return max(found, key=lambda path: [int(n) if n.isdigit() else -1 for n in path.name.split(".")], default=None)


def _prepare_locked(name: str, root: Path) -> Path:
    """Prepare, or wait for another process that is preparing the same data set."""
    raw = read_raw(name, root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f".{name}.lock"):
            version = _prepared_version(name, root)
            return version or _prepare(name, root, raw)
    except OSError as error:
        raise UserError(
            f"{name} could not be prepared in {root} ({error}), expected a writable directory with room for it. Copy "
            "the original files to one and give it as data_dir."
        ) from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock file for as long as the block runs; a process that dies lets go of it."""
    with path.open("w") as handle:
        try:
            import fcntl
        except ImportError:  # Windows has no flock; there, start one process first.
            yield
            return
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _prepare(name: str, root: Path, raw: dict[str, RawSplit]) -> Path:
    """Write the data set in the standard layout: ``root/name/version/``."""
    from tensorflow_datasets.core.registered import skip_registration
    from tensorflow_datasets.image_classification import cifar, mnist

    stock = {"mnist": mnist.MNIST, "fashion_mnist": mnist.FashionMNIST, "cifar10": cifar.Cifar10}[name]

    def split_generators(_builder: object, _dl_manager: object) -> dict[str, Any]:
        return {split: _examples(name, split, arrays) for split, arrays in raw.items()}

    # Registered, the builder would collide with the stock one of the same name.
    with skip_registration():
        attributes = {"__module__": stock.__module__, "name": name, "_split_generators": split_generators}
        builder: Any = type(stock.__name__, (stock,), attributes)(data_dir=str(root), file_format="array_record")
    if name == "cifar10":
        builder.info.features["label"].names = list(CIFAR10_CLASSES)
    builder.download_and_prepare()
    return Path(builder.data_path)


def _examples(name: str, split: str, arrays: RawSplit) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a split. Keys count from 0 as in the stock builders: TFDS shuffles by their hash."""
    for index, (image, label) in enumerate(zip(arrays.images, arrays.labels, strict=True)):
        # Encoded bytes pass through the Image feature untouched; an array would be encoded by TensorFlow.
        record: dict[str, Any] = {"image": io.BytesIO(_png(image)), "label": int(label)}
        if name == "cifar10":
            record["id"] = f"{split}_{index:05d}"
        yield index, record


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)).save(sink, format="PNG")
    return sink.getvalue()


def _decode(name: str, version: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of a prepared split, in its own order."""
    import tensorflow_datasets as tfds

    try:
        builder: Any = tfds.builder_from_directory(str(version))
        return _decode_all(builder.as_data_source(split), TFDS_INFO[name].shape)
    except NotImplementedError as error:
        raise UserError(
            f"{version} was not prepared as array_record, which is what can be read without TensorFlow. Prepare it "
            "again with tfds.builder(..., file_format='array_record'), or give another data_dir."
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{version} cannot be read ({error}), expected an intact data set. Remove that directory; it is then "
            "prepared again from the original files."
        ) from error


def _decode_all(examples: Sequence[Any], shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a TFDS data source, a chunk at a time."""
    images = np.empty((len(examples), *shape), np.uint8)
    labels = np.empty(len(examples), np.uint8)
    for start in range(0, len(examples), _DECODE_CHUNK):
        rows = range(start, min(start + _DECODE_CHUNK, len(examples)))
        # Read in one call, a chunk costs half of what its examples cost one by one.
        for row, example in zip(rows, getattr(examples, "__getitems__")(rows), strict=True):  # noqa: B009
            images[row], labels[row] = example["image"], example["label"]
    return images, labels


def _read_cached(path: Path) -> np.ndarray | None:
    """The array at ``path`` as a memory map, or None if it is missing or was cut short."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def _write_cached(path: Path, array: np.ndarray) -> None:
    """Keep a decoded array for the next run; a read-only directory only costs decoding again."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        try:
            with partial.open("wb") as sink:
                np.save(sink, array, allow_pickle=False)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
