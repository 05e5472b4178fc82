"""What a run begins with is said before it begins, and where its results are when it has ended."""

from pathlib import Path

import numpy as np
import pytest

from score_sde.cli import load_config, main
from score_sde.errors import UserError
from score_sde.evaluation.metrics import extractor_of
from score_sde.metrics import read_statistics
from score_sde.modes import GROUPS, MODES, TABLE, statistics, training
from score_sde.modes.workdir import data_info


def test_training_and_statistics_say_what_the_data_are(tmp_path, caplog, monkeypatch):
    points = np.random.RandomState(0).standard_normal((40, 2))
    np.savez(tmp_path / "points.npz", x=points, extra=points)
    caplog.set_level("INFO")

    def stop(*_, **__):
        raise UserError("enough")

    monkeypatch.setattr(training, "train", stop)
    name = f"npz:{tmp_path / 'points.npz'}"
    for mode, code in (("train", 2), ("stats", 0)):
        caplog.clear()
        flags = [f"--mode={mode}", "--config=configs/vp/toy_mlp.py", f"--config.data.name={name}"]
        assert main([*flags, f"--workdir={tmp_path / mode}"]) == code
        split = ", 36 in train and 4 in test." if mode == "train" else ", 36 in train."
        count = 40 if mode == "train" else 36
        assert caplog.messages.count(f"{name}: {count} examples of shape 2{split}") == 1
        assert caplog.messages.count(f"{name}: the arrays it holds besides are ignored ('extra').") == 1


def test_training_ends_well_without_a_loss_to_draw(tmp_path, caplog, monkeypatch):
    """The work is done when the picture is due: metrics that a run has lost since are no reason to fail."""
    monkeypatch.setattr(training, "train", lambda experiment, *_, **__: experiment.abstract_state())
    (tmp_path / "metrics.jsonl").write_text("no line of metrics\n")
    assert main(["--mode=train", "--config=configs/vp/toy_mlp.py", f"--workdir={tmp_path}"]) == 0
    told = f"There is no loss in {tmp_path / 'metrics.jsonl'}, and {tmp_path / 'loss.png'} is not drawn."
    assert caplog.messages.count(told) == 1 and (tmp_path / "summary.md").exists()


@pytest.mark.parametrize("mode", ["train", "stats"])
def test_a_data_file_that_cannot_be_read_is_one_line(tmp_path, capsys, mode):
    (tmp_path / "points.npz").write_bytes(b"PK\x03\x04" + bytes(50))
    flags = [f"--mode={mode}", "--config=configs/vp/toy_mlp.py", f"--config.data.name=npz:{tmp_path / 'points.npz'}"]
    assert main([*flags, f"--workdir={tmp_path / mode}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"score_sde: {tmp_path / 'points.npz'} cannot be read (")


@pytest.mark.parametrize("content", [b"", b"PK", b"nothing"])
def test_statistics_that_cannot_be_read_are_computed_again(tmp_path, caplog, content):
    np.savez(tmp_path / "points.npz", x=np.random.RandomState(0).standard_normal((40, 2)))
    config = load_config(Path("configs/vp/toy_mlp.py"), [f"--config.data.name=npz:{tmp_path / 'points.npz'}"])
    info = data_info(config)
    (tmp_path / "statistics.npz").write_bytes(content)
    found = statistics.load_reference(config, [tmp_path], "command", info, extractor_of(config, info))
    assert found.count == 36 and read_statistics(tmp_path / "statistics.npz").sha256 == found.sha256
    (line,) = [line for line in caplog.messages if "computed again" in line]
    assert line.startswith(f"{tmp_path / 'statistics.npz'} cannot be read (")


def test_what_draws_measures_or_trains_says_where_its_results_are_if_there_are_any(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO")
    # These have more to say, or name the file themselves.
    own = {"demo", "sweep", "pareto", "conformance", "stats", "reproduce"}
    modes = [mode for group in ("train", "draw", "measure") for mode in GROUPS[group] if mode not in own]
    for mode in modes:
        for code, out, told in ((0, None, "run"), (None, "elsewhere", "elsewhere"), (1, None, None)):
            caplog.clear()
            monkeypatch.setattr("score_sde.modes.load", lambda name, code=code: lambda *_, **__: code)
            assert MODES[mode]({}, tmp_path / "run", "command", **({"out": tmp_path / out} if out else {})) == code
            assert caplog.messages == ([f"See {tmp_path / told / TABLE[mode].look_at}."] if told else [])
    assert {mode for mode, made in TABLE.items() if made.look_at} == set(modes)
