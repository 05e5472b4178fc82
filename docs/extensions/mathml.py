"""Formulas as MathML, which browsers draw by themselves: the site needs no scripts and no network for them."""

import itertools
import re
from html import escape
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

_NUMBER = re.compile(r"\\tag\{([^}]*)\}")
#: Commands that the converter does not know, and what stands for them.
_SPELLED = {r"\lt": "<", r"\gt": ">", r"\lVert": r"\Vert", r"\rVert": r"\Vert", r"\lbrace": r"\{", r"\rbrace": r"\}"}
_NAMESPACE = "http://www.w3.org/1998/Math/MathML"
_FUNCTIONS = frozenset({"log", "exp", "min", "max", "sin", "cos", "tan", "arg"})
_ALPHABETS = {"double-struck": 0x1D538, "bold": 0x1D400}  # browsers read letters, not the attribute
_OLD_LETTERS = dict(zip("CHNPQRZ", "\u2102\u210d\u2115\u2119\u211a\u211d\u2124", strict=True))


def mathml(latex: str, *, display: bool) -> str:
    """A formula as a ``<math>`` element."""
    for command, simple in _SPELLED.items():
        latex = re.sub(re.escape(command) + r"(?![A-Za-z])", lambda _, simple=simple: f"{simple} ", latex)
    formula = ElementTree.fromstring(convert(latex, display="block" if display else "inline"))
    for element in list(formula.iter()):
        _mend(element)
    ElementTree.register_namespace("", _NAMESPACE)
    return ElementTree.tostring(formula, encoding="unicode")


def _mend(element: ElementTree.Element) -> None:
    """Give functions their spaces, ``~`` those of a relation, and letters of other alphabets their characters."""
    if element.text == "~":
        element.tag, element.text = f"{{{_NAMESPACE}}}mo", "\u223c"
    start, letter = _ALPHABETS.get(element.get("mathvariant", "")), element.text or ""
    if start is not None and len(letter) == 1 and "A" <= letter <= "Z":
        del element.attrib["mathvariant"]
        plain = chr(start + ord(letter) - ord("A"))
        element.text = _OLD_LETTERS.get(letter, plain) if start == _ALPHABETS["double-struck"] else plain
    if element.tag in (f"{{{_NAMESPACE}}}mrow", f"{{{_NAMESPACE}}}math"):
        children = list(element)
        for place, (left, right) in reversed(list(enumerate(itertools.pairwise(children), start=1))):
            ends_in_sign = any(str(one.tag).endswith("}mo") for one in (left, right))
            if not ends_in_sign and {left.text, right.text} & _FUNCTIONS:
                element.insert(place, ElementTree.Element(f"{{{_NAMESPACE}}}mspace", width="0.17em"))


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext(), display=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    latex = node.astext()
    numbers = "".join(f'<span class="eqno">({escape(number)})</span>' for number in _NUMBER.findall(latex))
    formula = mathml(_NUMBER.sub("", latex).strip(), display=True)
    translator.body.append(f'<div class="formula"><div>{formula}</div>{numbers}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
