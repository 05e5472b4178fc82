"""HTML that is built, not pasted: text is escaped unless it is :class:`Markup`, which only :func:`element` makes."""

import html
from typing import Any

_VOID = frozenset({"br", "col", "hr", "img", "input", "meta"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(value: Any) -> Markup:
    """A value as HTML: markup unchanged, anything else as text with its special characters escaped.

    >>> escaped("<b>"), escaped(Markup("<b>")), escaped(None), escaped(3)
    ('&lt;b&gt;', '<b>', '', '3')
    """
    if isinstance(value, Markup):
        return value
    if value is None:
        return Markup("")
    # A lone surrogate, which JSON can hold, cannot be written as UTF-8.
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return Markup(html.escape("".join(c if c >= " " or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)))


def join(*children: Any, separator: str = "") -> Markup:
    """Children one after another, each escaped if it is no markup."""
    return Markup(escaped(separator).join(escaped(child) for child in children))


def element(tag: str, *children: Any, **attributes: Any) -> Markup:
    """An element with children and attributes, all of which are escaped.

    Args:
        tag: Its name.
        *children: Text or markup; ``None`` is nothing.
        **attributes: ``class_`` stands for ``class`` and ``stroke_width`` for ``stroke-width``; None and False leave
            an attribute out, True writes its bare name.

    >>> print(element("a", "1 < 2", element("br"), class_="x & y", hidden=True, title=None))
    <a class="x &amp; y" hidden>1 &lt; 2<br></a>
    """
    parts = [tag]
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(name)
        elif value is not None and value is not False:
            parts.append(f'{name}="{escaped(str(value))}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if tag in _VOID else f"{opening}{join(*children)}</{tag}>")


def table(head: list[Any], rows: list[list[Any]], *, caption: str, class_: str = "") -> Markup:
    """A table whose first column names the rows; it scrolls sideways where it is too wide for the page."""
    header = element("tr", *(element("th", cell, scope="col") for cell in head))
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    ]
    content = element(
        "table",
        element("caption", caption, class_="unseen"),
        element("thead", header),
        element("tbody", *body),
        class_=class_ or None,
    )
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=caption)


def code(text: Any) -> Markup:
    """A name or value in type of one width."""
    return element("code", text)


def note(*children: Any) -> Markup:
    """A remark in small, quiet type."""
    return element("p", *children, class_="note")
