"""Damage of any kind to any small file ends in the right numbers or in one sentence, and never stops a page.

The damages are drawn from a seed: a flipped bit, a cut, bytes taken out, put in or replaced.
"""

import collections
import json
import random

import numpy as np
import pytest
from PIL import Image

from score_sde.config import default_config, from_file
from score_sde.data import load_source, write_array_records
from score_sde.errors import UserError
from score_sde.evaluation.partial import Partial
from score_sde.evaluation.record import EvaluationRecord
from score_sde.files import atomic_write_json, read_json_lines
from score_sde.metrics import ReferenceStatistics, moments, read_statistics, write_statistics
from score_sde.report.page import write_report
from score_sde.report.summary import write_summary

LEGS = [pytest.param(60, id="short"), pytest.param(3000, id="long", marks=pytest.mark.long)]
POINTS = np.random.RandomState(0).standard_normal((30, 3)).astype(np.float32)
PIXELS = np.random.RandomState(1).randint(0, 256, (12, 10, 3)).astype(np.uint8)


def _damaged(data, rng):
    data, place = bytearray(data), rng.randrange(len(data))
    kind = rng.randrange(5)
    if kind == 0:
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[place:]
    elif kind == 2:
        del data[place : place + rng.randrange(1, 9)]
    elif kind == 3:
        data[place:place] = rng.randbytes(rng.randrange(1, 9))
    else:
        data[place : place + 4] = rng.randbytes(4)
    return bytes(data)


def _trial(path, read, right, count, most_lines=1):
    """Read a file damaged in many ways; how often that ended in what. ``right`` says whether a result may stand."""
    whole, rng, ends = path.read_bytes(), random.Random(path.name), collections.Counter()
    assert right(read())
    for number in range(count):
        path.write_bytes(_damaged(whole, rng))
        try:
            assert right(read()), f"damage {number} altered what is read"
            ends["right"] += 1
        except UserError as error:
            assert str(error).count("\n") < most_lines and len(str(error)) < 1000 * most_lines, error
            ends["refused"] += 1
    path.write_bytes(whole)
    return ends


@pytest.mark.parametrize("count", LEGS)
def test_a_table_of_data_has_its_numbers_or_is_refused(tmp_path, count):
    np.savez_compressed(tmp_path / "data.npz", train=POINTS, test=POINTS[:5], train_labels=np.arange(30) % 4)

    def read():
        source = load_source(f"npz:{tmp_path / 'data.npz'}", "train")
        return source.gather(np.arange(len(source)))

    ends = _trial(tmp_path / "data.npz", read, lambda found: np.array_equal(found, POINTS), count)
    assert ends["refused"] > count / 2


@pytest.mark.parametrize("count", LEGS)
def test_statistics_have_their_numbers_or_are_refused(tmp_path, count):
    statistics = ReferenceStatistics(
        moments=moments(POINTS), features_subset=POINTS[:7], extractor="net", extractor_sha256="ab" * 32,
        source="toy", split="train", count=30, shape=(3,), num_levels=None,
    )  # fmt: skip
    write_statistics(path := tmp_path / "statistics.npz", statistics)
    ends = _trial(path, lambda: read_statistics(path), lambda found: found.sha256 == statistics.sha256, count)
    assert ends["refused"] > count / 2


@pytest.mark.parametrize("count", LEGS)
@pytest.mark.parametrize("name", ["a.part", "a.part.json"])
def test_a_partial_measurement_has_its_numbers_or_is_made_again(tmp_path, count, name):
    kept = Partial(tmp_path / "a.part", "this")
    kept.add([POINTS[:20], np.arange(20)], 1.5)
    kept.add([POINTS[20:], np.arange(20, 30)], 0.5)
    saved = [column.copy() for column in kept.columns()]

    def right(found):
        if not found.batches:
            return True
        return found.count == 30 and all(map(np.array_equal, found.columns(), saved))

    _trial(tmp_path / name, lambda: Partial(tmp_path / "a.part", "this"), right, count)


@pytest.mark.parametrize("count", LEGS)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_an_image_is_read_or_refused_by_name(tmp_path, count, kind):
    """Of these formats only PNG has checksums."""
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.fromarray(PIXELS).save(tmp_path / split / f"0.{kind.lower()}", kind)
    path = tmp_path / "train" / f"0.{kind.lower()}"
    original = load_source(f"folder:{tmp_path}", "train").gather(np.arange(1))

    def right(source):
        found = source.gather(np.arange(1))
        return np.array_equal(found, original) if kind == "PNG" else found.shape == original.shape

    _trial(path, lambda: load_source(f"folder:{tmp_path}", "train"), right, count)


@pytest.mark.parametrize("count", [pytest.param(40, id="short"), pytest.param(400, id="long", marks=pytest.mark.long)])
def test_records_are_those_that_were_written_or_are_refused(tmp_path, count, capfd):
    for split in ("train", "test"):
        write_array_records(tmp_path / f"{split}.array_record", np.stack([PIXELS] * 12))

    def read():
        source = load_source(f"arrayrecord:{tmp_path}", "train")
        return source.gather(np.arange(len(source)))

    ends = _trial(tmp_path / "train.array_record", read, lambda found: (found == PIXELS).all(), count)
    assert ends["refused"] > count / 4


@pytest.mark.parametrize("count", LEGS)
def test_a_record_of_a_configuration_is_one_or_is_refused(tmp_path, count):
    path = tmp_path / "config.json"
    atomic_write_json(path, default_config().to_dict())
    names = set(default_config().to_dict())
    _trial(path, lambda: from_file(path), lambda config: set(config.to_dict()) == names, count, most_lines=40)


def _run(workdir):
    """A run with a file of every kind that a page reads."""
    workdir.mkdir()
    metrics = {"frechet": {"value": 2.0, "std_error": 0.1, "interval": [1.0, 3.0], "details": {"corrected": 1.9}}}
    entry = {"step": 2, "parameters": "x", "loss": 0.5, "loss_std_error": 0.1, "metrics": metrics}
    hardware = {"device_kind": "cpu", "device_count": 1, "cpu": "Some CPU", "cpu_count": 2}
    how = {"command": "python -m score_sde", "date": "2026-01-01", "step": 2, "hardware": hardware}
    likelihood = {"bits_per_dim": 2.5, "std_error": 0.1, "interval": [2.4, 2.6], "num_examples": 30, "seconds": 1.0}
    for name, value in {
        "config.json": default_config().to_dict(),
        "evaluation.json": {"identity": "this", "checkpoints": [entry], "best": 2, "best_by": "loss", **how},
        "metrics.json": {"metrics": metrics, **how},
        "eval.json": {"loss": 0.5, "std_error": 0.1, **how},
        "likelihood.json": likelihood | how,
        "sampling.json": {"solver": "heun", "num_steps": 5, "num_evals": 9, "num_samples": 4, "seconds": 1.0, **how},
    }.items():
        atomic_write_json(workdir / name, value)
    np.savez(workdir / "likelihood.npz", bits_per_dim=np.linspace(2.0, 3.0, 30))
    Image.fromarray(PIXELS).save(workdir / "samples.png")
    lines = [{"step": step, "loss": 1.0 / step, "eval_loss": 1.0 / step, "eval_loss_std_error": 0.1} for step in (1, 2)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workdir


PAGE_FILES = [
    "config.json", "evaluation.json", "metrics.json", "eval.json", "likelihood.json", "sampling.json", "metrics.jsonl",
    "likelihood.npz", "samples.png",
]  # fmt: skip


@pytest.mark.parametrize("count", [pytest.param(3, id="short"), pytest.param(100, id="long", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", PAGE_FILES)
def test_no_damage_to_a_file_of_a_run_stops_a_page(tmp_path, name, count):
    workdir = _run(tmp_path / "run")

    def pages():
        write_summary(workdir)
        write_report(workdir)
        read_json_lines(workdir / "metrics.jsonl")
        return EvaluationRecord(workdir / "evaluation.json", "this", best_by="", provenance={}).entries

    ends = _trial(workdir / name, pages, lambda found: isinstance(found, dict), count)
    assert not ends["refused"]


DEEP = b"[" * 100_000
ODD = [b"", b"null", b"[1]", DEEP, b"3", b"\xff\xfe", bytes(50), b'{"step": ' + DEEP]
ODD += [b'{"step": 1e999}', b'{"a": "\\ud800"}']


@pytest.mark.parametrize("name", [name for name in PAGE_FILES if "json" in name])
def test_no_form_of_a_file_of_a_run_stops_a_page(tmp_path, name):
    workdir = _run(tmp_path / "run")
    for content in ODD if name == "likelihood.json" else ODD[2:4]:
        (workdir / name).write_bytes(content)
        write_summary(workdir)
        write_report(workdir)
        assert "cannot be read" in (workdir / "report.html").read_text() or name == "metrics.jsonl"
    (workdir / name).unlink()
    (workdir / name).mkdir()
    write_summary(workdir)
    write_report(workdir)
    assert "it is a directory" in (workdir / "report.html").read_text()
