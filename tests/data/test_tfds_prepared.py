"""Any prepared TFDS data set of images is what TFDS's own reader says it is, in memory or record by record."""

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from score_sde.data import (
    ArraySource,
    check_images,
    describe,
    load_source,
    make_train_iterator,
    source_info,
    tfds_prepared,
)
from score_sde.data.records import RecordSource
from score_sde.errors import UserError


def _images(n: int, height: int = 6, width: int = 5, channels: int = 3) -> np.ndarray:
    return np.random.RandomState(n).randint(0, 256, size=(n, height, width, channels)).astype(np.uint8)


def _png(image: np.ndarray) -> io.BytesIO:
    sink = io.BytesIO()
    Image.fromarray(image.squeeze()).save(sink, "PNG")
    sink.seek(0)
    return sink


def _prepare(
    root: Path, splits: dict[str, list[dict[str, Any]]], features: dict[str, Any], config: str | None = None
) -> Path:
    """Write a data set called "tiny" as TFDS would, with the given examples."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import skip_registration

    configs = [tfds.core.BuilderConfig(name=config, version="1.0.0")] if config else []
    with skip_registration():
        members = {
            "__module__": __name__,
            "name": "tiny",
            "VERSION": tfds.core.Version("1.0.0"),
            "BUILDER_CONFIGS": configs,
            "_info": lambda self: tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features)),
            "_split_generators": lambda self, _: {name: enumerate(rows) for name, rows in splits.items()},
            "_generate_examples": lambda self: None,
        }
        builder: Any = type("Tiny", (tfds.core.GeneratorBasedBuilder,), members)(
            data_dir=str(root), file_format="array_record"
        )
    builder.download_and_prepare()
    return Path(builder.data_path)


def _rows(images: np.ndarray, **more: Any) -> list[dict[str, Any]]:
    return [
        {"image": _png(image), **{name: values[row] for name, values in more.items()}}
        for row, image in enumerate(images)
    ]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A data set with labels, a second kind of feature, and a validation split instead of a test split."""
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(6, 5, 3)),
        "label": tfds.features.ClassLabel(num_classes=4),
        "note": tfds.features.Text(),
    }
    splits = {
        "train": _rows(_images(30), label=np.arange(30) % 4, note=["x"] * 30),
        "validation": _rows(_images(7), label=[-1] * 7, note=["y"] * 7),
    }
    return _prepare(tmp_path, splits, features, config="6x5")


@pytest.mark.parametrize("limit", [0, 2**30])
def test_a_split_is_what_the_stock_reader_reads_in_memory_or_record_by_record(
    tiny: Path, tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds_prepared, "DECODED_LIMIT", limit)
    stock: Any = tfds.builder_from_directory(str(tiny))
    for name in ("tfds:tiny/6x5", "tfds:tiny/6x5/1.0.0"):
        for split, theirs in (("train", "train"), ("test", "validation")):
            source = load_source(name, split, data_dir=str(tmp_path))
            assert isinstance(source, ArraySource if limit else RecordSource)
            examples = list(stock.as_data_source(theirs))
            every = np.arange(len(source))
            np.testing.assert_array_equal(source.gather(every), np.stack([e["image"] for e in examples]))
            np.testing.assert_array_equal(source.labels(every), [e["label"] for e in examples])
            check_images(source.gather(every), source.info)
            assert source.info[1:] == ((6, 5, 3), 256, 4)
            assert source.info == source_info(name, data_dir=str(tmp_path))
            copy = pickle.loads(pickle.dumps(source))
            np.testing.assert_array_equal(copy.gather(every[::-1]), source.gather(every[::-1]))
            said = " ".join(describe({split: source}))
            assert ("there is no test split, and its validation split stands in" in said) == (split == "test")
    assert bool(list(tiny.rglob("*.npy"))) == bool(limit)
    assert "tensorflow" not in sys.modules


def test_both_ways_of_reading_give_one_stream(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = []
    for limit in (0, 2**30):
        monkeypatch.setattr(tfds_prepared, "DECODED_LIMIT", limit)
        source = load_source("tfds:tiny/6x5", "train", data_dir=str(tmp_path))
        streams.append(make_train_iterator(source, batch_size=8, seed=0, random_flip=True))
    streams[1].set_state(streams[0].get_state())
    for _ in range(6):
        np.testing.assert_array_equal(next(streams[0]).data, next(streams[1]).data)


def test_images_without_labels_and_with_a_test_split(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    splits = {name: _rows(_images(n, channels=1)) for name, n in (("train", 9), ("validation", 5), ("test", 3))}
    _prepare(tmp_path, splits, {"image": tfds.features.Image(shape=(None, None, 1))})
    for _ in range(2):  # decoded, then from the cache
        source = load_source("tfds:tiny", "test", data_dir=str(tmp_path))
        assert source.info[1:] == ((6, 5, 1), 256, None) and source.labels(np.arange(3)) is None
        found = sorted(image.tobytes() for image in source.gather(np.arange(3)))
        assert found == sorted(image.tobytes() for image in _images(3, channels=1))


def test_what_is_not_prepared_is_refused_with_what_to_do(tiny: Path, tmp_path: Path) -> None:
    def load(name: str, split: str = "train") -> None:
        load_source(name, split, data_dir=str(tmp_path))

    with pytest.raises(UserError, match=r"tfds:nowhere is not prepared in .*builder\('nowhere'.*array_record"):
        load("tfds:nowhere")
    with pytest.raises(UserError, match=r"tfds:tiny is not prepared.*configurations tfds:tiny/6x5"):
        load("tfds:tiny")
    record = next(tiny.glob("*-train.array_record*"))
    record.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"cannot be read.*prepare it again"):
        load("tfds:tiny/6x5")
    info = tiny / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(UserError, match=r"not prepared as array_record.*file_format='array_record'"):
        load("tfds:tiny/6x5")


def test_data_sets_of_another_kind_are_refused(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    image = tfds.features.Image(shape=(None, None, 3))
    varied = [*_rows(_images(5)), *_rows(_images(5, 8, 8))]
    two = [{"left": _png(i), "right": _png(i)} for i in _images(3)]
    deep = [{"image": _png(np.zeros((4, 4, 4), np.uint8))}]
    for name, rows, features, message in [
        ("varied", varied, {"image": image}, r"expected .* like the first.*one size"),
        ("text", [{"note": "x"}], {"note": tfds.features.Text()}, r"image features \[\] among \['note'\]"),
        ("two", two, {"left": image, "right": image}, r"\['left', 'right'\].*expected one called 'image'"),
        ("deep", deep, {"image": tfds.features.Image(shape=(4, 4, 4))}, r"shape \(4, 4, 4\), expected uint8"),
    ]:
        _prepare(tmp_path / name, {"train": rows}, features)
        with pytest.raises(UserError, match=message):
            load_source("tfds:tiny", "train", data_dir=str(tmp_path / name))
        with pytest.raises(UserError, match=r"has the splits \['train'\], expected test or validation"):
            load_source("tfds:tiny", "test", data_dir=str(tmp_path / name))
