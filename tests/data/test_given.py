"""Files of images or observations that the user gives: what is read of them, and what is refused."""

import numpy as np
import pytest

from score_sde.data.given import load_given
from score_sde.data.images import encode_png
from score_sde.errors import UserError

SHAPE = (8, 8, 1)
LEVELS = np.random.RandomState(0).randint(0, 256, (3, *SHAPE)).astype(np.uint8)
LEVELS[:, 0, :2, 0] = 0, 255


def test_an_image_and_an_archive_of_it_are_the_same(tmp_path):
    (tmp_path / "a.png").write_bytes(encode_png(LEVELS[0]))
    np.savez(tmp_path / "a.npz", images=LEVELS[:1])
    for levels in (256, 17, 2):
        found = [load_given(str(tmp_path / name), SHAPE, levels).levels for name in ("a.png", "a.npz")]
        np.testing.assert_array_equal(*found)
        assert found[0].max() == levels - 1 and found[0].min() == 0
        np.testing.assert_allclose(found[0] / (levels - 1), LEVELS[:1] / 255, atol=0.5 / (levels - 1) + 1e-9)


def test_levels_of_the_data_are_left_as_they_are(tmp_path):
    levels = (LEVELS % 17).astype(np.uint8)
    np.savez(tmp_path / "a.npz", samples=levels, num_levels=17)
    np.testing.assert_array_equal(load_given(str(tmp_path / "a.npz"), SHAPE, 17).levels, levels)


def test_observations_come_with_the_truth_if_there_is_one(tmp_path):
    y, truth = np.ones((3, 4)), np.zeros((3, *SHAPE))
    np.savez(tmp_path / "a.npz", y=y, truth=truth, draws=LEVELS)
    np.savez(tmp_path / "b.npz", y=y)
    both, alone = (load_given(str(tmp_path / name), SHAPE, 17) for name in ("a.npz", "b.npz"))
    assert both.levels is None and alone.truth is None
    np.testing.assert_array_equal(both.y, alone.y)
    np.testing.assert_array_equal(both.truth, truth)


WRONG = {
    "no such file": (None, "there is no such file; expected an image"),
    "another size": (encode_png(np.zeros((4, 6, 1), np.uint8)), r"an image of 4 x 6 pixels; expected 8 x 8"),
    "no image": (b"nothing", "cannot be read"),
    "no names": ({"a": LEVELS}, r"has the arrays \['a'\]; expected images or x, or observations under y"),
    "floats": (
        {"x": LEVELS / 255.0},
        r"has float64 of shape .* under x; expected uint8 images of shape \(n, 8, 8, 1\)",
    ),
    "another shape": ({"x": LEVELS[:, :4]}, r"of shape \(3, 4, 8, 1\) under x"),
    "too many levels": ({"x": LEVELS, "num_levels": 17}, "has gray levels to 255, and num_levels is 17"),
    "one level": ({"x": 0 * LEVELS, "num_levels": 1}, "and num_levels is 1"),
    "whole observations": ({"y": LEVELS}, "has uint8 of shape .* under y; expected floats"),
    "no numbers": ({"y": np.full((3, 4), np.nan)}, "numbers in y that are not finite"),
    "another truth": (
        {"y": np.ones((3, 4)), "truth": np.zeros((2, *SHAPE))},
        "expected floats of shape .* for each of y",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_told(name, tmp_path):
    content, message = WRONG[name]
    file = tmp_path / ("a.npz" if isinstance(content, dict) else "a.png")
    if isinstance(content, dict):
        np.savez(file, **content)
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_given(str(file), SHAPE, 17)
