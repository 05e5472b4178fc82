"""Configuration files and records of any content become settings, or one sentence."""

import os
import sys

import pytest

from score_sde.cli import load_config, main
from score_sde.errors import UserError

FROM_DEFAULTS = "from score_sde.config import default_config\n"
ENDINGS = {
    "leaves with success": ("import sys\nsys.exit(0)\n", "fails: SystemExit: 0"),
    "leaves inside": ("def get_config():\n    raise SystemExit\n", "fails: SystemExit."),
    "is interrupted": ("raise KeyboardInterrupt\n", "fails: KeyboardInterrupt."),
    "returns nothing": ("def get_config():\n    pass\n", "returns a NoneType; expected a ConfigDict"),
    "returns a dictionary": ("def get_config():\n    return {'seed': 1}\n", "returns a dict; expected a ConfigDict"),
    "holds itself": (
        f"{FROM_DEFAULTS}def get_config():\n    c = default_config()\n    with c.unlocked():\n        c.me = c\n"
        "    return c\n",
        "fails: RecursionError",
    ),
    "says more than a line": ("raise ValueError('one\\ntwo')\n", "fails: ValueError: one.\n"),
}


@pytest.mark.parametrize("case", ENDINGS)
def test_a_configuration_file_that_ends_in_any_way_is_one_sentence(case, tmp_path, capsys):
    content, said = ENDINGS[case]
    file = tmp_path / "mine.py"
    file.write_text(content)
    assert main([f"--config={file}", f"--workdir={tmp_path / 'run'}", "--mode=train"]) == 2
    message = capsys.readouterr().err
    assert said.rstrip(".\n") in message and message.count("\n") == 1, message


GOOD = {
    "frozen": f"{FROM_DEFAULTS}from ml_collections import FrozenConfigDict\n\n\ndef get_config():\n"
    "    config = default_config()\n    config.seed = 7\n    return FrozenConfigDict(config)\n",
    "with a dataclass": f"from __future__ import annotations\nimport dataclasses\n{FROM_DEFAULTS}\n\n"
    "@dataclasses.dataclass\nclass Mine:\n    seed: int = 7\n\n\ndef get_config():\n    config = default_config()\n"
    "    config.seed = Mine().seed\n    return config\n",
    "with a file beside it": f"{FROM_DEFAULTS}import beside\n\n\ndef get_config():\n    import late\n"
    "    config = default_config()\n    config.seed = beside.SEED + late.NONE\n    return config\n",
}


@pytest.mark.parametrize("case", GOOD)
def test_a_configuration_file_is_a_module_like_any_other(case, tmp_path):
    path = list(sys.path)
    for seed in (7, 8):  # a second folder has files of the same names, and its own are meant
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "beside.py").write_text(f"SEED = {seed}\n")
        (folder / "late.py").write_text("NONE = 0\n")
        (folder / "mine.py").write_text(GOOD[case].replace("7", str(seed)))
        config = load_config(folder / "mine.py", ["--config.optim.lr=1e-3"])
        assert (config.seed, config.optim.lr) == (seed, 1e-3)
    assert sys.path == path and "beside" not in sys.modules


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1, 2]", "it is JSON, but no object"),
        (b"null", "it is JSON, but no object"),
        (b'{"seed": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"seed": "\xff"}', "it is not UTF-8"),
        (b'{"optim": {"lr": NaN}}', "no number of JSON"),
        (b'{"optim": {"lr": 1e999}}', "cannot be read"),
        (b'{"optim": {"lr": true}}', "config.optim.lr is True; expected"),
        (b'{"optim": 3}', "Unknown config field 'optim'"),
        (b'{"model": {"widths": [[1]]}}', "config.model.widths is ((1,),); expected"),
        (b'{"seed": 1' + b"0" * 5000 + b"}", "cannot be read"),
        (b'{"sampling": {"churn_max": 1' + b"0" * 400 + b"}}", "cannot be read"),
    ],
    ids=range(11),
)
def test_a_record_of_any_content_is_one_sentence(content, said, tmp_path, capsys):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    assert main([f"--config={file}", f"--workdir={tmp_path / 'run'}", "--mode=train"]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1, message
    assert os.listdir(tmp_path) == ["config.json"]


def test_an_override_mends_a_field_of_an_old_record(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"optim": {"grad_clip": -1.0}}')
    with pytest.raises(UserError, match=r"grad_clip is -1.0; expected 0, or a number"):
        load_config(file, [])
    assert load_config(file, ["--config.optim.grad_clip=0"]).optim.grad_clip == 0.0
