"""What the documents promise is what is there."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_continuous_integration_runs_the_test_command_of_the_readme():
    commands = re.findall(r"```bash\n(.+)\n```", README)
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text()


def test_every_path_that_a_document_names_exists():
    for document in ("README.md", "CONTRIBUTING.md", "docs/architecture.md"):
        text = (ROOT / document).read_text()
        for path in re.findall(r"`((?:score_sde|configs|tests|docs|experiments)/[\w/.]+?)`", text):
            assert (ROOT / path).exists(), f"{document} names {path}"


def test_constraints_cover_every_dependency():
    project = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[0]
    named = {name.lower().replace("_", "-") for name in re.findall(r'^\s+"([\w-]+)>=', project, re.MULTILINE)}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert named and named <= pinned, sorted(named - pinned)
