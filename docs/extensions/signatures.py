"""Signatures as their authors wrote them, with the names of types linked, and formulas of docstrings as blocks.

The types of arrays are aliases, such as ``Batch``, that stand for shapes; evaluated, they would fill lines.
"""

import __future__

import inspect
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, MethodType
from typing import Any

from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.inspect import stringify_signature


class _AsText(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Compile a module with annotations as text, without the cache of other programs."""
        path = self.get_filename(fullname)
        return compile(self.get_data(path), path, "exec", __future__.annotations.compiler_flag, dont_inherit=True)


class Unevaluated(PathFinder):
    """Finds the modules of the package, whose annotations stay text, so that signatures can show it."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a module of the package."""
        spec = super().find_spec(fullname, path, target) if fullname.partition(".")[0] == "score_sde" else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _AsText(spec.loader.name, spec.loader.path)
        return spec


def _written(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str | None, returns: Any
) -> tuple[str, str | None] | None:
    """Give a signature as its source has it; protocols have none, for they are not called."""
    del app, name, options, returns
    if signature is None or what not in ("class", "exception", "function", "method"):
        return None
    if getattr(value, "_is_protocol", False):
        return "", None
    found = inspect.signature(value)
    if what == "method" and not isinstance(value, (staticmethod, MethodType)):
        found = found.replace(parameters=list(found.parameters.values())[1:])
    none = isinstance(value, type) or found.return_annotation is found.empty
    result = None if none else str(found.return_annotation).strip("'\"")
    return stringify_signature(found, show_return_annotation=False), result


def formulas(lines: list[str]) -> list[str]:
    """The lines of a docstring, with every indented paragraph that no section owns as a block of code."""
    made: list[str] = []
    for index, line in enumerate(lines):
        depth = _depth(line)
        before = lines[index - 1] if index else ""
        if line.strip() and not before.strip() and depth > 0 and index > 1:
            owner = next((other for other in reversed(lines[: index - 1]) if other.strip()), "")
            plain = not owner.rstrip().endswith("::") and not owner.lstrip().startswith((">>>", "...", "* ", ".. "))
            if plain and depth == _depth(owner) + 4:
                made += [" " * _depth(owner) + "::", ""]
        made.append(line)
    return made


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


class _Kept:
    """The docstrings of data, as napoleon finds them: it takes what stands before a colon for a type."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def before(self, app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
        del app, what, name, value, options
        lines[:] = formulas(lines)
        self.lines = list(lines)

    def after(self, app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
        del app, name, value, options
        if what in ("attribute", "data", "property", "type"):
            lines[:] = self.lines


class WithoutValues(SphinxTransform):
    """Leave out values of constants that say less than their descriptions, such as tables of functions."""

    default_priority = 400

    def apply(self, **_: Any) -> None:
        """Go through the signatures of a page."""
        for annotation in list(self.document.findall(addnodes.desc_annotation)):
            text = annotation.astext().strip()
            if text.startswith("=") and ("<" in text or len(text) > 60):
                annotation.parent.remove(annotation)


def setup(app: Sphinx) -> dict[str, bool]:
    """Rewrite signatures, and docstrings before napoleon reads their sections."""
    kept = _Kept()
    app.add_transform(WithoutValues)
    app.connect("autodoc-process-signature", _written)
    app.connect("autodoc-process-docstring", kept.before, priority=100)
    app.connect("autodoc-process-docstring", kept.after, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
