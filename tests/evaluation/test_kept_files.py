"""What is kept of measurements and can be made again never stops one: it is passed over, with a warning."""

import json
import math

import numpy as np
import pytest

from score_sde.evaluation.partial import Partial
from score_sde.evaluation.record import EvaluationRecord, best_of
from score_sde.files import atomic_savez, atomic_write_json, read_arrays, read_json


def _row(first, count):
    return [np.arange(first, first + count, dtype=np.float64) + 100 * n for n in range(4)]


def _partial(path):
    kept = Partial(path, "this")
    kept.add(_row(0, 3), 1.5)
    kept.add(_row(3, 2), 0.5)
    return kept


def test_a_partial_measurement_goes_on_with_the_same_rows(tmp_path):
    kept = _partial(tmp_path / "a.npz")
    again = Partial(tmp_path / "a.npz", "this")
    assert again.seconds == 2.0 and [len(row[0]) for row in again.rows] == [3, 2]
    for ours, theirs in zip(kept.columns(), again.columns(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


CHANGES = {
    "no identity": {"identity": None},
    "no ends": {"ends": None},
    "no batches": {"ends": np.zeros(0, np.int64)},
    "ends that fall": {"ends": np.array([3, 2])},
    "ends beyond the rows": {"ends": np.array([3, 9])},
    "ends that are no integers": {"ends": np.array([3.0, 5.0])},
    "a single end": {"ends": np.asarray(5)},
    "a short column": {"column2": np.zeros(4)},
    "a column that is none": {"column2": np.asarray(4.0)},
    "seconds that are none": {"seconds": np.asarray("long")},
    "many seconds": {"seconds": np.zeros(3)},
}


@pytest.mark.parametrize("change", [*CHANGES, "empty", "cut short", "a directory"])
def test_a_partial_measurement_of_another_form_is_made_again(tmp_path, caplog, change):
    path = tmp_path / "a.npz"
    _partial(path)
    if change in CHANGES:
        arrays = (read_arrays(path) or {}) | CHANGES[change]
        atomic_savez(path, **{name: array for name, array in arrays.items() if array is not None})
    elif change == "a directory":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(path.read_bytes()[: 0 if change == "empty" else 300])
    kept = Partial(path, "this")
    assert not kept.rows and kept.seconds == 0.0
    (line,) = caplog.messages
    assert f"{path} cannot be read (" in line and "measuring from the beginning" in line


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b"null", b"\xff", b'{"identity": "this", "checkpoints": [{"step": 1e999}]}', b"[" * 100_000],
)
def test_results_that_cannot_be_read_are_measured_again(tmp_path, caplog, content):
    path = tmp_path / "evaluation.json"
    path.write_bytes(content)
    assert not EvaluationRecord(path, "this", best_by="", provenance={}).entries
    assert f"{path} cannot be read (" in caplog.text


@pytest.mark.parametrize("checkpoints", [None, 3, {}, [3], [{}], [{"step": "x"}], [[1]]])
def test_results_of_another_form_are_measured_again(tmp_path, checkpoints):
    path = tmp_path / "evaluation.json"
    atomic_write_json(path, {"identity": "this", "checkpoints": checkpoints})
    record = EvaluationRecord(path, "this", best_by="", provenance={})
    assert not record.entries
    record.add({"step": 1, "parameters": "x", "loss": 0.5})
    assert read_json(path)["best"] == 1


def test_what_is_no_number_is_never_the_best(tmp_path):
    losses = {1: math.nan, 2: 1.0, 3: math.inf, 4: None}
    entries = {step: {"step": step, "loss": loss, "parameters": "x"} for step, loss in losses.items()}
    assert best_of(entries, "loss") == (2, "loss")
    recalls = {step: {"loss": 1.0, "metrics": {"recall": {"value": value}}} for step, value in losses.items()}
    assert best_of(recalls, "recall") == (2, "recall")
    path = tmp_path / "evaluation.json"
    record = EvaluationRecord(path, "this", best_by="", provenance={})
    for entry in entries.values():
        record.add(entry)
    # The file is JSON of the standard, and gives back the same choice.
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["best"] == 2
    assert EvaluationRecord(path, "this", best_by="", provenance={}).write() == (2, "loss")
