"""Prepared TFDS data sets: ``tfds:NAME``, read without TensorFlow.

A split of at most a gibibyte is decoded once into a memory-mapped array beside the data set, because decoding an image
per example and step is a hundred times slower; a larger one is read record by record.
"""

import contextlib
import functools
import math
import operator
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.data.base import ArraySource, Source, SourceInfo
from score_sde.data.records import RecordSource, open_records
from score_sde.errors import UserError, explained
from score_sde.files import reason_of, replacing

DECODED_LIMIT = 2**30  # largest number of bytes of a split to decode as a whole

_DECODE_CHUNK = 1000
_SPLITS = {"train": ("train",), "test": ("test", "validation")}  # the first that exists


def load_prepared(name: str, split: str, data_dir: str | None) -> Source:
    """A split of a prepared TFDS data set with images of one size: uint8 images and labels, in the order of TFDS.

    The images are the feature ``image``, or the only image feature; the labels are the feature ``label``, if it is a
    class. Without a test split, ``validation`` replaces it. The notes tell this, and omissions.

    The name may have a configuration and a version, as ``imagenet_resized/32x32``. Data sets lie in ``data_dir``, by
    default ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.

    Raises:
        UserError: when the data set is not prepared there, or not as array_record; when it has no such split, no 8-bit
            image feature, or images that differ in size.
    """
    version = _require_prepared(name, data_root(data_dir))
    found, source = _open_split(name, version, split)
    if len(source) * math.prod(source.info.shape) > DECODED_LIMIT:
        return source
    return decoded_source(source.info, version, found, lambda: source, notes=source.notes)


def prepared_info(name: str, data_dir: str | None) -> SourceInfo:
    """The info that :func:`load_prepared` would give of a data set, without decoding it."""
    _, source = _open_split(name, _require_prepared(name, data_root(data_dir)), "train")
    return source.info


def data_root(data_dir: str | None) -> Path:
    """The directory of TFDS data sets: the one given, else ``$TFDS_DATA_DIR``, else ``~/tensorflow_datasets``."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def prepared_version(name: str, root: Path) -> Path | None:
    """The directory of the newest prepared version, or None."""
    found = [path.parent for path in (root / name).glob("*/dataset_info.json")]
    return max(found, key=lambda path: [int(n) if n.isdigit() else -1 for n in path.name.split(".")], default=None)


def open_split(name: str, version: Path, *splits: str, remedy: str) -> tuple[str, RecordSource]:
    """The first split of a prepared version that exists: its name, and its records with the size of the first.

    The remedy is advice for a directory that cannot be read.

    Raises:
        UserError: for a directory that cannot be read or is not in the array_record format, and for a split or an
            image feature that is missing or unusable.
    """
    import tensorflow_datasets as tfds

    with explained(functools.partial(_unreadable, version, remedy)):
        builder: Any = tfds.builder_from_directory(str(version))
        split = next((name for name in splits if name in builder.info.splits), None)
        if split is None:
            raise UserError(
                f"{version} has the splits {sorted(builder.info.splits)}, expected {' or '.join(splits)}. Choose a "
                "data set that has one, or prepare another version."
            )
        features = dict(builder.info.features)
        image, label = _image_feature(features, version), features.get("label")
        labeled = isinstance(label, tfds.features.ClassLabel)
        others = set(features) - {image, *["label"] * labeled}
        # Only the requested images are decoded, and by this package, which can name the fault of one that does not fit.
        encoded = {k: tfds.decode.SkipDecoding() for k, v in features.items() if isinstance(v, tfds.features.Image)}
        source = open_records(
            name,
            builder.as_data_source(split, decoders=encoded),
            image=operator.itemgetter(image),
            label=operator.itemgetter("label") if labeled else None,
            num_classes=label.num_classes if labeled else None,
            notes=_notes(split, splits[0], set(builder.info.splits), others),
        )
        return split, source


def _unreadable(version: Path, remedy: str, error: Exception) -> UserError:
    """The error, with advice, for an exception of TFDS over a directory; it documents none for damaged ones."""
    if not isinstance(error, NotImplementedError):
        return UserError(f"{version} cannot be read ({reason_of(error)}), expected an intact data set. {remedy}")
    return UserError(
        f"{version} was not prepared as array_record, which is what can be read without TensorFlow. Prepare it "
        "again with tfds.builder(..., file_format='array_record'), or give another data_dir."
    )


def _notes(split: str, wanted: str, splits: set[str], features: set[str]) -> tuple[str, ...]:
    unused = splits - {next((name for name in names if name in splits), "") for names in _SPLITS.values()}
    listed = ((unused, "the split", "the splits"), (features, "the feature", "the features"))
    left_out = [
        f"{one if len(names) == 1 else many} {', '.join(sorted(names))} {'is' if len(names) == 1 else 'are'} left out"
        for names, one, many in listed
        if names
    ]
    stands_in = [f"there is no {wanted} split, and its {split} split stands in"] if split != wanted else []
    return (*stands_in, *left_out)


def decoded_source(
    info: SourceInfo,
    version: Path,
    split: str,
    records: Callable[[], RecordSource],
    *,
    notes: tuple[str, ...] = (),
) -> ArraySource:
    """A split as one array, decoded the first time and kept beside the data set.

    ``info`` and ``notes`` are the known content and omissions of the split; ``records`` opens the records, if
    necessary.

    Raises:
        UserError: as for the records, and if they disagree with ``info``.
    """
    paths = [version / "decoded" / f"{split}_{part}.npy" for part in ("images", "labels")]
    images, labels = (_read_cached(path) for path in paths)
    if images is None or labels is None or not _fit(images, labels, info):
        source = records()
        if source.info.shape != info.shape:
            raise UserError(f"{version} holds images of shape {source.info.shape}, expected {info.shape}. Remove it.")
        images, labels = _decode_all(source)
        for path, array in zip(paths, (images, labels), strict=True):
            _write_cached(path, array)
    return ArraySource(info, images, None if info.num_classes is None else labels, notes=notes)


def _read_cached(path: Path) -> np.ndarray | None:
    """The array at ``path`` as a memory map, or None if it is missing or damaged and must be made again."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # a damaged header makes numpy raise almost anything
        return None
    return found if isinstance(found, np.ndarray) else None


def _write_cached(path: Path, array: np.ndarray) -> None:
    """Keep a decoded array for the next run; a read-only directory only costs decoding again."""
    with contextlib.suppress(OSError), replacing(path) as partial, partial.open("wb") as sink:
        np.save(sink, array, allow_pickle=False)


def _fit(images: np.ndarray, labels: np.ndarray, info: SourceInfo) -> bool:
    return images.dtype == np.uint8 and labels.ndim == 1 and images.shape == (len(labels), *info.shape)


def _decode_all(source: RecordSource) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of a source, a chunk at a time."""
    images = np.empty((len(source), *source.info.shape), np.uint8)
    labels = np.full(len(source), -1, np.int32)
    for start in range(0, len(source), _DECODE_CHUNK):
        rows = np.arange(start, min(start + _DECODE_CHUNK, len(source)))
        images[rows], found = source.gather(rows), source.labels(rows)
        if found is not None:
            labels[rows] = found
    return images, labels


def _open_split(name: str, version: Path, split: str) -> tuple[str, RecordSource]:
    remedy = f"Remove that directory and prepare it again: {_how_to_prepare(name)}"
    return open_split(f"tfds:{name}", version, *_SPLITS[split], remedy=remedy)


def _require_prepared(name: str, root: Path) -> Path:
    """The directory of a data set, which may be named with its version."""
    if (root / name / "dataset_info.json").is_file():
        return root / name
    version = prepared_version(name, root)
    if version is not None:
        return version
    configs = sorted({path.parent.parent.relative_to(root).as_posix() for path in root.glob(f"{name}/*/*/*_info.json")})
    choice = f" Prepared are its configurations {', '.join(f'tfds:{config}' for config in configs)}." if configs else ""
    raise UserError(
        f"tfds:{name} is not prepared in {root}, expected {root / name / 'VERSION' / 'dataset_info.json'}.{choice} "
        f"Give another config.data.data_dir, or prepare it where TensorFlow is installed: {_how_to_prepare(name)}"
    )


def _how_to_prepare(name: str) -> str:
    return f"tfds.builder('{name}', data_dir=..., file_format='array_record').download_and_prepare()"


def _image_feature(features: dict[str, Any], version: Path) -> str:
    import tensorflow_datasets as tfds

    names = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
    name = "image" if "image" in names else names[0] if len(names) == 1 else None
    if name is None:
        raise UserError(
            f"{version} has the image features {names} among {sorted(features)}, expected one called 'image', or only "
            "one. Choose another data set."
        )
    if features[name].np_dtype != np.uint8 or features[name].shape[2] not in (1, 3, None):
        raise UserError(
            f"{version}: the feature '{name}' is {np.dtype(features[name].np_dtype)} of shape {features[name].shape}, "
            "expected uint8 of shape (height, width, channels) with 1 or 3 channels. Choose another data set."
        )
    return name
