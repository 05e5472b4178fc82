"""Flips are reflections with fair, countable coins; the check refuses what a source did not promise."""

import numpy as np
import pytest

from score_sde.data import SourceInfo, check_images, random_flip
from score_sde.errors import UserError

COLOR = SourceInfo("photos", (8, 6, 3), 256, None)
POINTS = SourceInfo("points", (2,), None, None)


def _images(n: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, size=(n, 8, 6, 3)).astype(np.uint8)


def test_a_flip_is_the_identity_or_the_mirror_image_and_leaves_its_input_alone() -> None:
    images = _images(50)
    before = images.copy()
    flipped = random_flip(images, np.random.default_rng(0))
    kept = (flipped == images).all(axis=(1, 2, 3))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (kept ^ mirrored).all()
    assert kept.any() and mirrored.any()
    np.testing.assert_array_equal(images, before)


def test_the_coin_is_fair() -> None:
    ramp = np.broadcast_to(np.arange(2, dtype=np.uint8).reshape(1, 1, 2, 1), (20_000, 1, 2, 1))
    flips = int(random_flip(ramp, np.random.default_rng(0))[:, 0, 0, 0].sum())
    assert abs(flips - 10_000) < 4 * np.sqrt(20_000 / 4)  # four standard deviations of a binomial


def test_one_coin_per_image_so_that_a_stream_can_be_entered_anywhere() -> None:
    images = _images(40)
    whole = random_flip(images, np.random.Generator(np.random.PCG64(3)))
    tail = random_flip(images[25:], np.random.Generator(np.random.PCG64(3).advance(25)))
    np.testing.assert_array_equal(whole[25:], tail)


@pytest.mark.parametrize(
    ("batch", "info", "words"),
    [
        (np.zeros((2, 3, 8, 6), np.uint8), COLOR, ["(2, 3, 8, 6)", "(n, 8, 6, 3)", "transpose"]),
        (np.zeros((2, 8, 6), np.uint8), COLOR, ["(2, 8, 6)", "(n, 8, 6, 3)", "[..., None]"]),
        (np.zeros((2, 8, 6, 1), np.uint8), COLOR, ["(2, 8, 6, 1)", "1 channels instead of 3"]),
        (np.zeros((2, 9, 9, 3), np.uint8), COLOR, ["(2, 9, 9, 3)", "Resize"]),
        (np.zeros((2, 8, 6, 3), np.float32), COLOR, ["float32", "uint8", "0 to 255"]),
        (np.full((2, 8, 6, 3), 16, np.uint8), COLOR._replace(num_grey_levels=16), ["level 16", "0 to 15"]),
        (np.zeros((2, 3), np.float32), POINTS, ["(2, 3)", "(n, 2)"]),
        (np.zeros((2, 2), np.float64), POINTS, ["float64", "float32"]),
        (np.array([[0, 1], [np.nan, 0]], np.float32), POINTS, ["example 1", "finite"]),
    ],
)
def test_the_check_names_what_it_got_and_what_it_wanted(batch: np.ndarray, info: SourceInfo, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        check_images(batch, info)
    for word in [info.name, *words]:
        assert word in str(caught.value)


def test_the_check_passes_what_is_right() -> None:
    check_images(_images(3), COLOR)
    check_images(np.zeros((3, 2), np.float32), POINTS)
    check_images(_images(3)[:0], COLOR)
