"""A working directory may be a bucket: every result is the same as on a disk, and what a bucket lacks is said."""

import importlib
import itertools
import json
import os
import signal
import socket
import sys
import time

import numpy as np
import pytest
from orbax.checkpoint._src.path import gcs_utils

from score_sde.checkpointing import Checkpoints, CheckpointWriter, uploads
from score_sde.checkpointing.storage import COMPLETE, Store
from score_sde.cli import load_config, main
from score_sde.errors import UserError
from score_sde.evaluation.partial import Partial, discard, partial_file
from score_sde.evaluation.results import keep_earlier
from score_sde.files import (
    Bucket,
    Growing,
    Unreadable,
    atomic_path,
    atomic_savez,
    atomic_write_json,
    check_writable,
    locks,
    one_at_a_time,
    only_writer,
    read_arrays,
    read_json,
)
from score_sde.modes.workdir import build_experiment
from score_sde.report.summary import write_summary
from score_sde.training.writers import MetricWriter
from tests.buckets import Objects, opened
from tests.checkpointing.small import bits, like, save, state_at
from tests.training.test_resume import ROOT

TOY = ROOT / "configs" / "vp" / "toy_mlp.py"
TINY = {
    "model.features": 8,
    "model.num_blocks": 1,
    "training.num_steps": 8,
    "training.batch_size": 8,
    "training.log_every": 1,
    "training.eval_every": 4,
    "training.checkpoint_every": 4,
    "training.sample_every": 8,
    "training.keep_checkpoints": 1,
    "optim.ema_widths": (0.1,),
    "optim.ema_snapshot_every": 4,
    "sampling.num_samples": 20,
    "sampling.batch_size": 8,
    "sampling.num_steps": 3,
    "likelihood.num_examples": 20,
    "likelihood.batch_size": 10,
    "likelihood.num_steps": 4,
    "likelihood.budget_examples": 0,
    "likelihood.noise_levels": 0,
}
#: Fields that say when, where, by whom and how fast something was measured.
HOW = ("command", "date", "hardware", "seconds", "seconds_per_batch")


@pytest.fixture
def bucket(tmp_path):
    """A bucket; its objects lie in ``tmp_path / "objects"``."""
    with opened(tmp_path / "objects") as found:
        yield found


def _main(workdir, mode, *flags):
    overrides = [f"--config.{name}={value}" for name, value in TINY.items()] if mode != "report" else []
    config = [f"--config={TOY}"] if mode != "report" else []
    return main([*config, f"--workdir={workdir}", f"--mode={mode}", *overrides, *flags])


def _without(report):
    if isinstance(report, dict):
        return {name: _without(value) for name, value in report.items() if name not in HOW}
    return report


def _comparable(path):
    """The bytes of a result, but for where it comes from."""
    if path.suffix == ".json":
        return json.dumps(_without(json.loads(path.read_bytes())))
    return path.read_bytes()


@pytest.mark.long
def test_a_run_in_a_bucket_that_is_stopped_and_goes_on_leaves_the_files_of_one_on_a_disk(bucket, tmp_path, monkeypatch):
    """Train, stop, go on, sample, measure, export and report; but for the clock, every file has the same bytes."""
    write, there = MetricWriter.write, bucket / "runs" / "run"

    def stop(self, step, *rest, **keywords):
        write(self, step, *rest, **keywords)
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricWriter, "write", stop)
    assert _main(there, "train") == 0
    monkeypatch.setattr(MetricWriter, "write", write)
    assert Checkpoints(there).steps == [7] and len((there / "metrics.jsonl").read_bytes().splitlines()) == 7
    here = tmp_path / "run"
    for mode in ("train", "sample", "likelihood", "export", "report"):
        assert (_main(there, mode), _main(here, mode)) == (0, 0), mode
    assert bits(_state(there)) == bits(_state(here))
    objects = tmp_path / "objects" / "bucket" / "runs" / "run"
    assert _names(objects) == _names(here)
    for name in sorted(_names(here) - {"summary.md", "report.html"}):
        assert _comparable(objects / name) == _comparable(here / name), name
    pages = [(place / "report.html").read_text() for place in (objects, here)]
    assert pages[0].count("data:image/png") == pages[1].count("data:image/png") > 0
    assert all(file.stat().st_size for file in (objects / "tensorboard").iterdir())


def _names(workdir):
    """The files of a run, without those of TensorBoard, whose names are times, and of Orbax."""
    files = (path.relative_to(workdir) for path in workdir.rglob("*") if path.is_file())
    return {file.as_posix() for file in files if file.parts[0] not in ("tensorboard", "checkpoints", "averages")}


def _state(workdir):
    config = load_config(TOY, [f"--config.{name}={value}" for name, value in TINY.items()])
    return Checkpoints(workdir).restore_newest(build_experiment(config).abstract_state()).state


def _refusing(*_, **__):
    raise ValueError("429: quota exceeded")


def _missing(*_, **__):
    raise FileNotFoundError("https://storage")


def test_a_bucket_without_a_driver_of_an_unknown_kind_or_out_of_reach_is_refused_at_once(bucket, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    said = {
        "s3://bucket/run": "s3:// needs a driver: pip install s3fs.",
        "ftp://host/run": "expected a path in a file system, or gs://BUCKET/PATH or s3://BUCKET/PATH or az://",
        "gs://": "expected a path in a file system, or gs://BUCKET/PATH",
        "gs://bucket/run": "cannot be reached (429: quota exceeded)",
    }
    monkeypatch.setattr(Objects, "ls", _refusing)
    for place, sentence in said.items():
        for flags in ([f"--workdir={place}"], ["--workdir=x", f"--out={place}"]):
            assert main([f"--config={TOY}", "--mode=sample", *flags]) == 2
            error = capsys.readouterr().err
            assert error.startswith(f"score_sde: {flags[-1].partition('=')[0]} is '{place}'") and sentence in error


def test_what_a_bucket_refuses_or_holds_damaged_is_one_sentence_with_its_place(bucket, monkeypatch):
    (bucket / "a.json").write_bytes(b"{")
    with pytest.raises(Unreadable, match=r"^gs://bucket/a\.json cannot be read \(Expecting property name"):
        read_json(bucket / "a.json")
    with pytest.raises(Unreadable, match=r"^gs://bucket cannot be read \(it is a directory\)"):
        read_json(bucket)
    assert read_json(bucket / "b.json") is None
    monkeypatch.setattr(Objects, "put_file", _refusing)
    with pytest.raises(UserError, match=r"^Cannot write gs://bucket/a\.json \(429: quota exceeded\); give another"):
        atomic_write_json(bucket / "a.json", {})
    monkeypatch.setattr(Objects, "open", _refusing)
    with pytest.raises(UserError, match=r"^Cannot write gs://bucket/runs \(429: quota exceeded\); give another"):
        check_writable(bucket / "runs")
    monkeypatch.setattr(Objects, "open", _missing)
    with pytest.raises(UserError, match=r"^Cannot write gs://bucket/runs \(there is no such bucket\); give another"):
        check_writable(bucket / "runs")


def test_an_object_is_written_whole_or_not_at_all(bucket):
    atomic_savez(bucket / "a.npz", x=np.arange(3))
    with pytest.raises(RuntimeError), atomic_path(bucket / "a.npz") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    np.testing.assert_array_equal(read_arrays(bucket / "a.npz")["x"], np.arange(3))
    assert [path.name for path in bucket.iterdir()] == ["a.npz"]


def test_a_lock_in_a_bucket_has_one_holder_is_renewed_and_lapses_with_it(bucket, monkeypatch, caplog):
    place, lock = bucket / "run", bucket / "run" / ".train.lock"
    monkeypatch.setattr(locks, "_RENEWED", 0.01)
    with only_writer(place, "train", doing="training"):
        first = _renewed_after(lock, 0.0)
        who = rf"^Process {os.getpid()} on .* has been training since .*; wait.* lapses within 5 minutes\.$"
        with pytest.raises(UserError, match=who), only_writer(place, "train", doing="training, too"):
            raise AssertionError
        with only_writer(place, "sample", doing="sampling"):
            _renewed_after(lock, first)
    assert not lock.exists()
    for holder in (
        {"host": "elsewhere", "process": 1, "renewed": time.time() - 301},
        {"host": socket.gethostname(), "process": 2**22 + 1, "renewed": time.time()},  # more than Linux counts to
    ):
        atomic_write_json(lock, {"doing": "training", "since": "long ago", **holder})
        with only_writer(place, "train", doing="training"):
            atomic_write_json(lock, {"host": "elsewhere"})  # as another one that takes a lapsed lock at the same time
            _wait(lambda: "is another's now" in caplog.text)
            caplog.clear()
        assert read_json(lock) == {"host": "elsewhere"}
    atomic_write_json(
        lock, {"doing": "training", "since": "now", "host": "elsewhere", "process": 1, "renewed": time.time()}
    )
    with pytest.raises(UserError, match="Process 1 on elsewhere"), only_writer(place, "train", doing="training"):
        raise AssertionError


def test_a_place_in_a_bucket_where_nothing_is_yet_has_one_writer_too(bucket):
    @one_at_a_time("sample")
    def mode(config, workdir, *, out):
        with pytest.raises(UserError, match="has been running --mode=sample in gs://bucket/new"), lock:
            raise AssertionError

    lock = only_writer(bucket / "new", "sample", doing="sampling")
    mode(None, bucket, out=bucket / "new")


def _renewed_after(lock, moment):
    _wait(lambda: read_json(lock)["renewed"] > moment)
    return read_json(lock)["renewed"]


def _wait(done):
    end = time.monotonic() + 60.0
    while not done():
        assert time.monotonic() < end


def test_what_grows_is_in_the_bucket_when_it_is_asked_for_and_else_when_it_takes_little_time(bucket, monkeypatch):
    writer = MetricWriter(bucket)
    writer.write(1, {"loss": 1.0})  # the first is written at once
    monkeypatch.setattr(importlib.import_module(Growing.__module__), "_SHARE", 1e-9)
    for step in (2, 3):
        writer.write(step, {"loss": 1.0})
    assert len((bucket / "metrics.jsonl").read_bytes().splitlines()) < 3
    writer.flush()
    lines = (bucket / "metrics.jsonl").read_bytes()
    assert len(lines.splitlines()) == 3
    writer = MetricWriter(bucket)
    writer.truncate(2)
    writer.write(3, {"loss": 1.0})
    writer.flush()
    assert (bucket / "metrics.jsonl").read_bytes() == lines


def test_a_measurement_in_a_bucket_goes_on_elsewhere_with_what_had_come_there(bucket):
    path = partial_file(bucket, "samples", "seed 7")
    first = Partial(path, "seed 7")
    for number in range(2):
        first.add([np.full(3, number)], 1.0)
        first._file._due = 0.0
    again = Partial(path, "seed 7")
    assert again.batches == 2
    again.add([np.full(2, 2)], 1.0)
    np.testing.assert_array_equal(again.columns()[0], [0, 0, 0, 1, 1, 1, 2, 2])
    discard(path)
    assert not list(bucket.glob("*"))


def test_results_of_other_settings_are_kept_in_a_bucket_too(bucket):
    for identity in ("first", "second"):
        keep_earlier(bucket, "pareto", identity)
        atomic_write_json(bucket / "pareto.json", {"identity": identity})
        (bucket / "pareto.md").write_text(identity)
    assert read_json(bucket / "earlier" / "pareto-1" / "pareto.json") == {"identity": "first"}
    assert (bucket / "earlier" / "pareto-1" / "pareto.md").read_text() == "first"
    assert (bucket / "pareto.md").read_text() == "second"


def test_a_page_in_a_bucket_links_to_what_lies_there_and_to_what_lies_on_a_disk(bucket, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "loss.png").write_bytes(b"")
    (bucket / "a b" / "samples.png").write_bytes(b"")
    page = write_summary(tmp_path / "run", bucket / "a b").read_text()
    assert f"({tmp_path}/run/loss.png)" in page and "(samples.png)" in page
    assert "(gs://bucket/a%20b/samples.png)" in write_summary(bucket / "a b", tmp_path / "run").read_text()


def test_a_checkpoint_in_a_bucket_is_there_whole_or_not_at_all(bucket, monkeypatch):
    save(bucket, 1, 2)
    put = Objects.put_file
    for breaks in (
        lambda number, name: number == 0,
        lambda number, name: number == 3,
        lambda _, name: COMPLETE in name,
    ):
        numbers = itertools.count()

        def breaking(self, source, target, breaks=breaks, numbers=numbers):
            if breaks(next(numbers), target):
                raise ConnectionError("reset by peer")
            put(self, source, target)

        monkeypatch.setattr(Objects, "put_file", breaking)
        with pytest.raises(UserError, match=r"Cannot write checkpoints to gs://bucket/checkpoints \(reset by peer\)"):
            save(bucket, 3)
        assert Checkpoints(bucket).steps == [1, 2]
    monkeypatch.setattr(Objects, "put_file", put)
    CheckpointWriter(bucket).close()
    assert sorted(path.name for path in (bucket / "checkpoints").iterdir()) == ["1", "2"]
    assert bits(Checkpoints(bucket).restore_newest(like()).state) == bits(state_at(2))


def test_damaged_checkpoints_of_a_bucket_are_passed_over_and_moved_aside(bucket, caplog):
    save(bucket, 1, 2)
    victim = next(path for path in Objects().find("gs://bucket/checkpoints/2/state") if "/d/" in path)
    Bucket(f"gs://{victim}").write_bytes(b"damaged")
    with CheckpointWriter(bucket) as writer:
        assert bits(writer.restore_newest(like()).state) == bits(state_at(1))
        assert writer.steps == [1]
    assert "Checkpoint 2 cannot be read" in caplog.text
    assert (bucket / "damaged_checkpoints" / "2" / "state").is_dir()


def test_what_several_processes_write_to_a_bucket_is_read_like_what_one_has_written(bucket, tmp_path, monkeypatch):
    """Several write by Orbax itself, here one of them, and with this disk in place of the bucket for its arrays."""
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    monkeypatch.setattr(
        gcs_utils,
        "get_kvstore_for_gcs",
        lambda path: {"driver": "file", "path": path.replace("gs://", f"{tmp_path}/objects/")},
    )
    monkeypatch.setattr(uploads, "Uploads", Store)
    save(bucket, 1, 2, 3, keep=2)
    monkeypatch.undo()
    assert Checkpoints(bucket).steps == [2, 3]
    assert bits(Checkpoints(bucket).restore_newest(like()).state) == bits(state_at(3))
    monkeypatch.setattr(uploads.jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"Several processes cannot write checkpoints to s3://bucket; give .* gs://"):
        uploads.store_in(Bucket("s3://bucket"))
