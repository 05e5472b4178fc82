"""The script that compares fine-tuning with training from scratch: its data, and the steps that it counts."""

import numpy as np
import pytest

from score_sde.data import load_source
from tests.scripts import EXPERIMENTS, load_script


@pytest.fixture(scope="module")
def script():
    return load_script(EXPERIMENTS / "fine_tuning" / "run.py")


def test_the_digits_are_parted_by_their_classes(script, tmp_path):
    script.write_data(tmp_path)
    counts = []
    for name in ("low", "high"):
        for split in ("train", "test"):
            part, whole = load_source(f"npz:{tmp_path / name}.npz", split), load_source("digits", split)
            labels = whole.labels(np.arange(len(whole)))
            wanted = whole.gather(np.flatnonzero((labels < 5) == (name == "low")))
            np.testing.assert_array_equal(part.gather(np.arange(len(part))), wanted)
            assert part.info.num_grey_levels == 17
            counts.append(len(part))
    assert sum(counts) == 1797


def test_the_steps_are_those_to_the_last_loss_from_scratch_of_the_same_seed(script):
    scratch = [[(25, 3.0), (50, 1.0)], [(25, 4.0), (50, 2.0)]]
    tuned = [[(25, 1.0), (50, 0.5)], [(25, 2.5), (50, 1.5)]]
    table = script.table({"from scratch": scratch, "from digits 0 to 4": tuned})
    assert "| from scratch | 1.5000 ± 0.5000 | 50, 50 |" in table
    assert "| from digits 0 to 4 | 1.0000 ± 0.5000 | 25, 50 |" in table
