"""Names between backticks become links: fields and modes to where they are described, files to their pages.

References of docstrings to names of the package that the reference describes elsewhere are found too.
"""

import importlib
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform

from extensions.public_names import described, modules_of
from score_sde.fields import FIELDS
from score_sde.modes import MODES

_PAGES = re.compile(r"(?:docs/)?([\w/]+)\.md")
_FIELD = re.compile(r"(?:--)?(?:config\.)?([\w.]+?)(?:=.*)?")


class Literals(SphinxTransform):
    """Link literals to the page of fields, to the modes, and to pages of the documentation."""

    default_priority = 400

    def apply(self, **_: Any) -> None:
        """Go through the literals of a page; those of the page of fields are what the others link to."""
        here = self.env.current_document.docname
        for literal in list(self.document.findall(nodes.literal)):
            if isinstance(literal.parent, (nodes.reference, addnodes.pending_xref, nodes.title)):
                continue
            text = literal.astext()
            if here == "fields" and text in FIELDS:
                self._mark(literal, text, here)
            elif (target := self._target(text, here)) is not None:
                kind, name = target
                link = addnodes.pending_xref(
                    "", refdomain="std", reftype=kind, reftarget=name, refexplicit=True, refdoc=here, refwarn=True
                )
                literal.replace_self(link)
                link.append(literal)

    def _mark(self, literal: nodes.literal, field: str, here: str) -> None:
        label = _label(field)
        if label not in self.document.ids:
            literal["ids"].append(label)
            self.document.note_explicit_target(literal, literal)
            self.env.domains.standard_domain.note_hyperlink_target(label, here, label, field)

    def _target(self, text: str, here: str) -> tuple[str, str] | None:
        if (field := _FIELD.fullmatch(text)) and field.group(1) in FIELDS and "." in field.group(1):
            return "ref", _label(field.group(1))
        if text.startswith("--mode=") and text.removeprefix("--mode=") in MODES:
            return "ref", f"mode-{text.removeprefix('--mode=')}"
        if (page := _PAGES.fullmatch(text)) is not None:
            name = re.sub(r"^experiments/(\w+)/README$", r"measurements/\1", page.group(1))
            if name in self.env.found_docs and name != here:
                return "doc", f"/{name}"
        return None


def _label(field: str) -> str:
    return "field-" + field.replace(".", "-").replace("_", "-")


class Names:
    """The names of the package, by the names under which the reference describes them."""

    def __init__(self, app: Sphinx) -> None:
        """Import all modules of the reference."""
        self.paths = described(modules_of(Path(app.srcdir) / "reference"))

    def path(self, target: str, modules: list[str]) -> tuple[bool, str | None]:
        """Whether a name exists, seen from some modules, and its path on the pages."""
        for prefix in [*modules, ""]:
            if (found := self._resolve(f"{prefix}.{target}".strip("."))) is not None:
                home, name = found
                first, _, rest = name.partition(".")
                path = self.paths.get((home, first))
                return True, path if path is None or not rest else f"{path}.{rest}"
        return False, None

    def _resolve(self, path: str) -> tuple[str, str] | None:
        """The home and the name of the object at a dotted path, if there is one."""
        parts = path.split(".")
        for length in range(len(parts), 0, -1):
            try:
                module = importlib.import_module(".".join(parts[:length]))
            except (ImportError, ValueError):
                continue
            value: Any = module
            for index, part in enumerate(parts[length:]):
                value = getattr(value, part, None)
                if value is None:
                    return None
                if index == 0:
                    home = getattr(value, "__module__", None)
            if length == len(parts):
                return None if not path.startswith("score_sde") else (path, "")
            known = isinstance(home, str) and home.startswith("score_sde")
            return (home if known else module.__name__), ".".join(parts[length:])
        return None


def _missing(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, shown: nodes.Element) -> Any:
    """A reference to a name of the package, under whatever path it is known."""
    if node.get("refdomain") != "py":
        return None
    names = _names(app)
    target = node["reftarget"].lstrip(".")
    module, cls = node.get("py:module") or "", node.get("py:class") or ""
    exists, path = names.path(target, [f"{module}.{cls}".strip("."), module] if module else [])
    if not exists:
        return None
    domain = env.domains["py"]
    assert isinstance(domain, PythonDomain)
    if path is not None and path in domain.objects:
        entry = domain.objects[path]
        return _reference(app, node, entry.docname, entry.node_id, shown)
    return shown  # it exists, but no page describes it


def _reference(app: Sphinx, node: addnodes.pending_xref, docname: str, anchor: str, shown: nodes.Element) -> Any:
    uri = app.builder.get_relative_uri(node["refdoc"], docname) + f"#{anchor}"
    return nodes.reference("", "", shown, internal=True, refuri=uri)


def _names(app: Sphinx) -> Names:
    if not hasattr(app, "names_of_the_package"):
        app.names_of_the_package = Names(app)  # type: ignore[attr-defined]
    return app.names_of_the_package  # type: ignore[attr-defined]


def setup(app: Sphinx) -> dict[str, bool]:
    """Link literals as pages are read, and names as links are resolved."""
    app.add_transform(Literals)
    app.connect("missing-reference", _missing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
