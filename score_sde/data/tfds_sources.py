"""MNIST, Fashion-MNIST and CIFAR-10 in the TFDS layout, prepared and read without TensorFlow.

The stock builders of tensorflow-datasets need TensorFlow to *prepare* a data set (they read through ``tf.io.gfile``
and encode through ``tf.image``) but not to *read* one in the array_record format. So a small builder that inherits
name, version, features and shuffling from the stock one reads the original files itself and hands over encoded
images; the directory it writes is the standard one, example for example.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from score_sde.data.base import ArraySource, SourceInfo
from score_sde.data.images import encode_png
from score_sde.data.raw_files import RawSplit, read_raw
from score_sde.data.tfds_prepared import data_root, decoded_source, open_split, prepared_version
from score_sde.errors import UserError

TFDS_INFO = {
    "mnist": SourceInfo("mnist", (28, 28, 1), 256, 10),
    "fashion_mnist": SourceInfo("fashion_mnist", (28, 28, 1), 256, 10),
    "cifar10": SourceInfo("cifar10", (32, 32, 3), 256, 10),
}
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CLASSES = {"cifar10": CIFAR10_CLASSES}


def load_tfds(name: str, split: str, data_dir: str | None) -> ArraySource:
    """A split of a TFDS data set, prepared first if necessary: uint8 images and labels, in the order of TFDS.

    Data sets and original files lie in ``data_dir``, by default ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.

    Raises:
        UserError: when the data set is neither prepared nor obtainable, when it was prepared in a format that needs
            TensorFlow, or when ``data_dir`` is not writable.
    """
    root = data_root(data_dir)
    version = prepared_version(name, root) or _prepare_locked(name, root)
    remedy = "Remove that directory; it is then prepared again from the original files."
    opened = decoded_source(TFDS_INFO[name], version, split, lambda: open_split(name, version, split, remedy=remedy)[1])
    opened.classes = _CLASSES.get(name, ())
    return opened


def _prepare_locked(name: str, root: Path) -> Path:
    """Prepare, or wait for another process that is preparing the same data set."""
    raw = read_raw(name, root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root / f".{name}.lock"):
            version = prepared_version(name, root)
            return version or _prepare(name, root, raw)
    except OSError as error:
        raise UserError(
            f"{name} could not be prepared in {root} ({error}), expected a writable directory with room for it. Copy "
            "the original files to one and give it as data_dir."
        ) from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock file while the block runs; a process that dies releases it."""
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
        record: dict[str, Any] = {"image": io.BytesIO(encode_png(image)), "label": int(label)}
        if name == "cifar10":
            record["id"] = f"{split}_{index:05d}"
        yield index, record
