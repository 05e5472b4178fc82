"""ArrayRecord files give back the pixels that went in, one by one, and say what is wrong with those that do not."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from score_sde.data import check_images, load_source, make_train_iterator, source_info, write_array_records
from score_sde.errors import UserError


def _images(n: int, height: int = 6, width: int = 5, channels: int = 3) -> np.ndarray:
    return np.random.RandomState(n).randint(0, 256, size=(n, height, width, channels)).astype(np.uint8)


def _encoded(image: np.ndarray, kind: str) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image.squeeze()).save(sink, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return sink.getvalue()


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder with a training split of three files and a test split of one, and the training images."""
    images = _images(40)
    for shard, part in enumerate(np.split(images, [7, 29])):
        assert write_array_records(tmp_path / f"train-{shard:05d}-of-00003.array_record", part) == len(part)
    write_array_records(tmp_path / "test.array_record", _images(4))
    return tmp_path, images


def test_records_come_back_in_any_order_and_any_number_of_times(packed: tuple[Path, np.ndarray]) -> None:
    folder, images = packed
    source = load_source(f"arrayrecord:{folder}", "train")
    assert source.info == source_info(f"arrayrecord:{folder}") and source.info[1:] == ((6, 5, 3), 256, None)
    order = np.random.RandomState(0).randint(0, 40, size=100)
    np.testing.assert_array_equal(source.gather(order), images[order])
    np.testing.assert_array_equal(source.gather(np.arange(40)), images)
    check_images(source.gather(order), source.info)
    assert len(source) == 40 and source.labels(order) is None
    np.testing.assert_array_equal(load_source(f"arrayrecord:{folder}", "test").gather(np.arange(4)), _images(4))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).gather(order), images[order])


@pytest.mark.parametrize("process_count", [1, 2])
def test_a_stream_of_records_is_that_of_the_same_images_in_memory(
    packed: tuple[Path, np.ndarray], tmp_path: Path, process_count: int
) -> None:
    folder, images = packed
    np.savez(tmp_path / "images.npz", train=images, test=images)
    for index in range(process_count):
        streams = [
            make_train_iterator(
                load_source(name, "train"),
                batch_size=12,
                seed=1,
                random_flip=True,
                process_index=index,
                process_count=process_count,
            )
            for name in (f"arrayrecord:{folder}", f"npz:{tmp_path / 'images.npz'}")
        ]
        for _ in range(7):
            records, memory = map(next, streams)
            np.testing.assert_array_equal(records.data, memory.data)
            np.testing.assert_array_equal(records.index, memory.index)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_image_files_are_kept_as_they_are_and_gray_ones_among_color_ones_become_color(
    tmp_path: Path, kind: str
) -> None:
    gray, color = _images(3, channels=1), _images(3)
    files = [_encoded(image, kind) for pair in zip(gray, color, strict=True) for image in pair]
    write_array_records(tmp_path / "train.array_record", files)
    source = load_source(f"arrayrecord:{tmp_path}", "train")
    np.testing.assert_array_equal(source.gather(np.array([1, 3, 5])), color)
    np.testing.assert_array_equal(source.gather(np.array([0, 2, 4])), np.repeat(gray, 3, axis=-1))
    write_array_records(tmp_path / "train.array_record", gray)
    source = load_source(f"arrayrecord:{tmp_path}", "train")
    np.testing.assert_array_equal(source.gather(np.arange(3)), gray)


def _odd_size() -> bytes:
    return _encoded(_images(1, 9, 7)[0], "PNG")


def _color() -> bytes:
    return _encoded(_images(1)[0], "PNG")


def _cut() -> bytes:
    return _encoded(_images(1, channels=1)[0], "PNG")[:-40]


def _noise() -> bytes:
    return b"no image"


def _transparent() -> bytes:
    return _encoded(np.full((6, 5, 4), 100, np.uint8), "PNG")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (_odd_size, "is 9x7 in color, expected 6x5 in gray"),
        (_color, "is 6x5 in color, expected 6x5 in gray"),
        (_cut, "cannot be read.*intact image"),
        (_noise, "cannot be read.*intact image"),
        (_transparent, "transparent pixels"),
    ],
)
def test_a_record_that_does_not_fit_is_named_when_it_is_read(
    tmp_path: Path, bad: Callable[[], bytes], message: str
) -> None:
    # Among 100 records, number 50 is not one of those that are looked at beforehand.
    files: list[np.ndarray | bytes] = [*_images(100, channels=1)]
    files[50] = bad()
    write_array_records(tmp_path / "train.array_record", files)
    source = load_source(f"arrayrecord:{tmp_path}", "train")
    source.gather(np.array([49, 51]))
    with pytest.raises(UserError, match=rf"Record 50 of arrayrecord:.*{message}"):
        source.gather(np.array([49, 50, 51]))


def test_images_that_vary_in_size_are_refused_at_once(tmp_path: Path) -> None:
    write_array_records(tmp_path / "train.array_record", [*_images(20), *_images(20, 8, 8)])
    with pytest.raises(UserError, match=r"Record 20 of .* is 8x8 in color, expected 6x5 in color.*resize or crop"):
        load_source(f"arrayrecord:{tmp_path}", "train")


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    name = f"arrayrecord:{tmp_path}"
    with pytest.raises(UserError, match="there is no such folder"):
        load_source(f"{name}/nowhere", "train")
    with pytest.raises(UserError, match=r"holds no train\*\.array_record\*"):
        load_source(name, "train")
    (tmp_path / "dataset_info.json").touch()
    with pytest.raises(UserError, match="name it as tfds:NAME"):
        load_source(name, "train")
    path = tmp_path / "train.array_record"
    write_array_records(path, [])
    with pytest.raises(UserError, match="holds no record"):
        load_source(name, "train")
    path.write_bytes(b"no records" * 1000)
    with pytest.raises(UserError, match=r"train\.array_record cannot be read"):
        load_source(name, "train")


def test_writing_refuses_other_arrays_and_leaves_nothing_behind(tmp_path: Path) -> None:
    for wrong in (_images(2).astype(np.int32), _images(2)[..., 0], _images(2)[..., :2], np.zeros((2, 1, 1, 1, 1, 1))):
        with pytest.raises(UserError, match=r"Image 0 is .* expected uint8 of shape \(height, width"):
            write_array_records(tmp_path / "train.array_record", wrong)
    assert not list(tmp_path.iterdir())


def _floats(folder: Path, *shape: int, count: int = 40) -> np.ndarray:
    x = np.random.RandomState(0).standard_normal((count, *shape)).astype(np.float32)
    for split in ("train", "test"):
        write_array_records(folder / f"{split}.array_record", x)
    return x


@pytest.mark.parametrize("shape", [(6,), (6, 2), (4, 3, 2), (2, 3, 4, 2)])
def test_floats_of_any_shape_come_back_bit_for_bit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = _floats(tmp_path, *shape)
    np.savez(tmp_path / "labels.npz", train=np.arange(40) % 3, test=np.arange(40) % 3)
    source = load_source(f"arrayrecord:{tmp_path}", "train")
    assert source.info[1:] == (shape, None, 3)
    order = np.random.RandomState(1).randint(0, 40, size=60)
    np.testing.assert_array_equal(source.gather(order), x[order])
    check_images(source.gather(order), source.info)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).gather(order), x[order])


def _record(array: np.ndarray, **options: bool) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, **options)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (_record(np.float32([1.0, np.nan, 0.0])), "Record 1 of .* holds NaN, infinity or numbers beyond float32"),
        (_record(np.array([1e300, 0.0, 0.0])), "holds NaN, infinity or numbers beyond float32"),
        (_record(np.zeros((2, 3), np.float32)), r"Record 1 of .* has shape \(2, 3\), expected \(3,\) like the first"),
        (_record(np.zeros((1, 1, 1, 1, 3), np.float32)), "expected floats of 1 to 4 axes"),
        (_record(np.arange(3)), "bytes of int64 for shape .* expected floats of 1 to 4 axes"),
        (_record(np.array([None]), allow_pickle=True), "expected floats of 1 to 4 axes"),
        (_record(np.zeros(3, np.float32))[:-1], "holds 11 bytes of float32 for shape"),
        (_record(np.zeros(3, np.float32))[:40], "Record 1 of .* cannot be read"),
    ],
)
def test_a_record_that_is_no_example_like_the_first_is_refused(tmp_path: Path, wrong: bytes, words: str) -> None:
    write_array_records(tmp_path / "train.array_record", [_record(np.zeros(3, np.float32)), wrong])
    with pytest.raises(UserError, match=words):
        load_source(f"arrayrecord:{tmp_path}", "train")
