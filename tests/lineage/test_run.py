"""The command that runs the lineage: what it does once, what it does again, and what it makes of its flags."""

import json
import time

import numpy as np
import pytest

from score_sde.config import from_file
from score_sde.errors import UserError
from score_sde.modes.workdir import build_experiment
from tests.scripts import EXPERIMENTS, load_script

LINEAGE = EXPERIMENTS / "lineage"


@pytest.fixture
def runner():
    return load_script(LINEAGE / "run.py")


def test_what_is_done_is_not_done_again_and_an_interruption_loses_no_time(runner, tmp_path):
    config, calls = from_file(LINEAGE / "configs" / "vp.py"), []

    def mode(config, workdir, command):
        calls.append(config.sampling.num_samples)

    def interrupted(config, workdir, command):
        time.sleep(0.05)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.timed("train", config, tmp_path, "command", interrupted)
    runner.timed("train", config, tmp_path, "command", mode)
    runner.timed("train", config, tmp_path, "command", mode)
    assert len(calls) == 1
    assert json.loads((tmp_path / "stages.json").read_text())["train"]["seconds"] >= 0.05
    runner.timed("sample", config, tmp_path, "command", mode)
    config.sampling.num_samples = 7  # other samples, of the same network
    runner.timed("sample", config, tmp_path, "command", mode)
    runner.timed("train", config, tmp_path, "command", mode)
    assert calls == [1000, 1000, 7]


@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_shortened_runs_of_both_data_sets_keep_their_intervals(runner, data):
    for name in runner.NAMES:
        options = runner.parse([f"--data={data}", "--steps=120", "--samples=10", "--examples=20"])
        config = runner.configuration(name, options, 3).with_("data", shape=(28, 28, 1) if data == "mnist" else ())
        experiment = build_experiment(config)  # which refuses intervals that do not divide one another
        assert (config.training.num_steps, config.seed, config.sampling.num_samples) == (120, 3, 10)
        if config.objective.times == "levels":
            np.testing.assert_allclose(experiment.times, experiment.process.times[::-1], atol=1e-6)


def test_an_unknown_ancestor_is_refused_with_the_nearest(runner):
    with pytest.raises(UserError, match=r"Unknown ancestor 'ddmp'\. Did you mean 'ddpm'"):
        runner.parse(["--only=ddmp"])
