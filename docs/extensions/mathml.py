"""Formulas as MathML, which browsers draw by themselves: the site needs no scripts and no network for them."""

import re
from html import escape
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

_NUMBER = re.compile(r"\\tag\{([^}]*)\}")
#: Commands that the converter does not know, and what stands for them.
_SPELLED = {r"\lt": "<", r"\gt": ">", r"\lVert": r"\Vert", r"\rVert": r"\Vert", r"\lbrace": r"\{", r"\rbrace": r"\}"}


def mathml(latex: str, *, display: bool) -> str:
    """A formula as a ``<math>`` element."""
    for command, simple in _SPELLED.items():
        latex = re.sub(re.escape(command) + r"(?![A-Za-z])", lambda _, simple=simple: f"{simple} ", latex)
    return convert(latex, display="block" if display else "inline")


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
