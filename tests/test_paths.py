"""Paths as people type them mean the same in every flag and field; the package's configurations are found anywhere."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from score_sde.cli import load_config, main
from score_sde.errors import UserError
from score_sde.paths import DATA, PLACES, config_file, shipped, typed

ROOT = Path(__file__).parents[1]
TOY = str(ROOT / "configs" / "vp" / "toy_mlp.py")


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("NO_SUCH", raising=False)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ["JAX_COMPILATION_CACHE_DIR"])
    return tmp_path


SPELLINGS = [
    "~/runs/a b",
    "$RUNS/a b",
    "${RUNS}/a b",
    "{}/runs/a b",
    "file://{}/runs/a%20b",
    "FILE://localhost{}/runs/a b",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_path_is_the_same_in_every_field(home, spelling):
    given, meant = spelling.replace("{}", str(home)), f"{home}/runs/a b"
    assert typed(given, "--workdir") == typed(given, "--workdir", bucket=True) == meant
    config = load_config(Path(TOY), [f"--config.{field}={given}" for field in PLACES])
    assert [config[group][name] for group, name in (field.split(".") for field in PLACES)] == [meant] * len(PLACES)
    for kind in DATA:
        assert load_config(Path(TOY), [f"--config.data.name={kind}{given}"]).data.name == kind + meant


@pytest.mark.parametrize("plain", ["runs/x", "./~/x", "a b/", "-x", "C:/x", "x$", "résumé"])
def test_a_plain_path_stays_as_it_is(plain):
    assert typed(plain, "--workdir") == plain


def test_what_lies_there_under_the_literal_name_is_meant(home, monkeypatch):
    monkeypatch.chdir(home)
    (home / "$NO_SUCH").mkdir()
    assert typed("$NO_SUCH", "--workdir") == "$NO_SUCH"


REFUSED = {
    "": "is empty",
    "  ": "is empty",
    "gs://bucket/run": "gs://",
    "ftp://host/run": "expected a path in a file system",
    "file://elsewhere/run": "a file of the machine elsewhere",
    "$NO_SUCH/run": "the environment variable NO_SUCH is not set",
    "~nobody-of-this-name/run": "there is no such home directory; give the whole path",
    "a\0b": "zero byte",
    "caf\udce9": "these bytes are not valid",
}


@pytest.mark.parametrize("given", REFUSED)
@pytest.mark.parametrize("flag", ["--workdir", "--checkpoint", "--config"])
def test_what_is_no_path_of_this_machine_is_refused_in_every_flag(capsys, given, flag):
    plain = {"--config": TOY, "--workdir": "x", "--mode": "import", "--checkpoint": "x"} | {flag: given}
    assert main([f"{name}={value}" for name, value in plain.items()]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"score_sde: {flag} ") and REFUSED[given] in said


def test_a_directory_that_was_removed_meanwhile_is_named(home, monkeypatch, capsys):
    (home / "gone").mkdir()
    monkeypatch.chdir(home / "gone")
    (home / "gone").rmdir()
    assert main([f"--config={TOY}", "--workdir=x", "--mode=train"]) == 2
    assert "The current directory no longer exists" in capsys.readouterr().err


def test_a_configuration_of_the_package_is_found_from_anywhere(home, monkeypatch):
    monkeypatch.chdir(home)
    expected = shipped() / "vp" / "toy_mlp.py"
    for name in ("vp/toy_mlp", "vp/toy_mlp.py", "configs/vp/toy_mlp", "configs/vp/toy_mlp.py"):
        assert config_file(name) == expected
    own = home / "configs" / "vp" / "toy_mlp.py"
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert config_file("configs/vp/toy_mlp.py").absolute() == own
    assert config_file("vp/toy_mlp") == expected
    with pytest.raises(UserError, match=r"no config file vp/toy_mpl\. Did you mean 'vp/toy_mlp'"):
        config_file("vp/toy_mpl")


def test_an_installed_package_brings_its_configurations_and_templates(home):
    """As a wheel lays them out: what pyproject.toml includes, where it says."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    site = home / "site"
    for folder in wheel["only-include"]:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, site / wheel["sources"].get(folder, folder), ignore=ignored)
    code = "from score_sde.reproduction.rows import select\nfrom score_sde.paths import config_file, shipped\n"
    code += "from score_sde.report.rendering import asset\n"
    code += "asset('page.css'), asset('page.html'), asset('blocks.html'), asset('summary.md')\n"
    code += "print(shipped(), all(config_file(f'configs/{row.config}.py').is_file() for row in select('*')))"
    environment = os.environ | {"PYTHONPATH": str(site)}
    program = [sys.executable, "-c", code]
    done = subprocess.run(program, cwd=home, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(site / "score_sde" / "configs"), "True"]
