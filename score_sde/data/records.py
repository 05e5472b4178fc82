"""Encoded images or arrays of floats in ArrayRecord files, read and decoded on demand: ``arrayrecord:PATH``.

Only the positions of the records are kept in memory, so that a data set may have any size. Decoding costs about
a fifth of a millisecond per image of 32x32 pixels; ``config.data.workers`` spreads it over processes.
"""

import contextlib
import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.data.base import SPLITS, SourceInfo
from score_sde.data.description import counted, suffixes
from score_sde.data.images import ImageFormat, decode_image, encode_png, image_format
from score_sde.errors import UserError, explained
from score_sde.files import read_arrays, reason_of, replacing

_LABELS = "labels.npz"  # beside the records
_PROBES = 32  # records whose size is compared when a source is opened; the others are checked when read


class RecordSource:
    """A source whose images stay on disk, encoded. A subclass may have records of another kind."""

    def __init__(
        self,
        info: SourceInfo,
        records: Any,
        *,
        image: Callable[[Any], bytes] = bytes,
        label: Callable[[Any], int] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Wrap records; all must be picklable, for the worker processes of a training stream.

        Images have 256 levels. Records have a length and ``__getitems__`` of several positions; ``image`` and ``label``
        find the encoded image and the class (-1 for none) in one.
        """
        self.notes = notes
        self.info = info
        self._records = records
        self._image = image
        self._label = label
        self._labels: np.ndarray | None = None

    def labeled(self, labels: np.ndarray, num_classes: int) -> "RecordSource":
        """The same records with labels from elsewhere, of shape ``(n,)``."""
        info = self.info._replace(num_classes=num_classes)
        source = type(self)(info, self._records, image=self._image, notes=self.notes)
        source._labels = labels.astype(np.int32)
        return source

    def __len__(self) -> int:
        return len(self._records)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """The examples at ``indices``: uint8 ``(n, height, width, channels)``, or float32 ``(n, *shape)``.

        Raises:
            UserError: for an example that is damaged, or differs from the source in size or color.
        """
        dtype = np.float32 if self.info.num_grey_levels is None else np.uint8
        images = np.empty((len(indices), *self.info.shape), dtype)
        for row, (index, record) in enumerate(zip(indices.tolist(), self._read(indices), strict=True)):
            images[row] = self._decode(index, self._image(record))
        return images

    def labels(self, indices: np.ndarray) -> np.ndarray | None:
        """The int32 labels at ``indices``, or None."""
        if self._labels is not None:
            return self._labels[indices]
        if self._label is None:
            return None
        return np.asarray([self._label(record) for record in self._read(indices)], np.int32)

    def _read(self, indices: np.ndarray) -> Sequence[Any]:
        try:
            return self._records.__getitems__(indices.tolist())
        except Exception as error:  # the library does not document its errors for damaged files
            raise UserError(
                f"{self.info.name}: records cannot be read ({reason_of(error)}), expected intact ArrayRecord files "
                "that stay where they are while they are in use. Restore them."
            ) from error

    def _decode(self, index: int, encoded: bytes) -> np.ndarray:
        pixels = decode_image(encoded, self._name(index), self.info.shape[2])
        # A gray image may stand among color images; a color image among gray ones would lose its colors.
        if pixels.shape != self.info.shape or self.info.shape[2] == 1:
            found = image_format(encoded, self._name(index))
            self.check_format(index, found._replace(height=pixels.shape[0], width=pixels.shape[1]))
        return pixels

    def check_format(self, index: int, found: ImageFormat) -> None:
        """Refuse a record whose image has another size than the source, or colors that the source lacks."""
        height, width, channels = self.info.shape
        if (found.height, found.width) != (height, width) or found.channels > channels:
            raise UserError(
                f"{self._name(index)} is {_words(found)}, expected {_words(ImageFormat(height, width, channels))} "
                "(height x width) like the first. Images of one size and kind are needed: resize or crop them, and "
                "write the records anew."
            )

    def _name(self, index: int) -> str:
        return f"Record {index} of {self.info.name}"


class FloatSource(RecordSource):
    """A source of continuous data, whose records are arrays as :func:`numpy.save` writes them."""

    def _decode(self, index: int, encoded: bytes) -> np.ndarray:
        values = decode_floats(encoded, self._name(index))
        if values.shape != self.info.shape:
            raise UserError(
                f"{self._name(index)} has shape {values.shape}, expected {self.info.shape} like the first. Bring the "
                "examples to one shape, and write the records anew."
            )
        return values


def decode_floats(encoded: bytes, name: str) -> np.ndarray:
    """The array in a record, in single precision; nothing is allocated but for the bytes that are there.

    Raises:
        UserError: for a damaged record, and for anything but finite floats of one to four axes.
    """
    stream, floats = io.BytesIO(encoded), "floats of 1 to 4 axes, as numpy.save writes them. Write the record anew."
    with explained(lambda error: UserError(f"{name} cannot be read ({reason_of(error)}), expected {floats}")):
        old = np.lib.format.read_magic(stream) == (1, 0)
        shape, by_column, dtype = (
            np.lib.format.read_array_header_1_0(stream) if old else np.lib.format.read_array_header_2_0(stream)
        )
    if (
        dtype.kind != "f"
        or not 1 <= len(shape) <= 4
        or len(encoded) - stream.tell() != dtype.itemsize * math.prod(shape)
    ):
        held = f"{len(encoded) - stream.tell()} bytes of {dtype} for shape {shape}"
        raise UserError(f"{name} holds {held}, expected {floats}")
    values = np.frombuffer(encoded, dtype, offset=stream.tell()).reshape(shape, order="F" if by_column else "C")
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    if not np.isfinite(single).all():
        raise UserError(f"{name} holds NaN, infinity or numbers beyond float32, expected finite ones. Remove it.")
    return single


def _words(found: ImageFormat) -> str:
    return f"{found.height}x{found.width} in {'gray' if found.channels == 1 else 'color'}"


def load_array_records(path: str, split: str) -> RecordSource:
    """A split of a folder of ArrayRecord files whose records are encoded images (PNG, JPEG or WebP), one each.

    Or they are arrays of floats of one shape, as :func:`numpy.save` writes them: vectors, series, images or volumes.

    The split is ``PATH/train*.array_record*`` or ``PATH/test*.array_record*``, all files of it in the order of their
    names. The first record determines the size; there are 3 channels if any of the checked records has color.
    :func:`write_array_records` writes such files. ``PATH/labels.npz`` may hold the class of every record, integers from
    0, or -1 for none: the arrays ``train`` and ``test``.

    Raises:
        UserError: for a missing folder or split, an empty or damaged file, images that differ in size, or labels that
            are not whole numbers or of another number than the records.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("train.array_record", "test.array_record"):
    ...     _ = write_array_records(folder / name, np.zeros((5, 8, 6, 3), np.uint8))
    >>> source = load_array_records(str(folder), "train")
    >>> len(source), source.gather(np.array([4, 0])).shape
    (5, (2, 8, 6, 3))
    """
    from grain.sources import ArrayRecordDataSource

    name, (files, notes) = f"arrayrecord:{path}", _split_files(Path(path), split)
    listed = ", ".join(file.name for file in files[:3])
    advice = "expected intact ArrayRecord files. Write them anew."
    # The library does not document its errors for damaged files.
    with explained(lambda error: UserError(f"{name}: {listed} cannot be read ({reason_of(error)}), {advice}")):
        records: Any = ArrayRecordDataSource([str(file) for file in files])
        of_floats = len(records) and bytes(records[0]).startswith(np.lib.format.MAGIC_PREFIX)
        source = (_open_floats if of_floats else open_records)(name, records, notes=notes)
    return _with_labels(source, Path(path), split)


def _with_labels(source: RecordSource, root: Path, split: str) -> RecordSource:
    """The source with the labels beside its records, if there are any."""
    path = root / _LABELS
    found = read_arrays(path, SPLITS, remedy="expected an archive of numpy.savez(path, train=..., test=...)")
    if found is None:
        return source
    for name in SPLITS:
        labels = found.get(name, np.zeros(0))
        good = labels.ndim == 1 and labels.dtype.kind in "iu" and labels.size and -1 <= labels.min()
        if not good or labels.max() >= 2**31 or (name == split and len(labels) != len(source)):
            count = f" of shape ({len(source)},)" if name == split else ""
            raise UserError(
                f"{path} holds '{name}' as {labels.dtype} of shape {labels.shape}, expected integers{count}: the class "
                "of every record, from 0, or -1 for none. Write it anew."
            )
    return source.labeled(found[split], 1 + max(int(found[name].max()) for name in SPLITS))


def open_records(
    name: str,
    records: Any,
    *,
    image: Callable[[Any], bytes] = bytes,
    label: Callable[[Any], int] | None = None,
    num_classes: int | None = None,
    notes: tuple[str, ...] = (),
) -> RecordSource:
    """The source of records with the size of the first, after a check of some of the others.

    Raises:
        UserError: if there is no record, or a checked one is not an image, or has another size.
    """
    if not len(records):
        raise UserError(f"{name} holds no record, expected at least one image. Add data.")
    probes = np.unique(np.linspace(0, len(records) - 1, _PROBES).astype(np.int64)).tolist()
    formats = [
        image_format(image(record), f"Record {index} of {name}")
        for index, record in zip(probes, records.__getitems__(probes), strict=True)
    ]
    shape = (formats[0].height, formats[0].width, max(found.channels for found in formats))
    gray = sum(found.channels < shape[2] for found in formats)
    looked_at = f"of {len(probes):,} images looked at"
    mixed = counted(gray, f"{looked_at} is", f"{looked_at} are", "gray, taken as RGB")
    notes = (*notes, mixed) if mixed else notes
    source = RecordSource(SourceInfo(name, shape, 256, num_classes), records, image=image, label=label, notes=notes)
    for index, found in zip(probes, formats, strict=True):
        source.check_format(index, found)
    return source


def _open_floats(name: str, records: Any, *, notes: tuple[str, ...]) -> FloatSource:
    """The source of records of floats with the shape of the first, after a check of some of the others."""
    shape = decode_floats(bytes(records[0]), f"Record 0 of {name}").shape
    source = FloatSource(SourceInfo(name, shape, None, None), records, notes=notes)
    source.gather(np.unique(np.linspace(0, len(records) - 1, _PROBES).astype(np.int64)))
    return source


def _split_files(root: Path, split: str) -> tuple[list[Path], tuple[str, ...]]:
    """The files of a split, in an order independent of the file system; and a description of other files."""
    if not root.is_dir():
        raise UserError(f"arrayrecord:{root}: there is no such folder. Give the path of a folder of ArrayRecord files.")
    pattern = f"{split}*.array_record*"
    files = sorted(root.glob(pattern))
    if not files:
        prepared = (root / "dataset_info.json").is_file()
        advice = "This is a TFDS data set: name it as tfds:NAME." if prepared else "Name the files so, or write some."
        raise UserError(f"arrayrecord:{root} holds no {pattern}, expected at least one such file. {advice}")
    used = {file for name in SPLITS for file in root.glob(f"{name}*.array_record*")} | {root / _LABELS}
    others = [path.name for path in root.iterdir() if path not in used]
    note = counted(len(others), "other file or folder is", "other files and folders are", "ignored")
    return files, (f"{note} ({suffixes(others)})",) if note else ()


def write_array_records(path: str | Path, images: Iterable[np.ndarray | bytes]) -> int:
    """Write examples to one ArrayRecord file, each a record of its own, and return their number.

    Images are uint8 arrays ``(height, width, channels)`` with 1 or 3 channels, which become PNGs, or the bytes of image
    files, which are kept: ``(file.read_bytes() for file in sorted(folder.glob("*.png")))``. Continuous data are arrays
    of floats with 1 to 4 axes. The file is one such as ``FOLDER/train-00000.array_record``.

    Raises:
        UserError: for an array of another kind.
    """
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue] (no stubs)

    count = 0
    with replacing(Path(path)) as partial:
        # Records must be compressed one by one to be read one by one.
        writer: Any = array_record_module.ArrayRecordWriter(str(partial), "group_size:1")
        with contextlib.closing(writer):
            for image in images:
                writer.write(image if isinstance(image, bytes) else _encoded(image, count))
                count += 1
    return count


def _encoded(image: np.ndarray, number: int) -> bytes:
    if image.dtype.kind == "f" and 1 <= image.ndim <= 4:
        stream = io.BytesIO()
        np.save(stream, image.astype(np.float32), allow_pickle=False)
        return stream.getvalue()
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise UserError(
            f"Image {number} is {image.dtype} of shape {image.shape}, expected uint8 of shape (height, width, "
            "channels) with 1 or 3 channels, or floats of 1 to 4 axes. Convert it."
        )
    return encode_png(image)
