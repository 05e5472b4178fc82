"""Signatures as their authors wrote them, with the names of types linked, and formulas of docstrings as blocks.

The types of arrays are aliases, such as ``Batch``, that stand for shapes; evaluated, they would fill lines.
"""

import ast
import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from extensions.public_names import described, modules_of
from score_sde import typing as vocabulary


class _Linked(ast.NodeTransformer):
    """Put the paths of the reference in place of the names of types; ``~`` has only the last part shown."""

    def __init__(self, names: dict[str, Any], paths: dict[tuple[str, str], str]) -> None:
        self.names, self.paths = names, paths

    def visit_Name(self, node: ast.Name) -> ast.expr:
        value = self.names.get(node.id)
        home = getattr(value, "__module__", "") if inspect.isclass(value) else ""
        if value is not None and value is getattr(vocabulary, node.id, None):
            home = vocabulary.__name__
        path = self.paths.get((home, node.id))
        return node if path is None else ast.UnaryOp(ast.Invert(), ast.Name(path))

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if not isinstance(node.value, str):
            return node
        try:
            return self.visit(ast.parse(node.value, mode="eval").body)
        except SyntaxError:
            return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id in _SHAPES:
            return node  # its strings are axes
        self.generic_visit(node)
        return node


_SHAPES = ("Float", "Int", "Integer", "Bool", "Key", "UInt8", "Shaped", "Num", "Literal", "Inexact")


def _definition(value: Any) -> ast.AST:
    """The syntax tree of a class or a function."""
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(value)))).body[0]


def _text(node: ast.expr | None, value: Any, paths: dict[tuple[str, str], str]) -> str:
    if node is None:
        return ""
    names = vars(sys.modules[inspect.unwrap(value).__module__])
    return ast.unparse(_Linked(names, paths).visit(node))


def _of_function(function: Any, paths: dict[tuple[str, str], str], *, bound: bool) -> tuple[str, str | None]:
    """The arguments and the result of a function, without the object or class that a method is bound to."""
    definition = _definition(function)
    if not isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef)):
        raise TypeError(f"{function} is not a function.")
    arguments = definition.args
    if bound:
        (arguments.posonlyargs or arguments.args).pop(0)
    names = vars(sys.modules[inspect.unwrap(function).__module__])
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if argument is not None and argument.annotation is not None:
            argument.annotation = _Linked(names, paths).visit(argument.annotation)
    result = None if definition.returns is None else _text(definition.returns, function, paths)
    return f"({ast.unparse(arguments)})", result


def _fields(cls: type) -> Iterator[tuple[str, str, ast.expr | None, type]]:
    """The fields of a dataclass or a named tuple: name, default as written, annotation, and the class that has it."""
    for base in reversed(cls.__mro__):
        if "__annotations__" not in vars(base) or not base.__module__.startswith("score_sde"):
            continue
        for line in getattr(_definition(base), "body", []):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                yield line.target.id, "" if line.value is None else ast.unparse(line.value), line.annotation, base


def _of_fields(cls: type, names: list[str], paths: dict[tuple[str, str], str], star: str) -> str:
    found = {name: (default, annotation, base) for name, default, annotation, base in _fields(cls)}
    parts = []
    for name in names:
        default, annotation, base = found.get(name, ("", None, cls))
        default = default.removeprefix("static(default=").removesuffix(")") if "static(default=" in default else default
        told = "" if not default or default.startswith(("static(", "dataclasses.")) else f" = {default}"
        parts.append(f"{name}: {_text(annotation, base, paths)}{told}" if annotation is not None else name)
    return f"({', '.join([*([star] if star and parts else []), *parts])})"


def signature_of(what: str, value: Any, paths: dict[tuple[str, str], str]) -> tuple[str, str | None] | None:
    """The signature as it is written, or None where the source does not have it."""
    try:
        if what in ("function", "method"):
            return _of_function(value, paths, bound=what == "method" and not isinstance(value, staticmethod))
        if what not in ("class", "exception"):
            return None
        if dataclasses.is_dataclass(value):
            fields = [field for field in dataclasses.fields(value) if field.init]
            star = "*" if fields and all(field.kw_only for field in fields) else ""
            return _of_fields(value, [field.name for field in fields], paths, star), None
        if issubclass(value, tuple) and hasattr(value, "_fields"):
            return _of_fields(value, list(value._fields), paths, ""), None
        if "__init__" in vars(value) and not getattr(value, "_is_protocol", False):
            return _of_function(value.__init__, paths, bound=True)[0], None
        return "", None
    except (OSError, TypeError, SyntaxError, IndexError):
        return None


def _written(app: Sphinx, what: str, name: str, value: Any, options: Any, signature: Any, returns: Any) -> Any:
    del name, options, returns
    if not hasattr(app, "paths_of_names"):
        app.paths_of_names = described(modules_of(Path(app.srcdir) / "reference"))  # type: ignore[attr-defined]
    found = signature_of(what, value, app.paths_of_names)  # type: ignore[attr-defined]
    return None if signature is None and found == ("", None) else found  # autodoc cannot replace what it has not found


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
