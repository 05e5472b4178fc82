"""The documentation has all there is: public names, modes, samplers and configurations, and commands that parse."""

import re
import shlex
from pathlib import Path

import pytest

from score_sde import cli
from score_sde.modes import MODES
from score_sde.paths import config_file
from score_sde.samplers import METHODS
from tests.scripts import load_script
from tests.test_layers import CORE_ROOMS, FILES, PACKAGE

DOCS = Path(__file__).parents[1] / "docs"
CONFIGS = DOCS.parent / "configs"
READMES = sorted((DOCS.parent / "experiments").rglob("README.md"))
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md")), *READMES]
names = load_script(DOCS / "extensions" / "public_names.py")
MODULES = names.modules_of(DOCS / "reference")
PATHS = [file.relative_to(PACKAGE.parent).with_suffix("") for file in FILES]
CORE = {".".join(path.parts).removesuffix(".__init__") for path in PATHS if path.parts[1] in CORE_ROOMS - {"fields"}}


def test_every_public_name_of_the_core_and_of_what_users_call_is_described():
    assert CORE <= {module for module, chosen in MODULES.items() if chosen is None}
    assert not names.undocumented({"score_sde": None, **MODULES}, MODULES)


def test_a_name_that_is_on_no_page_or_says_nothing_is_found(tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text('"""A module."""\n\nLIMIT = 3\n\n\ndef silent():\n    pass\n')
    monkeypatch.syspath_prepend(tmp_path)
    planted = {"planted": None}
    assert names.undocumented(planted, MODULES)[0] == "planted.silent is on no page of docs/reference."
    sentences = names.undocumented(planted, planted)
    assert [sentence.split()[0] for sentence in sentences] == ["planted.silent", "planted.LIMIT"]
    assert all("has no docstring" in sentence for sentence in sentences)


def test_every_mode_is_in_the_table_of_files():
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "reference" / "files.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(MODES)


def test_every_sampler_is_in_the_table_of_samplers():
    table = re.findall(r"^\| (`.*`.*) \|.*\|$", (DOCS / "reference" / "samplers.md").read_text(), re.MULTILINE)
    assert set(METHODS) <= set(re.findall(r"`(\w+)`", " ".join(table)))


def test_every_configuration_is_on_the_page_of_configurations():
    text = (DOCS / "reference" / "configurations.md").read_text()
    globs = " ".join(re.findall(r"^```\{configurations\}\n(.*)\n```", text, re.MULTILINE)).split()
    shown = [file for glob in globs for file in CONFIGS.glob(f"{glob}.py")]
    assert sorted(shown) == sorted(CONFIGS.rglob("*.py"))


def test_every_room_of_the_package_is_on_the_page_of_rooms():
    text = (DOCS / "explanation" / "rooms.md").read_text()
    rooms = {path.relative_to(PACKAGE).parts[0] for path in FILES} - {"__init__.py", "__main__.py"}
    named = {name.rstrip("/") for name in re.findall(r"`score_sde/([\w.]+/?)`", text)}
    assert rooms <= named, sorted(rooms - named)


def test_every_readme_of_the_experiments_is_a_page():
    pages = {page.stem for page in (DOCS / "measurements").glob("*.md")} - {"index"}
    assert pages == {readme.parent.name for readme in (DOCS.parent / "experiments").glob("*/README.md")}


def test_a_link_of_the_site_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "other.html").write_text('<p id="here">')
    (tmp_path / "index.html").write_text(
        '<a href="other.html#here"></a><a href="other.html#gone"></a><img src="lost.png"><a href="https://any.org/x"></a>'
    )
    sentences = list(load_script(DOCS / "extensions" / "broken.py").broken_links(tmp_path))
    assert sentences == [
        "index.html links to other.html#gone, and other.html has no such anchor.",
        "index.html links to lost.png, which is not there.",
    ]


def _commands(text):
    """The commands of a page that are complete: they name a mode, and nothing stands for something else."""
    for line in text.replace("\\\n", " ").splitlines():
        _, found, command = line.partition("python -m score_sde ")
        if found and "--mode=" in command and not re.search(r"[…$\[`]|=(FILE|DIR|MODE|NAME)\b", command):
            yield shlex.split(command, comments=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS.parent).as_posix())
def test_every_command_of_a_page_has_flags_fields_and_values_that_there_are(page):
    for words in _commands(page.read_text()):
        where = [] if any(word.startswith("--workdir=") for word in words) else ["--workdir=runs/any"]
        options, overrides = cli._parse([*where, *words])
        of_the_package = options.config is not None and "/" in options.config  # others are of the reader
        cli.load_config(config_file(options.config) if of_the_package else None, overrides)


def test_the_pages_have_commands():
    assert sum(len(list(_commands(page.read_text()))) for page in PAGES) > 30
