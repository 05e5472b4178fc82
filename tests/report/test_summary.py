"""The page of a run says what is there and how to make what is not; files are replaced whole or not at all."""

import errno
import json
import os
import re
from urllib.parse import unquote

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.files import atomic_write_json, atomic_write_text
from score_sde.machine import describe_machine
from score_sde.report.page import write_report
from score_sde.report.run import ARTIFACTS, PICTURES
from score_sde.report.summary import write_summary
from tests.checkpointing.small import save

MACHINE = {
    "platform": "Linux-6", "cpu": "Some CPU", "cpu_count": 2, "python": "3.11.1", "jax": "0.10.2", "backend": "cpu",
    "device_kind": "cpu", "device_count": 1,
}  # fmt: skip
LIKELIHOOD = {
    "bits_per_dim": 2.1234, "std_error": 0.0321, "nats_per_example": 5.0, "num_examples": 297,
    "protocol": "exact trace | uniform dequantization", "num_evals_mean": 45.25, "num_evals_max": 60, "seconds": 31.4,
    "probe_std_error": 0.01, "num_failed": 0, "date": "2025-01-02T03:04:05+00:00", "step": 5000,
    "command": "python -m score_sde --mode=likelihood", "hardware": MACHINE,
    "baseline": {"bits_per_dim": 2.573, "std_error": 0.036, "num_components": 80, "covariance": "diag", "seconds": 6.0},
}  # fmt: skip
SAMPLING = {
    "solver": "heun", "num_steps": 50, "num_evals": 99, "seconds": 1.5, "num_samples": 64, "denoising": "tweedie",
    "date": "2025-01-02T03:04:05+00:00", "command": "python -m score_sde --mode=sample", "hardware": MACHINE,
}  # fmt: skip


def _fill(workdir):
    config = {"seed": 42, "data": {"name": "digits", "centered": True}, "sde": {"name": "vp"}, "model": {"name": "mlp"}}
    atomic_write_json(workdir / "config.json", config)
    atomic_write_json(workdir / "likelihood.json", LIKELIHOOD)
    atomic_write_json(workdir / "sampling.json", SAMPLING)
    atomic_write_json(workdir / "eval.json", {"loss": 0.125, "std_error": 0.001, "step": 5000})
    lines = [
        '{"step": 50, "loss": 0.5, "eval_loss": 0.25, "eval_loss_std_error": 0.01}',
        '{"step": 100, "loss": 0.125}',
    ]
    atomic_write_text(workdir / "metrics.jsonl", "\n".join([*lines, '{"step": 1']))
    for name, _, _ in ARTIFACTS + PICTURES:
        if not (workdir / name).exists():
            (workdir / name).touch() if "." in name else (workdir / name).mkdir()


def test_a_complete_run_shows_everything(tmp_path):
    _fill(tmp_path)
    path = write_summary(tmp_path)
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "summary.md" and "not yet run" not in page
    for expected in (
        "2.123 ± 0.032 bits/dim", "2.573 ± 0.036 bits/dim", "80 components, diag covariance", "exact trace \\| uniform",
        "| 45.25 |  | at most 60 |", "31.4 s", "| 0.125 |", "0.250 ± 0.010", "at step 100", "digits · vp · mlp",
        "seed = `42`", "heun, 50 steps", "python -m score_sde --mode=sample", "2025-01-02",
        "2 CPUs of Some CPU", "JAX 0.10.2",
    ):  # fmt: skip
        assert expected in page, expected
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert all((tmp_path / link).exists() for link in links)
    assert {name for name, _, _ in PICTURES} | {name for name, _, _ in ARTIFACTS} <= set(links)
    for table_row in (line for line in page.splitlines() if line.startswith("| ") and "group" not in line):
        assert len(re.findall(r"(?<!\\)\|", table_row)) in (3, 5)


def test_an_empty_directory_says_how_to_make_each_thing(tmp_path):
    page = write_summary(tmp_path).read_text(encoding="utf-8")
    for mode in ("train", "sample", "likelihood", "eval", "demo"):
        assert f"not yet run: `--mode={mode}`" in page
    assert "![" not in page


@pytest.mark.parametrize("missing", [name for name, _, _ in ARTIFACTS + PICTURES])
def test_any_one_thing_may_be_missing(tmp_path, missing):
    _fill(tmp_path)
    target = tmp_path / missing
    target.rmdir() if target.is_dir() else target.unlink()
    page = write_summary(tmp_path).read_text(encoding="utf-8")
    mode = next(mode for name, _, mode in ARTIFACTS + PICTURES if name == missing)
    assert f"not yet run: `--mode={mode}`" in page
    assert f"]({missing})" not in page


def test_continuous_data_are_shown_in_nats_and_failures_are_not_hidden(tmp_path):
    report = {
        k: v for k, v in LIKELIHOOD.items() if k not in ("bits_per_dim", "std_error", "baseline", "probe_std_error")
    }
    atomic_write_json(tmp_path / "likelihood.json", report | {"nats_std_error": 0.25, "num_failed": 3})
    page = write_summary(tmp_path).read_text(encoding="utf-8")
    assert "5.00 ± 0.25 nats per example" in page and "bits/dim" not in page
    assert "| Failed solves | 3 |" in page


def test_what_one_example_does_not_tell_is_left_out(tmp_path):
    nothing = {"mean": 0.0739, "std_error": None}
    budget = {"images": None, "probes": 0.1, "prior": 1e-5, "num_examples": 1, "solver": nothing, "truncation": nothing}
    report = {"num_examples": 1, "std_error": None, "budget": budget, "interval": [None, None], "bound_times": 1}
    atomic_write_json(
        tmp_path / "likelihood.json", LIKELIHOOD | report | {"bound_bits_per_dim": 2.0, "bound_seconds": 1.0}
    )
    page = write_summary(tmp_path).read_text(encoding="utf-8")
    results = page.partition("## Pictures")[0]
    assert "| +0.0739 bits/dim |" in results and "on 1 example;" in results and "1 noise level per example" in results
    assert "\N{EN DASH}" not in results and "1 examples" not in results


def test_sparse_reports_do_not_stop_the_page(tmp_path):
    for name in ("likelihood.json", "sampling.json", "eval.json", "config.json"):
        atomic_write_json(tmp_path / name, {})
    page = write_summary(tmp_path).read_text(encoding="utf-8")
    assert "| Held-out likelihood | *not yet run: `--mode=likelihood`* |" in page and "## Files" in page


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(tmp_path):
    _fill(tmp_path)
    (tmp_path / "likelihood.json").write_text("{", encoding="utf-8")
    (tmp_path / "config.json").write_text("[1]", encoding="utf-8")
    page = write_summary(tmp_path).read_text(encoding="utf-8")
    assert "likelihood.json cannot be read (Expecting property name" in page
    assert "config.json cannot be read (it is JSON, but no object)" in page
    assert "heun, 50 steps" in page and "at step 100" in page


FORMS = [None, 3, "text", [], [1], {}, {"mean": 1}, True, -1.5]


@pytest.mark.parametrize("name", ["likelihood.json", "sampling.json", "eval.json"])
def test_no_form_of_a_report_stops_the_page(tmp_path, name):
    """Every field of a report in turn holds something else than what is written there."""
    whole = {"likelihood.json": LIKELIHOOD, "sampling.json": SAMPLING, "eval.json": {"loss": 0.1, "step": 3}}[name]
    whole |= {"budget": {}, "interval": [], "chain_bound": {}, "bound_bits_per_dim": 1.0, "quantity": "x"}
    for field in whole:
        for value in FORMS:
            atomic_write_json(tmp_path / name, whole | {field: value})
            assert "## Files" in write_summary(tmp_path).read_text(encoding="utf-8")


HOSTILE = "<script>alert(1)</script> [x](javascript:alert(1)) `` ``` <img src=x> | \n# title"


def test_hostile_text_stays_text(tmp_path):
    def infected(value):
        if isinstance(value, dict):
            return {f"{key}": infected(item) for key, item in value.items()} | {HOSTILE: HOSTILE}
        return HOSTILE if isinstance(value, str) else value

    _fill(tmp_path)
    for name in ("config.json", "likelihood.json", "sampling.json", "eval.json"):
        atomic_write_json(tmp_path / name, infected(json.loads((tmp_path / name).read_text(encoding="utf-8"))))
    page = write_summary(tmp_path).read_text(encoding="utf-8")
    assert "alert" in page
    # What is left outside of code is escaped: neither tags nor links nor headings of its own.
    prose = re.sub(r"(?ms)^(`{3,})sh\n.*?^\1$", "", page)
    prose = re.sub(r"(?<!`)(`+)(?!`)(.*?)(?<!`)\1(?!`)", "", re.sub(r"\\`", "", prose))
    assert "<script" not in prose and "<img" not in prose
    assert not re.findall(r"(?<!\\)\]\(javascript", prose)
    assert not re.findall(r"(?m)^# title", prose)


def test_numpy_numbers_become_json(tmp_path):
    value = {"a": np.float32(0.1), "b": np.arange(3), "c": (1, 2), "d": tmp_path}
    atomic_write_json(tmp_path / "x.json", value)
    read = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert read == {"a": float(np.float32(0.1)), "b": [0, 1, 2], "c": [1, 2], "d": str(tmp_path)}
    with pytest.raises(TypeError, match="object"):
        atomic_write_json(tmp_path / "x.json", object())


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "note.txt"
    atomic_write_text(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match=r"note.txt \(No space left on device\).*--workdir"),
    ):
        patch.setattr(os, "replace", full)
        atomic_write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"] and path.read_text(encoding="utf-8") == "old"
    with pytest.raises(UserError, match="Cannot write"):
        atomic_write_text(path / "below_a_file.txt", "new")


def test_the_machine_can_be_described():
    machine = describe_machine()
    assert json.loads(json.dumps(machine)) == machine
    assert machine["backend"] == "cpu" and 1 <= machine["cpu_count"] <= (os.cpu_count() or 1)
    assert set(MACHINE) == set(machine)


@pytest.mark.parametrize("names", [("run", "out"), ("a run (old)", "run/out")])
def test_a_page_elsewhere_shows_the_results_there_and_leads_to_the_rest(tmp_path, names):
    run, out = (tmp_path / name for name in names)
    out.mkdir(parents=True)
    run.mkdir(exist_ok=True)
    _fill(run)
    atomic_write_json(out / "sampling.json", SAMPLING | {"solver": "unipc_2"})
    (out / "samples.png").write_bytes(b"newer")
    page = write_summary(run, out)
    text = page.read_text(encoding="utf-8")
    assert page == out / "summary.md" and "unipc_2, 50 steps" in text and "heun" not in text
    assert "2.123 ± 0.032 bits/dim" in text and "at step 100" in text and "not yet run" not in text
    links = [unquote(link) for link in re.findall(r"\]\(([^)]*)\)", text)]
    assert {(out / link).resolve() for link in links} == {
        (out if (out / name).exists() else run).resolve() / name for name, _, _ in ARTIFACTS + PICTURES
    }


def test_a_run_that_has_lost_its_configuration_shows_that_of_its_checkpoints(tmp_path):
    save(tmp_path, 10)
    for page in (write_summary(tmp_path), write_report(tmp_path)):
        text = page.read_text(encoding="utf-8")
        assert "0.001" in text and "widths" in text, page
