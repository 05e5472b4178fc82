"""A demo tells a person at a terminal what comes and what to do next, and a log no more than its modes do."""

import sys
from pathlib import Path

import pytest

from score_sde.cli import load_config
from score_sde.modes import demonstrating


@pytest.mark.parametrize("terminal", [True, False])
def test_a_demo_says_what_comes_and_what_to_do_next_on_a_terminal_alone(tmp_path, monkeypatch, caplog, terminal):
    called = []
    monkeypatch.setattr(demonstrating, "build_experiment", lambda *_: None)
    for name in ("run_train", "run_sample", "run_likelihood", "run_report"):
        monkeypatch.setattr(demonstrating, name, lambda *_, name=name: called.append((name, len(caplog.messages))))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    caplog.set_level("INFO")
    demonstrating.run_demo(load_config(Path("configs/vp/toy_mlp.py"), []), tmp_path / "a run", "command")
    steps = [line for line in caplog.messages if line.startswith("Step ")]
    assert [name for name, _ in called] == ["run_train", "run_sample", "run_likelihood", "run_report"]
    assert [told for _, told in called] == ([1, 2, 3, 4] if terminal else [0] * 4)
    assert [line.split(". ")[0] for line in steps[:1]] == ["Step 1 of 4: training, 6,000 steps"] * terminal
    assert all("not known before" in line or "takes seconds" in line for line in steps)
    assert ("--workdir='" in caplog.text and "--mode=pareto" in caplog.text) is terminal
