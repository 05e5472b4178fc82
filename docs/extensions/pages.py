"""Pages that are made of the code: blocks of a page, written in its source, become tables and descriptions.

A block `{modules}` describes the public names of modules, `{modes}` the modes of the command line, `{configurations}`
the configurations of the package, and `{readme}` holds a README of `experiments/`.
"""

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from sphinx.application import Sphinx

from extensions.public_names import BLOCK, Entry, described, entries_of, is_made, modules_in, modules_of, summary
from score_sde import cli

ROOT = Path(__file__).parents[2]
#: Links of pages to files of the package, which become links to the reference.
_SOURCE = re.compile(r"\[`([\w.]+)`\]\((?:\.\./)+(score_sde/[\w/]+)\.py\)")
_FILE = re.compile(r"((?<!\S)(?:[a-z_]+\.(?:png|json|npz|md|html|safetensors)|--\w+))")
_BLOCK = re.compile(r"^```\{(modules|modes|configurations|readme)\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _modules(text: str, app: Sphinx) -> str:
    """A table of all names, and the description of each module."""
    modules = modules_of(Path(app.srcdir) / "reference")
    found = described(modules)
    own = {module: entries for module in modules_in(text) if (entries := entries_of(module, modules, found))}
    parts = ["| name | |\n|---|---|"]
    for module, entries in own.items():
        parts[0] += f"\n| **`{module}`** | |\n"
        parts[0] += "\n".join(f"| {{py:obj}}`~{entry.path}` | {_cell(summary(entry))} |" for entry in entries)
    parts[0] += "\n"
    for module, entries in own.items():
        members = ", ".join(entry.name for entry in entries if not _is_borrowed(entry))
        lines = [f".. automodule:: {module}", f"   :members: {members}"]
        for entry in filter(_is_borrowed, entries):  # of a constant autodoc knows the comment only in its home
            lines += [
                "",
                f".. py:currentmodule:: {module}",
                "",
                f".. py:data:: {entry.name}",
                "",
                f"   {summary(entry)}",
            ]
        parts.append("\n".join([f"## `{module}`\n", "```{eval-rst}", *lines, "```\n"]))
    return "\n".join(parts)


def _is_borrowed(entry: Entry) -> bool:
    value = getattr(importlib.import_module(entry.home), entry.name)
    return entry.home != entry.module and not (is_made(value) and value.__module__ == entry.home)


def _cell(text: str) -> str:
    """A sentence of a docstring as Markdown, in a cell of a table."""
    text = re.sub(r":\w+:`(?:~?[\w.]*\.)?([\w]+)`", r"`\1`", text.replace("``", "`"))
    outside = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([|*_<$])", r"\\\1", part) for part in outside).replace(
        "|", "\\|"
    )


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
    """A table of the configurations of some folders, with the first lines of their files."""
    del app
    rows = ["| `--config` | |\n|---|---|\n"]
    for folder in text.split():
        for file in sorted((ROOT / "configs").glob(f"{folder}.py")):
            doc = ast.get_docstring(ast.parse(file.read_text())) or ""
            name = file.relative_to(ROOT / "configs").with_suffix("").as_posix()
            rows.append(f"| `{name}` | {_cell(' '.join(doc.partition(chr(10) * 2)[0].split()))} |\n")
    return "".join(rows)


def _readme(text: str, app: Sphinx) -> str:
    """A README of the experiments; the pictures of the documentation are beside it here."""
    file = ROOT / "experiments" / text.strip() / "README.md"
    app.env.note_dependency(str(file))
    return file.read_text().replace("../../docs/", "../").rstrip() + "\n"


_MAKERS: dict[str, Callable[[str, Sphinx], str]] = {
    "modules": _modules,
    "modes": _modes,
    "configurations": _configurations,
    "readme": _readme,
}


def expanded(text: str, app: Sphinx) -> str:
    """The source of a page, with its blocks replaced."""
    text = _BLOCK.sub(lambda block: _MAKERS[block.group(1)](block.group(2), app), text)
    return _SOURCE.sub(lambda link: _to_reference(link.group(1), link.group(2).replace("/", ".")), text)


def _to_reference(name: str, module: str) -> str:
    return f"{{py:obj}}`{name} <{module}.{name}>`"


def _expand(app: Sphinx, docname: str, source: list[str]) -> None:
    del docname
    source[0] = expanded(source[0], app)


def _outdated(app: Sphinx, *_: object) -> Iterator[str]:
    """The pages that are made of the code are read anew in each build."""
    for page in app.env.found_docs:
        if BLOCK.search(Path(app.env.doc2path(page)).read_text()):
            yield page


def setup(app: Sphinx) -> dict[str, bool]:
    """Expand every page before it is parsed."""
    app.connect("source-read", _expand)
    app.connect("env-get-outdated", lambda *given: list(_outdated(*given)))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
