"""What is logged survives a crash, and a resumed run logs the same bytes as an uninterrupted one."""

import json
import logging
import math
import sys
import threading

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.training import writers
from score_sde.training.writers import MetricWriter, ProgressBar


def _write(workdir, steps, resume_from=None):
    writer = MetricWriter(workdir)
    if resume_from is not None:
        writer.truncate(resume_from)
    for step in steps:
        writer.write(step, {"loss": math.sin(step) / 3.0, "rate": np.float32(0.1)}, timings={"steps_per_s": 7.0})
    return workdir / "metrics.jsonl"


def _scalars(workdir, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(workdir / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_numbers_read_back_to_the_same_bits_and_no_clock_is_kept(tmp_path):
    path = _write(tmp_path, range(1, 6))
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    expected = [{"step": s, "loss": math.sin(s) / 3.0, "rate": float(np.float32(0.1))} for s in range(1, 6)]
    assert records == expected


def test_a_line_is_on_file_as_soon_as_it_is_written(tmp_path):
    writer = MetricWriter(tmp_path / "new")
    writer.write(1, {"loss": 1.0})
    assert (tmp_path / "new" / "metrics.jsonl").read_bytes() == b'{"step": 1, "loss": 1.0}\n'
    assert _scalars(tmp_path / "new", "loss") == {1: 1.0}


@pytest.mark.parametrize("torn", [b"", b'{"step": 9', b'{"step": 9, "loss": 0.1', b"\x00\x00\x00", b'{"step": 9}'])
def test_resuming_gives_the_same_bytes(tmp_path, torn):
    whole = _write(tmp_path / "whole", range(1, 11)).read_bytes()
    path = _write(tmp_path / "cut", range(1, 9))
    with path.open("ab") as file:
        file.write(torn)
    assert _write(tmp_path / "cut", range(6, 11), resume_from=5).read_bytes() == whole


def test_a_complete_last_line_without_its_newline_is_kept(tmp_path):
    whole = _write(tmp_path / "whole", range(1, 6)).read_bytes()
    path = _write(tmp_path / "cut", range(1, 5))
    path.write_bytes(path.read_bytes()[:-1])
    assert _write(tmp_path / "cut", [5], resume_from=4).read_bytes() == whole


def test_truncating_to_the_start_forgets_everything_and_nothing_is_fine_too(tmp_path):
    MetricWriter(tmp_path).truncate(0)
    assert not list(tmp_path.iterdir())
    path = _write(tmp_path, range(1, 4))
    MetricWriter(tmp_path).truncate(0)
    assert path.read_bytes() == b""


def test_tensorboard_reads_metrics_and_timings(tmp_path):
    _write(tmp_path, range(1, 6))
    assert _scalars(tmp_path, "loss") == pytest.approx({s: math.sin(s) / 3.0 for s in range(1, 6)}, rel=1e-6)
    assert _scalars(tmp_path, "steps_per_s") == dict.fromkeys(range(1, 6), 7.0)


def test_what_is_not_finite_is_in_the_file_and_not_drawn(tmp_path, capsys, caplog):
    writer = MetricWriter(tmp_path)
    writer.write(1, {"loss": 1.0, "error": math.nan})
    writer.write(2, {"loss": math.inf, "error": 2.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0]) == {
        "step": 1,
        "loss": 1.0,
        "error": None,
    }
    assert (_scalars(tmp_path, "loss"), _scalars(tmp_path, "error")) == ({1: 1.0}, {2: 2.0})
    assert "NaN" not in capsys.readouterr().err + caplog.text


def test_tensorboard_hides_what_a_resume_repeats(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in range(1, 9):
        writer.write(step, {"loss": -1.0})
    _write(tmp_path, range(6, 11), resume_from=5)
    loss = _scalars(tmp_path, "loss")
    assert [loss[s] for s in range(1, 6)] == [-1.0] * 5
    assert [loss[s] for s in range(6, 11)] == pytest.approx([math.sin(s) / 3.0 for s in range(6, 11)], rel=1e-6)
    assert sorted(loss) == list(range(1, 11))


def test_a_directory_that_cannot_be_written_is_the_users_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Cannot write .*metrics.jsonl"):
        MetricWriter(tmp_path / "file").write(1, {"loss": 1.0})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
def test_a_full_disk_is_the_users_error(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"No space left on device.*--workdir"):
        MetricWriter(tmp_path).write(1, {"loss": 1.0})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
def test_events_that_do_not_fit_are_met_by_the_writer_and_by_no_thread(tmp_path):
    """A thread would end with an error of its own, and the writer would wait for it for good once its queue is full."""
    threads, writer = threading.active_count(), MetricWriter(tmp_path)
    writer.write(1, {"loss": 1.0})
    assert threading.active_count() == threads
    (events,) = (tmp_path / "tensorboard").iterdir()
    events.unlink()
    events.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"Cannot write .*tensorboard.*No space left on device"):
        writer.write(2, {"loss": 1.0})


def test_a_metrics_file_that_cannot_be_replaced_is_the_users_error(tmp_path, monkeypatch):
    path = _write(tmp_path, range(1, 6))
    before = path.read_bytes()

    def refuse(*_):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(UserError, match="Read-only file system"):
        MetricWriter(tmp_path).truncate(2)
    assert path.read_bytes() == before


def test_without_a_terminal_there_is_no_output(capfd, caplog):
    with caplog.at_level(logging.INFO), ProgressBar(total=100) as bar:
        for step in range(1, 101):
            bar.update(step, 0.5)
    assert capfd.readouterr() == ("", "") and not caplog.records


@pytest.fixture
def now(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(writers.time, "monotonic", lambda: seconds[0])
    return seconds


@pytest.mark.parametrize("compilation", [28.0, 300.0])
def test_without_a_terminal_the_log_gets_a_line_per_interval_and_no_estimate_counts_compilation(
    caplog, now, compilation
):
    with caplog.at_level(logging.INFO), ProgressBar(total=200, initial=50) as bar:
        now[0] += compilation
        for step in range(51, 201):  # one step a second
            now[0] += 1.0
            bar.update(step, 0.25)
    assert [record.message for record in caplog.records] == [
        *["training: 51/200 steps, loss 0.25"] * (compilation > 30.0),
        *(
            f"training: {done}/200 steps, loss 0.25, 1 steps/s, {left} left"
            for done, left in [(81, "1:59"), (111, "1:29"), (141, "0:59"), (171, "0:29")]
        ),
    ]


def test_what_was_done_before_counts_for_no_estimate(caplog, now):
    """Batches that are looked up take no time, and the first that is not includes compilation."""
    with caplog.at_level(logging.INFO), ProgressBar(total=2000, description="sampling") as bar:
        for _ in range(10):
            bar.advance(100)
        now[0] += 20.0
        bar.advance(100)
        for _ in range(9):
            now[0] += 10.0
            bar.advance(100)
    assert [record.message for record in caplog.records] == [
        f"sampling: {done}/2000 examples, 10 examples/s, {left} left"
        for done, left in [(1400, "1:00"), (1700, "0:30"), (2000, "0:00")]
    ]


def test_work_of_many_short_parts_is_reported_too(caplog, now):
    with caplog.at_level(logging.INFO), ProgressBar(total=10_000) as bar:
        for step in range(1, 10_001):
            now[0] += 1 / 128
            bar.update(step)
    assert [record.message for record in caplog.records] == [
        "training: 3840/10000 steps",
        "training: 7680/10000 steps, 128 steps/s, 0:18 left",
    ]


def test_on_a_terminal_there_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with ProgressBar(total=20, description="sampling") as bar:
        for _ in range(4):
            bar.advance(5)
    shown = capsys.readouterr().err
    assert "sampling" in shown and "20/20" in shown and "examples/s" in shown
    with ProgressBar(total=20, initial=10) as bar:
        bar.update(20, 0.125)
    shown = capsys.readouterr().err
    assert "10/20" in shown and "20/20" in shown and "loss 0.125" in shown


def test_the_bar_on_a_terminal_does_not_count_compilation_either(capsys, monkeypatch, now):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])  # that of the bar
    with ProgressBar(total=1000, description="sampling") as bar:
        now[0] += 500.0
        bar.advance(100)
        for _ in range(3):
            now[0] += 1.0
            bar.advance(100)
    last = capsys.readouterr().err.split("\r")[-1]
    assert "400/1000 [00:03<00:06" in last and "100.00 examples/s" in last
