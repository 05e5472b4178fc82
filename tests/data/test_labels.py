"""Labels travel with their examples: from every kind of source, through both pipelines, to a placed batch."""

import numpy as np
import pytest

from score_sde.data import (
    ArraySource,
    Feed,
    SourceInfo,
    describe,
    eval_batches,
    fingerprint,
    load_source,
    make_train_iterator,
    write_array_records,
)
from score_sde.data.images import encode_png
from score_sde.data.toys import GAUSSIANS_RADIUS, GAUSSIANS_STD, RINGS_RADII
from score_sde.errors import UserError
from score_sde.labels import Labeled


def own(count=23, classes=5):
    """A source whose labels follow from its examples."""
    images = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
    return ArraySource(SourceInfo("own", (1, 1, 1), 256, classes), images, np.arange(count) % classes)


def fits(data, label):
    np.testing.assert_array_equal(data.reshape(label.shape) % 5, label)


def points_and_parts(name):
    source = load_source(f"toy:{name}", "test")
    every = np.arange(len(source))
    part = source.labels(every)
    assert set(part) == set(range(source.info.num_classes))
    return source.gather(every), part


def test_the_parts_of_a_toy_are_its_classes():
    points, part = points_and_parts("gaussians")
    angle = 2 * np.pi * part / 8
    offsets = points - GAUSSIANS_RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert abs(offsets.std() - GAUSSIANS_STD) < 0.01 * GAUSSIANS_STD * 5
    points, part = points_and_parts("rings")
    assert abs(np.linalg.norm(points, axis=1) - np.asarray(RINGS_RADII)[part]).max() < 0.1
    points, part = points_and_parts("checkerboard")
    cells = np.floor((points + 1.0) * 2.0).astype(int)
    np.testing.assert_array_equal(part, 2 * cells[:, 0] + cells[:, 1] // 2)
    points, part = points_and_parts("moons")
    assert points[part == 0, 1].mean() > 0.2 > -0.2 > points[part == 1, 1].mean()
    assert load_source("toy:swissroll", "test").labels(np.arange(2)) is None


@pytest.mark.parametrize("split", [False, True])
def test_the_subfolders_of_a_folder_are_its_classes(split, tmp_path):
    for part in ("train", "test") if split else ("",):
        for color, name in enumerate(("cat", "ant", "bee")):
            folder = tmp_path / part / name / "deeper"
            folder.mkdir(parents=True)
            for number in range(20):
                (folder / f"{number}.png").write_bytes(encode_png(np.full((2, 2, 1), 50 * color, np.uint8)))
    sources = {part: load_source(f"folder:{tmp_path}", part) for part in ("train", "test")}
    for source in sources.values():
        every = np.arange(len(source))
        names = np.array(["ant", "bee", "cat"])[source.labels(every)]
        colors = source.gather(every)[:, 0, 0, 0] // 50
        assert names.tolist() == np.array(["cat", "ant", "bee"])[colors].tolist()
    told = describe(sources, labels=True)
    assert "in 3 classes" in told[0] and "the classes are 0 ant, 1 bee, 2 cat." in told[1]


def test_images_beside_subfolders_or_in_a_single_one_have_no_classes(tmp_path):
    for name in ("a/x.png", "a/y.png", "b/z.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode_png(np.zeros((2, 2, 1), np.uint8)))
    assert load_source(f"folder:{tmp_path}", "train").info.num_classes == 2
    (tmp_path / "top.png").write_bytes(encode_png(np.zeros((2, 2, 1), np.uint8)))
    assert load_source(f"folder:{tmp_path}", "train").info.num_classes is None


def test_labels_lie_beside_array_records(tmp_path):
    rng, labels = np.random.RandomState(0), {}
    for split, count in (("train", 12), ("test", 5)):
        images = rng.randint(0, 256, (count, 4, 4, 1)).astype(np.uint8)
        images[0, 0, 0] = 0
        write_array_records(tmp_path / f"{split}.array_record", images)
        labels[split] = images[:, 0, 0, 0] % 3
    name = f"arrayrecord:{tmp_path}"
    assert load_source(name, "train").info.num_classes is None
    np.savez(tmp_path / "labels.npz", **labels)
    for split, known in labels.items():
        source, order = load_source(name, split), rng.permutation(len(known))
        np.testing.assert_array_equal(source.labels(order), known[order])
        np.testing.assert_array_equal(source.gather(order)[:, 0, 0, 0] % 3, known[order])
        assert source.info.num_classes == 3 and not source.notes
    np.savez(tmp_path / "labels.npz", train=labels["train"][1:], test=labels["test"])
    with pytest.raises(UserError, match=r"labels.npz holds 'train' as uint8 of shape \(11,\), expected integers"):
        load_source(name, "train")
    np.savez(tmp_path / "labels.npz", train=labels["train"])
    with pytest.raises(UserError, match=r"holds 'test' as float64 of shape \(0,\)"):
        load_source(name, "train")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_labels_of_a_stream_are_those_of_its_examples_on_every_process(workers):
    options = {"batch_size": 6, "seed": 3, "labels": True}
    whole = make_train_iterator(own(), **options)
    shares = [make_train_iterator(own(), process_index=i, process_count=2, **options) for i in range(2)]
    first = make_train_iterator(own(), workers=workers, **options)
    for _ in range(9):
        batch, parts = next(whole), [next(share) for share in shares]
        fits(batch.data, batch.label)
        np.testing.assert_array_equal(np.concatenate([part.label for part in parts]), batch.label)
        np.testing.assert_array_equal(next(first).label, batch.label)
    first.close()
    without = make_train_iterator(own(), batch_size=6, seed=3)
    np.testing.assert_array_equal(next(without).data, next(make_train_iterator(own(), **options)).data)
    assert without.get_state()["stream"] == whole.get_state()["stream"]


def test_every_row_of_a_pass_has_its_label():
    for batch in eval_batches(own(), batch_size=8, labels=True):
        fits(batch.data, batch.label)


@pytest.mark.parametrize("per_dispatch", [1, 3])
def test_a_feed_places_examples_and_labels_together(per_dispatch):
    batches = make_train_iterator(own(), batch_size=4, seed=0, labels=True)
    with Feed(batches, lambda batch: batch, per_dispatch=per_dispatch) as feed:
        batch = next(feed)
        assert isinstance(batch, Labeled)
        assert batch.label.shape == ((4,) if per_dispatch == 1 else (3, 4))
        fits(batch.data, batch.label)
        assert feed.throughput()["images_per_second"] > 0


def test_data_without_labels_are_refused_in_one_sentence():
    with pytest.raises(UserError, match=r"toy:swissroll has no labels; expected a toy of several parts, such as toy"):
        make_train_iterator(load_source("toy:swissroll", "train"), batch_size=4, seed=0, labels=True)
    with pytest.raises(UserError, match="has no labels"):
        next(eval_batches(load_source("toy:swissroll", "test"), batch_size=4, labels=True))


def test_labels_count_in_a_fingerprint_only_if_asked_to():
    info, data = SourceInfo("own", (2,), None, 2), np.zeros((3, 2), np.float32)
    one, other = ArraySource(info, data, np.array([0, 1, 1])), ArraySource(info, data, np.array([1, 1, 0]))
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one, labels=True) not in (fingerprint(one), fingerprint(other, labels=True))


def test_classes_without_examples_and_examples_without_a_class_are_told():
    info = SourceInfo("own", (1,), None, 4)
    source = ArraySource(info, np.eye(6, 1, dtype=np.float32), np.array([0, -1, 2, 2, -1, 0]))
    told = describe({"train": source}, labels=True)
    assert "own: in the train split 2 classes have no example (1, 3)." in told
    assert "own: in the train split 2 examples have no class." in told
    assert not [line for line in describe({"train": source}) if "class" in line]
