"""What a run begins with is said before it begins."""

import numpy as np
import pytest

from score_sde.cli import main
from score_sde.errors import UserError
from score_sde.modes import training


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


@pytest.mark.parametrize("mode", ["train", "stats"])
def test_a_data_file_that_cannot_be_read_is_one_line(tmp_path, capsys, mode):
    (tmp_path / "points.npz").write_bytes(b"PK\x03\x04" + bytes(50))
    flags = [f"--mode={mode}", "--config=configs/vp/toy_mlp.py", f"--config.data.name=npz:{tmp_path / 'points.npz'}"]
    assert main([*flags, f"--workdir={tmp_path / mode}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"score_sde: {tmp_path / 'points.npz'} cannot be read (")
