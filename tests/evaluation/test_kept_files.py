"""What is kept of measurements and can be made again never stops one: it is passed over, with a warning."""

import json
import math
import os

import numpy as np
import pytest

from score_sde.evaluation import partial
from score_sde.evaluation.partial import Partial, discard
from score_sde.evaluation.record import EvaluationRecord, best_of
from score_sde.files import atomic_write_json, read_json


def _row(first, count):
    values = np.arange(first, first + count)
    return [values * 0.5, np.tile(values.astype(np.uint8)[:, None, None], (1, 2, 3)), values > 2, np.zeros((count, 0))]


def _partial(path):
    kept = Partial(path, "this")
    kept.add(_row(0, 3), 1.5)
    kept.add(_row(3, 2), 0.5)
    return kept


def test_a_partial_measurement_goes_on_with_the_same_rows(tmp_path):
    kept = _partial(tmp_path / "a.partial")
    again = Partial(tmp_path / "a.partial", "this")
    assert (again.batches, again.count, again.seconds) == (2, 5, 2.0)
    for row, ours, theirs in zip(_row(0, 5), kept.columns(), again.columns(), strict=True):
        np.testing.assert_array_equal(row, ours)
        np.testing.assert_array_equal(row, theirs)
        assert row.dtype == theirs.dtype
    assert not Partial(tmp_path / "a.partial", "another").batches


def test_what_has_been_measured_is_not_written_again(tmp_path, monkeypatch):
    kept, path = _partial(tmp_path / "a.partial"), tmp_path / "a.partial"
    with path.open("r+b") as file:  # what is changed behind its back stays
        file.write(b"\xff")
    kept.add(_row(5, 2), 1.0)
    assert path.read_bytes()[0] == 0xFF and path.stat().st_size == 7 * (8 + 6 + 1)


@pytest.mark.parametrize("moment", ["data", "note"])
def test_a_batch_that_a_kill_cut_short_is_measured_again(tmp_path, monkeypatch, moment):
    """Records without their note, or half of them, are written over by those of the same batch."""
    path, kept = tmp_path / "a.partial", _partial(tmp_path / "a.partial")

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(partial, "atomic_write_json", killed)
        kept.add(_row(50, 4), 1.0)
    if moment == "data":
        os.truncate(path, path.stat().st_size - 7)
    again = Partial(path, "this")
    assert again.count == 5
    again.add(_row(5, 4), 1.0)
    for row, column in zip(_row(0, 9), Partial(path, "this").columns(), strict=True):
        np.testing.assert_array_equal(row, column)


NOTES = {
    "no identity": {"identity": None},
    "no columns": {"columns": []},
    "objects": {"columns": [["column0", "|O", []]]},
    "another kind": {"columns": [["column0", "x", []]]},
    "no batches": {"batches": 0},
    "more batches than examples": {"batches": 6},
    "more examples than there are": {"count": 9},
    "seconds that are none": {"seconds": "long"},
    "another digest": {"digest": 1},
}


@pytest.mark.parametrize("change", [*NOTES, "empty", "cut short", "a flipped bit", "a directory"])
def test_a_partial_measurement_of_another_form_is_made_again(tmp_path, caplog, change):
    path, note = tmp_path / "a.partial", tmp_path / "a.partial.json"
    _partial(path)
    if change in NOTES:
        known = json.loads(note.read_text()) | NOTES[change]
        note.write_text(json.dumps({name: value for name, value in known.items() if value is not None}))
    elif change == "a directory":
        path.unlink()
        path.mkdir()
    elif change == "a flipped bit":
        data = bytearray(path.read_bytes())
        data[20] ^= 4
        path.write_bytes(data)
    else:
        path.write_bytes(path.read_bytes()[: 0 if change == "empty" else 30])
    kept = Partial(path, "this")
    assert not kept.batches and kept.seconds == 0.0
    (line,) = caplog.messages
    assert f"{path} cannot be read (" in line and "measuring from the beginning" in line


def test_the_files_of_a_measurement_are_removed_together(tmp_path):
    _partial(tmp_path / "a.partial")
    discard(tmp_path / "a.partial")
    discard(tmp_path / "a.partial")
    assert not list(tmp_path.iterdir())


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


def test_files_of_an_earlier_version_go_and_those_of_other_settings_stay(tmp_path, caplog):
    path = partial.partial_file(tmp_path, "samples", "this")
    other = partial.partial_file(tmp_path, "samples", "another")
    old = [tmp_path / name for name in ("samples.partial", "samples.partial.json", "samples.partial.npz")]
    stay = [other, tmp_path / "pareto.partial", tmp_path / "samples.npz"]
    for file in (*old, *stay):
        file.write_text("{}")
    caplog.set_level("INFO")
    Partial(path, "this")
    assert not any(file.exists() for file in old) and all(file.exists() for file in stay)
    assert sum("of an earlier version" in message for message in caplog.messages) == len(old)
