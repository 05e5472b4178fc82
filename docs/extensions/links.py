"""Names between backticks become links: fields and modes to where they are described, files to their pages.

References of docstrings to names of the package that the reference describes elsewhere are found too.
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.autosummary import ImportExceptionGroup, import_by_name
from sphinx.transforms.post_transforms import SphinxPostTransform

from extensions.public_names import described, home_of, modules_of
from score_sde.fields import FIELDS
from score_sde.modes import MODES

_FIELDS = frozenset(FIELDS)  # without the options of parts, which the mapping would find too
_PAGES = re.compile(r"(?:docs/)?([\w/]+)\.md")
_FIELD = re.compile(r"(?:--)?(?:config\.)?([\w.]+?)(?:=.*)?")


class LiteralLinks(SphinxPostTransform):
    """Make literals that name a field, a mode or a page links; on the page of fields, make their rows anchors."""

    default_priority = 5  # before Sphinx resolves references

    def run(self, **_: Any) -> None:
        """Go through the literals of a page."""
        for name in self.document.findall(addnodes.pending_xref):
            name.attributes.pop("refspecific", None)  # by which Sphinx would guess
        here, rows = self.env.current_document.docname, set()
        for literal in list(self.document.findall(nodes.literal)):
            text = literal.astext()
            if here == "fields" and text in _FIELDS:
                literal["ids"] += [_anchor(text)] * (text not in rows)
                rows.add(text)
            elif isinstance(literal.parent, (nodes.reference, addnodes.pending_xref, nodes.title)):
                continue
            elif (target := self._target(text, here)) is not None:
                page, anchor = target
                uri = self.app.builder.get_relative_uri(here, page) + anchor
                link = nodes.reference("", "", internal=True, refuri=uri)
                literal.replace_self(link)
                link.append(literal)

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


def _anchor(field: str) -> str:
    return "field-" + field.replace(".", "-").replace("_", "-")


def paths_of(app: Sphinx) -> dict[tuple[str, str], str]:
    """The paths of the reference, by the homes and names of what they lead to."""
    if not hasattr(app, "paths_of_names"):
        app.paths_of_names = described(modules_of(Path(app.srcdir) / "reference"))  # type: ignore[attr-defined]
    return app.paths_of_names  # type: ignore[attr-defined]


def _anywhere(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, contnode: Any) -> Any:
    """Resolve a reference by any path that a program may import a name by; what is on no page becomes no link."""
    if node.get("refdomain") != "py":
        return None
    target, module, cls = node["reftarget"].lstrip("."), node.get("py:module"), node.get("py:class")
    around = [f"{module}.{cls}", module] if module and cls else [module]
    try:
        path, _, _, home = import_by_name(target, [None] if target.startswith("score_sde") else around)
        first, dot, rest = path.removeprefix(f"{home}.").partition(".")
        found = paths_of(app).get((home_of(home, first), first)) if home.startswith("score_sde") else None
    except ImportExceptionGroup:  # such as the type of an argument, which only the home of its function imports
        found, dot, rest = {name: path for (_, name), path in paths_of(app).items()}.get(target), "", ""
        if found is None:
            return None
    if found is None:
        return contnode
    python = env.domains.python_domain
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", f"{found}{dot}{rest}", node, contnode)


def _home(app: Sphinx, module: str, name: str) -> str:
    """The module whose source has what another module describes; Sphinx finds classes and functions only."""
    del app
    return home_of(module, name.partition(".")[0])


#: Links from the pages of sources back to the reference.
_BACK = re.compile(r'(<a class="viewcode-back" href="[^"#]*)#([^"]*)(">)')


def _back(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Mend these links: a module may be described under several names, and Sphinx takes one for all of them."""
    del templatename, doctree
    if not pagename.startswith("_modules/score_sde") or "body" not in context:
        return
    module, objects = pagename.removeprefix("_modules/").replace("/", "."), app.env.domains.python_domain.objects
    taken = app.env._viewcode_modules[module][3]  # type: ignore[attr-defined]

    def mended(link: re.Match[str]) -> str:
        first, dot, rest = unquote(link[2]).removeprefix(f"{taken}.").partition(".")
        entry = objects.get(f"{paths_of(app).get((module, first))}{dot}{rest}")
        if entry is None:
            return link[0]
        uri = app.builder.get_relative_uri(pagename, entry.docname)
        return f'<a class="viewcode-back" href="{uri}#{entry.node_id}{link[3]}'

    context["body"] = _BACK.sub(mended, context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Link literals and names as references are resolved."""
    app.add_post_transform(LiteralLinks)
    app.connect("missing-reference", _anywhere)
    app.connect("viewcode-follow-imported", _home)
    app.connect("html-page-context", _back)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
