"""Sweeps: their runs by name, what is left to do of them, and the page that compares them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from score_sde import modes
from score_sde.cli import load_config, main
from score_sde.errors import UserError
from score_sde.sweeps import planned
from score_sde.training import step

ROOT = Path(__file__).parents[2]
TINY = """
from score_sde.config import default_config


def get_config():
    config = default_config()
    config.data.name = "toy:moons"
    config.model.name = "mlp"
    config.model.features = 8
    config.model.num_blocks = 1
    config.optim.warmup = 1
    config.optim.ema_rate = 0.5
    config.training.num_steps = 40
    config.training.batch_size = 8
    config.training.log_every = 10
    config.training.eval_every = 20
    config.training.checkpoint_every = 10
    config.likelihood.batch_size = 10_000
    return config


def sweep():
"""
FOUR = """
    for lr in (1e-3, 2e-3):
        for seed in (1, 2):
            yield {"optim.lr": lr, "seed": seed}
"""
NAMES = [f"optim.lr={lr}_seed={seed}" for lr in (0.001, 0.002) for seed in (1, 2)]


def _file(tmp_path, body):
    path = tmp_path / "mine.py"
    path.write_text(TINY + body)
    return path


def _swept(tmp_path, body, *flags):
    arguments = [f"--config={_file(tmp_path, body)}", f"--workdir={tmp_path / 'runs'}", "--mode=sweep"]
    return main([*arguments, *flags])


BAD = {
    "no sweep": (None, "has no sweep(); expected a function that yields the fields of each run, such as {"),
    "empty": ("    yield from ()", "yields no run; expected the fields of each, such as {"),
    "unknown field": (
        "    yield {'optim.lrr': 1.0}",
        "Run 0 of sweep() in * Unknown config field 'optim.lrr' in --config.optim.lrr=1.0. Did you mean 'optim.lr'?",
    ),
    "wrong value": ("    yield {'seed': 1}; yield {'seed': -1}", "Run 1 of sweep() in * config.seed is -1; expected"),
    "same": (
        "    yield {'seed': 1}; yield {'optim.lr': 1}; yield {'optim.lr': 1.0}",
        "Runs 1 and 2 of sweep() in * are both named optim.lr=1.0; expected runs that differ",
    ),
    "no mapping": ("    return ['seed']", "Run 0 of sweep() in * is 'seed'; expected fields and their values"),
    "fails": ("    yield {'seed': 1 // 0}", "* fails: ZeroDivisionError"),
    "endless": ("    while True: yield {}", "yields more than 10,000 runs; expected fewer."),
}


@pytest.mark.parametrize("case", BAD)
def test_a_sweep_that_is_none_is_refused_in_a_sentence(tmp_path, capsys, case):
    body, told = BAD[case]
    path = _file(tmp_path, body or "    pass")
    if body is None:
        path.write_text(path.read_text().replace("def sweep", "def swept"))
    assert main([f"--config={path}", f"--workdir={tmp_path / 'runs'}", "--mode=sweep"]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1 and all(part.strip() in said for part in told.split("*")), said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--index=4"], "--index is '4', and the sweep has 4 runs; expected a number from 0 to 3."),
        (["--index="], "--index is '', and the sweep has 4 runs;"),
        (["--index=-1"], "--index is '-1', and"),
        (
            ["--config.seed=3"],
            "Run 0 of sweep() in * sets seed=1, and so does the command line; leave one of them out.",
        ),
        (["--each=trian"], "--each names 'trian'. Did you mean 'train'? Expected some of train, demo,"),
        (["--each=import"], "--each names 'import'."),
    ],
)
def test_a_flag_that_does_not_fit_a_sweep_is_refused(tmp_path, capsys, flags, told):
    assert _swept(tmp_path, FOUR, *flags) == 2
    said = capsys.readouterr().err
    assert all(part.strip() in said for part in told.split("*")), said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--mode=sweep"], "takes its runs from sweep() in a configuration file; give --config=FILE."),
        (["--mode=train", "--index=1"], "--each=MODE and --index=I are for --mode=sweep; leave them out."),
    ],
)
def test_a_sweep_needs_a_file_and_alone_takes_its_flags(tmp_path, capsys, flags, told):
    assert main([f"--workdir={tmp_path}", *flags]) == 2
    assert told in capsys.readouterr().err


def test_a_run_is_the_configuration_with_its_fields(tmp_path):
    path = _file(tmp_path, FOUR)
    runs = planned(path, ["--config.sampling.snr=0.3"])
    assert [run.name for run in runs] == NAMES
    for run, lr in zip(runs, (0.001, 0.001, 0.002, 0.002), strict=True):
        alone = load_config(path, list(run.overrides))
        assert run.settings == alone and alone.optim.lr == lr and alone.sampling.snr == 0.3


def test_values_of_numpy_and_long_values_make_names_and_settings(tmp_path):
    body = "    import numpy as np\n    yield {'optim.lr': np.float64(0.25), 'model.widths': np.array([8, 4])}\n"
    long = (
        "    yield {'data.name': 'npz:/' + 'a/' * 200 + 'b.npz'}; yield {'data.name': 'npz:/' + 'a/' * 200 + 'c.npz'}"
    )
    first, *others = planned(_file(tmp_path, body + long), [])
    assert first.name == "optim.lr=0.25_model.widths=8x4" and first.settings.model.widths == (8, 4)
    assert len({run.name for run in others}) == 2 and all(len(run.name) <= 120 for run in others)


@pytest.fixture
def told(monkeypatch):
    """Training that only records its settings; runs with a learning rate of 2e-3 fail as long as this is set."""
    calls, failing = [], [True]

    def train(config, workdir, command):
        calls.append((workdir.name, command))
        workdir.mkdir()
        (workdir / "config.json").write_text(json.dumps(config.to_dict()))
        if failing and config.optim.lr == 2e-3:
            shutil.rmtree(workdir)
            raise UserError("The loss became nan.")

    monkeypatch.setitem(modes.MODES, "train", train)
    return calls, failing


def test_a_run_that_fails_stops_no_other_and_what_is_finished_is_left_alone(tmp_path, capsys, caplog, told):
    calls, failing = told
    assert _swept(tmp_path, FOUR) == 2
    assert f"2 runs failed, as is said above: {NAMES[2]}, {NAMES[3]}. The same command" in capsys.readouterr().err
    assert f"{NAMES[2]} failed: The loss became nan." in caplog.text
    assert [name for name, _ in calls] == NAMES
    assert f"--workdir={tmp_path / 'runs' / NAMES[1]} --mode=train --config.optim.lr=0.001" in calls[1][1]
    failing.clear()
    (tmp_path / "runs" / NAMES[0] / "sweep.json").write_text("{")  # what cannot be read is done again
    shutil.rmtree(tmp_path / "runs" / NAMES[0])
    assert _swept(tmp_path, FOUR) == 0
    assert [name for name, _ in calls[4:]] == [NAMES[0], *NAMES[2:]]
    page = (tmp_path / "runs" / "report.html").read_text()
    assert all(name in page for name in NAMES) and "optim.lr" in page


def test_an_index_takes_one_run_and_other_settings_are_not_finished(tmp_path, told):
    calls, _ = told
    assert _swept(tmp_path, FOUR, "--index=1") == 0
    assert _swept(tmp_path, FOUR, "--index=1") == 0
    assert [name for name, _ in calls] == [NAMES[1]]
    shutil.rmtree(tmp_path / "runs" / NAMES[1] / "config.json", ignore_errors=True)
    with pytest.raises(FileExistsError):  # of mkdir: the run is taken again
        _swept(tmp_path, FOUR, "--index=1", "--config.training.num_steps=50")


def test_a_directory_of_a_run_takes_no_sweep(tmp_path, capsys, told):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "config.json").write_text("{}")
    assert _swept(tmp_path, FOUR) == 2
    assert "which holds a run; expected a directory for the runs of a sweep." in capsys.readouterr().err


@pytest.mark.slow
def test_runs_that_differ_in_their_seed_alone_trace_one_training_step(tmp_path, monkeypatch):
    traces, real = [], step.update_ema
    monkeypatch.setattr(step, "update_ema", lambda *given: traces.append(None) or real(*given))
    assert _swept(tmp_path, "    yield from ({'seed': seed} for seed in (1, 2, 3))") == 0
    assert len(traces) == 1
    assert _swept(tmp_path, "    yield from ({'optim.lr': lr} for lr in (0.1, 0.2))") == 0
    assert len(traces) == 3
    losses = {(tmp_path / "runs" / f"seed={seed}" / "metrics.jsonl").read_bytes() for seed in (1, 2, 3)}
    assert len(losses) == 3
    flags = [f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'alone'}", "--mode=train", "--config.seed=2"]
    assert main(flags) == 0
    alone, swept = tmp_path / "alone", tmp_path / "runs" / "seed=2"
    assert (alone / "metrics.jsonl").read_bytes() == (swept / "metrics.jsonl").read_bytes()


def _killed_at(command, checkpoint, environment):
    """Start a command and kill it once there is a checkpoint."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not checkpoint.is_dir() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.is_dir() and process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_sweep_that_is_killed_twice_ends_in_the_same_runs_and_one_page(tmp_path):
    body = FOUR.replace("yield {", 'yield {"training.num_steps": 100, ')
    names = [f"training.num_steps=100_{name}" for name in NAMES]
    command = [sys.executable, "-m", "score_sde", f"--config={_file(tmp_path, body)}", "--mode=sweep"]
    here, environment = [*command, f"--workdir={tmp_path / 'runs'}"], os.environ | {"PYTHONPATH": str(ROOT)}
    for name in (names[0], names[2]):
        _killed_at(here, tmp_path / "runs" / name / "checkpoints" / "10", environment)
        assert not (tmp_path / "runs" / name / "sweep.json").exists()
    first = (tmp_path / "runs" / names[1] / "metrics.jsonl").stat().st_mtime_ns
    done = subprocess.run(here, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("There is nothing left to do for it.") == 2 and "Going on from step" in done.stderr
    assert (tmp_path / "runs" / names[1] / "metrics.jsonl").stat().st_mtime_ns == first
    page = (tmp_path / "runs" / "report.html").read_text()
    assert all(name in page for name in names) and page.count("<html") == 1
    alone = [command[3], f"--workdir={tmp_path / 'alone'}", "--mode=train", "--config.training.num_steps=100"]
    assert main([*alone, "--config.optim.lr=0.002", "--config.seed=1"]) == 0
    swept, whole = tmp_path / "runs" / names[2], tmp_path / "alone"
    assert (swept / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
