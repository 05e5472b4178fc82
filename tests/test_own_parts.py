"""A part of a user's own in its file is trained, sampled and measured through the command line, and found again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from score_sde.cli import main
from score_sde.files import read_json

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments" / "own_parts"
EXAMPLES = sorted(file for file in FOLDER.glob("*.py") if file.stem != "small")
#: Examples without a likelihood, and modes that need the part of an example where ``sample`` does not.
WITHOUT_LIKELIHOOD, NEEDED_BY = ("average_velocity",), {"data_set": "likelihood", "extractor": "eval"}
TINY = (
    *("--config.training.num_steps=4", "--config.training.log_every=2", "--config.training.eval_every=4"),
    *("--config.training.checkpoint_every=2", "--config.training.batch_size=8", "--config.optim.warmup=0"),
    *("--config.data.prefetch=0", "--config.sampling.num_steps=4", "--config.sampling.num_samples=4"),
    *("--config.sampling.batch_size=4", "--config.likelihood.num_examples=4", "--config.likelihood.num_steps=4"),
    *(
        "--config.likelihood.batch_size=4",
        "--config.likelihood.noise_levels=0",
        "--config.likelihood.budget_examples=0",
    ),
    "--config.evaluation.num_samples=40",
)


def run(mode, workdir, *arguments, config=None):
    given = [] if config is None else [f"--config={config}"]
    return main([f"--mode={mode}", f"--workdir={workdir}", *given, *arguments])


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_trained_sampled_and_measured(file, tmp_path, monkeypatch, capfd):
    """Without ``--config`` the record names the part, which is found where one starts, and only there."""
    assert len(file.read_text().splitlines()) < 40
    run_dir = tmp_path / "run"
    assert run("train", run_dir, *TINY, config=file) == 0
    recorded = json.loads((run_dir / "config.json").read_text())
    assert any(
        file.stem == str(value).partition(":")[0]
        for part in recorded.values()
        if isinstance(part, dict)
        for value in part.values()
    )
    assert run("train", run_dir, *TINY, "--config.training.num_steps=6", config=file) == 0
    monkeypatch.chdir(FOLDER)
    read = ("sampling", "likelihood", "evaluation")
    short = [argument for argument in TINY if any(group in argument for group in read)]
    assert run("sample", run_dir, *short) == 0
    with np.load(run_dir / "samples.npz") as samples:
        assert all(np.isfinite(samples[name]).all() for name in samples.files)
    if file.stem not in WITHOUT_LIKELIHOOD:
        assert run("likelihood", run_dir, *short) == 0
        report = read_json(run_dir / "likelihood.json", remedy="")
        assert report is not None and report["num_examples"] == 4
    assert run("eval", run_dir, *short) == 0
    metrics = read_json(run_dir / "metrics.json", remedy="") or {}
    assert (f"{file.stem}:" in json.dumps(metrics)) == (file.stem == "extractor")
    assert run("report", run_dir) == 0
    capfd.readouterr()
    shutil.copy(file, run_dir)
    monkeypatch.chdir(run_dir)
    mode = NEEDED_BY.get(file.stem, "sample")
    assert run(mode, run_dir, "--out=" + str(tmp_path / "out"), *short) == 2
    assert "where a record may come from anybody" in capfd.readouterr().err
