"""What somebody has split is taken as it is split, or refused: images that were held out are never trained on."""

import numpy as np
import pytest
from PIL import Image

from score_sde.data import load_source
from score_sde.errors import UserError


def _images(root, *folders, count=12):
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = np.full((4, 4), 20 * number + index, np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{index}.png")
    return f"folder:{root}"


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("TRAIN", "test"), ("train", "TEST")])
def test_the_case_of_a_split_does_not_matter(tmp_path, train, test):
    name = _images(tmp_path, train, test)
    found = [load_source(name, split).gather(np.arange(12)) for split in ("train", "test")]
    assert found[0].max() < 12 and found[1].min() >= 20


@pytest.mark.parametrize(
    "folders",
    [
        *(("training", "testing"), ("Training", "Validation"), ("trainA", "testA"), ("train2017", "val2017")),
        *(("val",), ("cats/train", "cats/test"), ("data/Train", "data/Test"), ("train_images", "held-out")),
    ],
)
def test_parts_of_a_split_under_other_names_are_not_pooled(tmp_path, folders):
    name = _images(tmp_path, *folders)
    parts = {folder.split("/")[-1] for folder in folders}
    for split in ("train", "test"):
        with pytest.raises(UserError, match=r"parts? of a split") as refused:
            load_source(name, split)
        message = str(refused.value)
        assert all(part in message for part in parts)
        assert f"{tmp_path / 'train'} and {tmp_path / 'test'}. Rename" in message


def test_half_a_split_is_refused_with_what_may_be_the_other_half(tmp_path):
    name = _images(tmp_path, "train", "testing", "cats")
    with pytest.raises(UserError, match=r"expected test as well .* Add test, such as by renaming testing"):
        load_source(name, "train")
    with pytest.raises(UserError, match="Train and train"):
        load_source(_images(tmp_path, "Train", "test"), "train")


def test_folders_of_classes_are_pooled(tmp_path):
    """Words that only begin like the name of a split are the names of classes."""
    name = _images(tmp_path, "valley", "trainers", "devices", "evening", "a/testament")
    assert sum(len(load_source(name, split)) for split in ("train", "test")) == 60
