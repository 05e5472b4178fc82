"""Names between backticks become links: fields and modes to where they are described, files to their pages.

References of docstrings to names of the package that the reference describes elsewhere are found too.
"""

import importlib
import operator
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform

from extensions.public_names import described, home_of, is_made, modules_of
from score_sde.fields import FIELDS
from score_sde.modes import MODES

_FIELDS = frozenset(FIELDS)  # without the options of parts, which the mapping would find too
_PAGES = re.compile(r"(?:docs/)?([\w/]+)\.md")
_FIELD = re.compile(r"(?:--)?(?:config\.)?([\w.]+?)(?:=.*)?")


class Literals(SphinxTransform):
    """Mark the literals that name a field, a mode or a page; on the page of fields, make their rows anchors."""

    default_priority = 400

    def apply(self, **_: Any) -> None:
        """Go through the literals of a page."""
        here, rows = self.env.current_document.docname, set()
        for literal in self.document.findall(nodes.literal):
            text = literal.astext()
            if here == "fields" and text in _FIELDS:
                if text not in rows:
                    literal["ids"].append(_anchor(text))
                rows.add(text)
            elif not isinstance(literal.parent, (nodes.reference, addnodes.pending_xref, nodes.title)):
                literal["to"] = self._target(text, here)

    def _target(self, text: str, here: str) -> tuple[str, str] | None:
        if (field := _FIELD.fullmatch(text)) and field[1] in _FIELDS and "." in field[1]:
            return "fields", f"#{_anchor(field[1])}"
        if (mode := text.removeprefix("--mode=")) != text and mode in MODES:
            return "reference/modes", f"#mode-{mode.replace('_', '-')}"
        if (page := _PAGES.fullmatch(text)) is not None:
            name = re.sub(r"^experiments/(\w+)/README$", r"measurements/\1", page[1])
            if name in self.env.found_docs and name != here:
                return name, ""
        return None


class LiteralLinks(SphinxPostTransform):
    """Make the marked literals links."""

    default_priority = 5

    def run(self, **_: Any) -> None:
        """Go through the literals of a page."""
        here = self.env.current_document.docname
        for literal in list(self.document.findall(nodes.literal)):
            if (target := literal.attributes.pop("to", None)) is not None:
                page, anchor = target
                uri = self.app.builder.get_relative_uri(here, page) + anchor
                link = nodes.reference("", "", internal=True, refuri=uri)
                literal.replace_self(link)
                link.append(literal)


def _anchor(field: str) -> str:
    return "field-" + field.replace(".", "-").replace("_", "-")


class Names:
    """The names of the package, by the names under which the reference describes them."""

    def __init__(self, app: Sphinx) -> None:
        """Import all modules of the reference."""
        self.paths = described(modules_of(Path(app.srcdir) / "reference"))
        self.modules = {path.rpartition(".")[0] for path in self.paths.values()}

    def path(self, target: str, modules: list[str]) -> tuple[bool, str | None]:
        """Whether a name exists, seen from some modules, and its path on the pages."""
        for prefix in [*modules, ""]:
            if (found := self._resolve(f"{prefix}.{target}".strip("."))) is not None:
                return True, found or None
        return False, None

    def _resolve(self, path: str) -> str | None:
        """The path on the pages of the object at a dotted path: empty if no page has it, None if nothing is there."""
        parts = path.split(".")
        if parts[0] != "score_sde":
            return None
        for length in range(len(parts), 0, -1):
            try:
                module = importlib.import_module(".".join(parts[:length]))
            except (ImportError, ValueError):
                continue
            if length == len(parts):
                return path if path in self.modules else ""
            try:
                operator.attrgetter(".".join(parts[length:]))(module)
            except AttributeError:
                return None
            first, *rest = parts[length:]
            found = self.paths.get((home_of(module.__name__, first), first))
            return "" if found is None else ".".join([found, *rest])
        return None


class References(SphinxPostTransform):
    """Bring references to names of the package to the paths of the reference, as their modules know them."""

    default_priority = 5  # before Sphinx resolves them

    def run(self, **_: Any) -> None:
        """Go through the references of a page."""
        for node in list(self.document.findall(addnodes.pending_xref)):
            if node.get("refdomain") != "py":
                continue
            node.attributes.pop("refspecific", None)  # by which Sphinx would guess
            module, cls = node.get("py:module") or "", node.get("py:class") or ""
            around = [f"{module}.{cls}".strip("."), module] if module else []
            exists, path = _names(self.app).path(node["reftarget"].lstrip("."), around)
            if path is not None:
                node["reftarget"] = path
            elif exists:  # but no page describes it
                node.replace_self(node.children)


def _home(app: Sphinx, module: str, name: str) -> str | None:
    """The module whose source has a constant that another module describes; Sphinx finds classes and functions."""
    del app
    first = name.partition(".")[0]
    try:
        value = operator.attrgetter(name)(importlib.import_module(module))
    except AttributeError:  # a field without a default, which only objects have
        return None
    of_python = getattr(value, "__module__", None) == "builtins"  # such as a number with its type
    return home_of(module, first) if of_python or (first == name and not is_made(value)) else None


#: Links from the pages of sources back to the reference.
_BACK = re.compile(r'(<a class="viewcode-back" href="[^"#]*)(#[^"]*)(">)')


def _back(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Mend these links: a module may be described under several names, and Sphinx takes one for all of them."""
    del templatename, doctree
    if pagename.startswith("_modules/") and "body" in context:
        module, domain = pagename.removeprefix("_modules/").replace("/", "."), app.env.domains["py"]
        assert isinstance(domain, PythonDomain)

        def mended(link: re.Match[str]) -> str:
            shown = unquote(link[2]).removeprefix("#")
            for length in range(1, shown.count(".") + 1):
                name = ".".join(shown.split(".")[-length:])
                _, path = _names(app).path(f"{module}.{name}", [])
                if path in domain.objects:
                    entry = domain.objects[path]
                    uri = app.builder.get_relative_uri(pagename, entry.docname)
                    return f'<a class="viewcode-back" href="{uri}#{entry.node_id}{link[3]}'
            return link[0]

        context["body"] = _BACK.sub(mended, context["body"])


def _names(app: Sphinx) -> Names:
    if not hasattr(app, "names_of_the_package"):
        app.names_of_the_package = Names(app)  # type: ignore[attr-defined]
    return app.names_of_the_package  # type: ignore[attr-defined]


def setup(app: Sphinx) -> dict[str, bool]:
    """Link literals as pages are read, and names as links are resolved."""
    app.add_transform(Literals)
    app.add_post_transform(LiteralLinks)
    app.add_post_transform(References)
    app.connect("viewcode-follow-imported", _home)
    app.connect("html-page-context", _back)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
