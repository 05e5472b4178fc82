"""TFDS data sets prepared without TensorFlow equal the original files, and bad files are told apart from good ones."""

import gzip
import hashlib
import struct
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_sde.data import check_images, load_source, raw_files, source_info, tfds_sources
from score_sde.data.base import Source
from score_sde.errors import UserError

REAL_MNIST = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"


def _all(source: Source) -> np.ndarray:
    return source.gather(np.arange(len(source)))


def _labels(source: Source) -> np.ndarray:
    labels = source.labels(np.arange(len(source)))
    assert labels is not None
    return labels


def _rows(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    """Labelled examples as something that can be sorted and compared as a multiset."""
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def _idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A data directory with four small files in the format of MNIST, and what is in them."""
    random = np.random.RandomState(0)
    arrays, published = {}, []
    for file in raw_files.RAW_FILES["mnist"]:
        n = 40 if file.name.startswith("train") else 15
        values = random.randint(0, 256, size=(n, 28, 28)) if "images" in file.name else random.randint(0, 10, size=n)
        arrays[file.name] = values.astype(np.uint8)
        content = _idx(arrays[file.name])
        path = tmp_path / file.name
        path.write_bytes(gzip.compress(content))
        published.append(file._replace(size=path.stat().st_size, content_md5=hashlib.md5(content).hexdigest()))
    unreachable = [file._replace(url=(tmp_path / "mirror" / file.name).as_uri()) for file in published]
    monkeypatch.setitem(raw_files.RAW_FILES, "mnist", tuple(unreachable))
    return arrays


def _assert_is_mnist(data_dir: Path, arrays: dict[str, np.ndarray]) -> None:
    for split, prefix in (("train", "train"), ("test", "t10k")):
        source = load_source("mnist", split, data_dir=str(data_dir))
        check_images(_all(source), source.info)
        expected = arrays[f"{prefix}-images-idx3-ubyte.gz"][..., None], arrays[f"{prefix}-labels-idx1-ubyte.gz"]
        assert _rows(_all(source), _labels(source)) == _rows(*expected)


def test_mnist_is_prepared_from_the_original_files_and_read_back(
    tmp_path: Path, small_mnist: dict[str, np.ndarray]
) -> None:
    import tensorflow_datasets as tfds

    _assert_is_mnist(tmp_path, small_mnist)
    # The result is the standard layout: the stock reader finds it and sees the same examples in the same order.
    stock: Any = tfds.data_source("mnist", split="train", data_dir=str(tmp_path), download=False)
    ours = load_source("mnist", "train", data_dir=str(tmp_path))
    np.testing.assert_array_equal(np.stack([example["image"] for example in stock]), _all(ours))
    np.testing.assert_array_equal([example["label"] for example in stock], _labels(ours))
    assert "tensorflow" not in sys.modules
    # Once prepared, neither the original files nor an intact cache are needed.
    for path in tmp_path.glob("*.gz"):
        path.unlink()
    cached = next(tmp_path.rglob("train_images.npy"))
    cached.write_bytes(cached.read_bytes()[:500])
    next(tmp_path.rglob("test_labels.npy")).unlink()
    _assert_is_mnist(tmp_path, small_mnist)


def test_a_prepared_data_set_that_cannot_be_read_says_so(tmp_path: Path, small_mnist: dict[str, np.ndarray]) -> None:
    _assert_is_mnist(tmp_path, small_mnist)
    info = next(tmp_path.rglob("dataset_info.json"))
    for path in tmp_path.rglob("*.npy"):
        path.unlink()
    record = next(tmp_path.rglob("mnist-train.array_record*"))
    record.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"cannot be read.*Remove that directory"):
        load_source("mnist", "train", data_dir=str(tmp_path))
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(UserError, match=r"not prepared as array_record.*file_format='array_record'"):
        load_source("mnist", "train", data_dir=str(tmp_path))


def test_a_damaged_original_file_is_named_with_its_size(tmp_path: Path, small_mnist: dict[str, np.ndarray]) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for damaged in (whole[:1000], gzip.compress(_idx(small_mnist[path.name] // 2)), b"<html>404</html>"):
        path.write_bytes(damaged)
        with pytest.raises(UserError) as caught:
            load_source("mnist", "train", data_dir=str(tmp_path))
        for word in (str(path), f"{len(damaged)} bytes", f"{len(whole)} bytes", "f68b3c2dcbeaaa9fbdd348bbdeb94873"):
            assert word in str(caught.value)
    # The right file elsewhere wins over a wrong one of the same name, which may be that of another data set.
    (tmp_path / "downloads" / "manual").mkdir(parents=True)
    (tmp_path / "downloads" / "manual" / path.name).write_bytes(whole)
    _assert_is_mnist(tmp_path, small_mnist)


def test_missing_files_are_fetched_or_listed(tmp_path: Path, small_mnist: dict[str, np.ndarray]) -> None:
    mirror, data_dir = tmp_path / "mirror", tmp_path / "data"
    with pytest.raises(UserError) as caught:
        load_source("mnist", "train", data_dir=str(data_dir))
    for file in raw_files.RAW_FILES["mnist"]:
        for word in (file.name, f"{file.size} bytes", file.md5, file.url, str(data_dir / "downloads" / "manual")):
            assert word in str(caught.value)
    mirror.mkdir()
    for path in tmp_path.glob("*.gz"):
        path.rename(mirror / path.name)
    broken = mirror / "t10k-labels-idx1-ubyte.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:20])
    with pytest.raises(UserError, match="sent something other than the published file"):
        load_source("mnist", "train", data_dir=str(data_dir))
    assert not list(data_dir.rglob("*.part")) and not list(data_dir.rglob(broken.name))
    broken.write_bytes(whole)
    _assert_is_mnist(data_dir, small_mnist)


def test_cifar10_is_prepared_from_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow_datasets as tfds

    images = np.random.RandomState(0).randint(0, 256, size=(24, 3, 32, 32)).astype(np.uint8)
    labels = (np.arange(24) % 10).astype(np.uint8)
    records = np.concatenate([labels[:, None], images.reshape(24, -1)], axis=1)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    names = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
    for name, part in zip(names, np.split(records, 6), strict=True):
        (folder / name).write_bytes(part.tobytes())
    archive = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    (file,) = raw_files.RAW_FILES["cifar10"]
    content_md5 = hashlib.md5(records.tobytes()).hexdigest()
    monkeypatch.setitem(raw_files.RAW_FILES, "cifar10", (file._replace(content_md5=content_md5),))

    nhwc = images.transpose(0, 2, 3, 1)
    for split, part in (("train", slice(0, 20)), ("test", slice(20, 24))):
        source = load_source("cifar10", split, data_dir=str(tmp_path))
        assert _rows(_all(source), _labels(source)) == _rows(nhwc[part], labels[part])
    stock: Any = tfds.data_source("cifar10", split="test", data_dir=str(tmp_path), download=False)
    assert stock.dataset_info.features["label"].names == list(tfds_sources.CIFAR10_CLASSES)
    for example in stock:
        number = int(example["id"].decode().removeprefix("test_"))
        np.testing.assert_array_equal(example["image"], nhwc[20 + number])
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"{archive}.*{len(whole) // 2} bytes.*expected the published 170052171"):
        raw_files.read_raw("cifar10", tmp_path)


@pytest.mark.skipif(not REAL_MNIST.is_dir(), reason=f"the original MNIST files are not in {REAL_MNIST}")
def test_the_original_mnist_files_are_recognized() -> None:
    raw = raw_files.read_raw("mnist", REAL_MNIST)
    assert raw["train"].images.shape == (60_000, 28, 28, 1) and raw["test"].images.shape == (10_000, 28, 28, 1)
    assert np.bincount(raw["test"].labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # The mean and standard deviation everybody normalizes MNIST by.
    pixels = raw["train"].images / 255.0
    assert (round(float(pixels.mean()), 4), round(float(pixels.std()), 4)) == (0.1307, 0.3081)


@pytest.mark.long
@pytest.mark.skipif(not REAL_MNIST.is_dir(), reason=f"the original MNIST files are not in {REAL_MNIST}")
def test_the_whole_of_mnist_through_the_builder_equals_the_files(tmp_path: Path) -> None:
    for path in REAL_MNIST.glob("*.gz"):
        (tmp_path / path.name).symlink_to(path)
    raw = raw_files.read_raw("mnist", tmp_path)
    for split in ("train", "test"):
        source = load_source("mnist", split, data_dir=str(tmp_path))
        assert source.info == source_info("mnist")
        assert _rows(_all(source), _labels(source)) == _rows(raw[split].images, raw[split].labels)
