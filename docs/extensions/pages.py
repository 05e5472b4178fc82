"""Pages that are made of the code: blocks of a page, written in its source, become tables and descriptions.

A block `{modules}` describes the public names of modules, `{modes}` the modes of the command line, and
`{configurations}` the configurations of the package.
"""

import ast
import re
from collections.abc import Callable
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.ext import autosummary

from extensions.links import paths_of
from extensions.public_names import BLOCK, entries_of, modules_in, modules_of
from score_sde import cli

CONFIGS = Path(__file__).parents[2] / "configs"
#: Links of pages to files of the package, which become links to the reference.
_SOURCE = re.compile(r"\[`([\w.]+)`\]\((?:\.\./)+(score_sde/[\w/]+)\.py\)")
_FILE = re.compile(r"((?<!\S)(?:[a-z_]+\.(?:png|json|npz|md|html|safetensors)|--\w+))")
_BLOCK = re.compile(r"^```\{(modules|modes|configurations)\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _modules(text: str, app: Sphinx) -> str:
    """A section for each module: a table of its names, and their descriptions."""
    modules = modules_of(Path(app.srcdir) / "reference")
    parts = []
    for module in modules_in(text):
        if entries := entries_of(module, modules, paths_of(app)):
            rows = "\n".join(f"   ~{entry.path}" for entry in entries)
            members = ", ".join(entry.name for entry in entries)
            table = f".. py:currentmodule:: None\n.. autosummary::\n   :nosignatures:\n\n{rows}\n"
            parts.append(
                f"## `{module}`\n\n```{{eval-rst}}\n{table}\n.. automodule:: {module}\n   :members: {members}\n```\n"
            )
    return "\n".join(parts)


def _modes(text: str, app: Sphinx) -> str:
    """A section for each mode: what `--help` says, and which flags it takes."""
    del text, app
    parts = []
    for mode, sentence in cli.MODES.items():
        facts = [
            "It takes no `--config`." if mode in cli.WITHOUT_CONFIG else "",
            "It saves and ends at SIGTERM and Ctrl-C." if mode in cli.TRAINING else "",
            "It takes `--out`." if mode in cli.RESULTS else "",
        ]
        told = _FILE.sub(r"`\1`", f"{sentence[0].upper()}{sentence[1:]}").removesuffix("; takes no --config")
        parts.append(f"(mode-{mode})=\n\n### {mode}\n\n{told}. {' '.join(filter(None, facts))}\n")
    return "\n".join(parts)


def _configurations(text: str, app: Sphinx) -> str:
    """A table of the configurations of some folders, with the first paragraphs of their files."""
    del app
    rows = ["```{eval-rst}\n.. list-table::\n   :header-rows: 1\n   :widths: auto\n\n"]
    rows.append("   * - ``--config``\n     - description\n")
    for folder in text.split():
        for file in sorted(CONFIGS.glob(f"{folder}.py")):
            told, _, _ = (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n\n")
            name = file.relative_to(CONFIGS).with_suffix("").as_posix()
            rows.append(f"   * - ``{name}``\n     - {' '.join(told.split())}\n")
    return "".join([*rows, "```\n"])


_MAKERS: dict[str, Callable[[str, Sphinx], str]] = {
    "modules": _modules,
    "modes": _modes,
    "configurations": _configurations,
}


def _expand(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the blocks of a page; one that is made of docstrings is read anew in each build."""
    if BLOCK.search(source[0]):
        app.env.reread_always.add(docname)
    text = _BLOCK.sub(lambda block: _MAKERS[block[1]](block[2], app), source[0])
    source[0] = _SOURCE.sub(lambda link: f"{{py:obj}}`{link[1]} <{link[2].replace('/', '.')}.{link[1]}>`", text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Expand every page before it is parsed."""
    autosummary.WELL_KNOWN_ABBREVIATIONS += ("eq.", "eqs.", "sec.", "fig.")  # after which no sentence begins
    app.connect("source-read", _expand)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
