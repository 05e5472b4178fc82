"""Arrays as data: what is probably not meant is told."""

import numpy as np
import pytest

from score_sde.data.arrays import array_splits


@pytest.mark.parametrize(
    ("shape", "said"), [((20, 16, 16), True), ((20, 16, 16, 1), False), ((20, 16, 3), False), ((20, 16), False)]
)
def test_images_without_an_axis_of_channels_are_told_to_be_series(shape, said, caplog):
    array_splits(np.zeros(shape, np.uint8))
    assert ("x[..., None]" in caplog.text) is said
    caplog.clear()
    array_splits(np.zeros(shape))  # floats are series as often
    assert not caplog.text
