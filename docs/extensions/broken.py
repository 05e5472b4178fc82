"""No internal link, anchor or picture of the built site is missing; external links are not fetched.

The build ends with this check, and ``python docs/extensions/broken.py build/docs`` does it alone.
"""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """The anchors and the links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors.update(value for name in ("id", "name") if (value := given.get(name)))
        self.links += [value for name in ("href", "src") if (value := given.get(name))]


def broken_links(site: Path) -> Iterator[str]:
    """Sentences about the links of a site that lead nowhere."""
    pages = {file.resolve(): _Page(file.read_text()) for file in sorted(site.rglob("*.html"))}
    for file, page in pages.items():
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            where = file.relative_to(site.resolve())
            if not target.exists():
                yield f"{where} links to {link}, which is not there."
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{where} links to {link}, and {target.name} has no such anchor."


def _check(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.name == "html":
        from sphinx.util import logging

        for sentence in broken_links(Path(app.outdir)):
            logging.getLogger(__name__).warning("%s", sentence)


def setup(app: Any) -> dict[str, bool]:
    """Check the site once it is built."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    found = list(broken_links(Path(sys.argv[1])))
    print(*found, f"{len(found)} broken links.", sep="\n")
    sys.exit(bool(found))
