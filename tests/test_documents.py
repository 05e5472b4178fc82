"""What the documents promise is what is there."""

import datetime
import doctest
import importlib
import operator
import pathlib
import re

import pytest

import score_sde

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MATHEMATICS = (ROOT / "docs" / "mathematics.md").read_text()
#: Each section is run on its own, after the lines that all of them share.
PREAMBLE, *SECTIONS = re.split(r"^(?=## )", MATHEMATICS, flags=re.MULTILINE)
*SECTIONS, INDEX = SECTIONS


def test_continuous_integration_runs_the_test_command_of_the_readme():
    commands = re.findall(r"```bash\n(.+)\n```", README)
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text()


def test_every_path_that_a_document_names_exists():
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for path in re.findall(r"`((?:score_sde|configs|tests|docs|experiments)/[\w/.]+?)`", document.read_text()):
            assert (ROOT / path).exists(), f"{document.relative_to(ROOT)} names {path}"


def test_the_software_is_cited_as_the_version_that_it_is():
    cited = dict(re.findall(r"^([a-z-]+): (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    assert cited["version"] == score_sde.__version__ and cited["license"] == "Apache-2.0"
    datetime.date.fromisoformat(cited["date-released"])


def test_constraints_cover_every_dependency():
    project = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[0]
    named = {name.lower().replace("_", "-") for name in re.findall(r'^\s+"([\w-]+)>=', project, re.MULTILINE)}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert named and named <= pinned, sorted(named - pinned)


@pytest.mark.sweep
@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0].strip("# "))
def test_the_identities_of_the_mathematics_hold_in_numbers(section):
    examples = doctest.DocTestParser().get_doctest(PREAMBLE + section, {}, "mathematics", "docs/mathematics.md", 0)
    told = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=told.append)
    assert not result.failed, "".join(told)
    assert any(example.want for example in doctest.DocTestParser().get_examples(section))  # it checks something


def test_every_function_that_the_mathematics_links_to_is_in_that_file():
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./(score_sde/[\w/]+)\.py\)", MATHEMATICS)
    assert len(links) == MATHEMATICS.count("](../")
    for name, module in links:
        found = operator.attrgetter(name)(importlib.import_module(module.replace("/", ".")))
        assert callable(found) and found.__module__ == module.replace("/", "."), f"{name} is not in {module}.py"


def test_the_index_of_the_mathematics_names_tests_that_are_there():
    rows = re.findall(r"`([\w/]+\.py)::(test_\w+)` \|$", INDEX, re.MULTILINE)
    assert len(rows) == INDEX.count("\n|") - 2  # every row but the heads
    for file, name in rows:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file} has no {name}"


def test_every_equation_of_the_mathematics_is_numbered_once_and_none_is_cited_that_is_not_there():
    numbers = re.findall(r"\\tag\{([\d.]+)\}", MATHEMATICS)
    assert len(numbers) == len(set(numbers))
    cited = set(re.findall(r"(?<![\w)])\((\d{1,2}\.\d)\)", MATHEMATICS))
    assert cited <= set(numbers), sorted(cited - set(numbers))


def test_the_examples_of_the_page_on_parts_of_ones_own_run():
    text = (ROOT / "docs" / "own_parts.md").read_text()
    examples = doctest.DocTestParser().get_doctest(text, {}, "own_parts", "docs/own_parts.md", 0)
    told = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(
        examples, out=told.append
    )
    assert result.attempted >= 6 and not result.failed, "".join(told)
