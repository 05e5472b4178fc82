"""Formulas as MathML, which browsers draw by themselves: the site needs no scripts and no network for them."""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_NUMBER = re.compile(r"\\tag\{([^}]*)\}")
#: What the converter of docutils does not know: commands, and digits that are arguments without braces.
_SPELLED = {
    r"\\lt(?![A-Za-z])": "<",
    r"\\gt(?![A-Za-z])": ">",
    r"\\dots(?![A-Za-z])": r"\\ldots",
    r"(\\t?frac)\s*(\d)\s*(\d)": r"\1{\2}{\3}",
}
_SPACE = '<mspace width="0.17em"/>'
#: What browsers draw otherwise than TeX: functions without parentheses or behind a factor have a space, bars a height.
_DRAWN = {
    r"<mo>&ApplyFunction;</mo>(?!\s*<mo[^>]*>[(\[])": _SPACE,
    rf"(</(?!mo)\w+>)(?=\s*<mi>\w+</mi>\s*(?:<mo>&ApplyFunction;|{_SPACE}))": rf"\1{_SPACE}",
    r"<mo[^>]*>\u2016": '<mo stretchy="false">\u2016',
}


def mathml(node: nodes.math | nodes.math_block) -> str:
    """A formula as a ``<math>`` element, without its number."""
    latex = _changed(_NUMBER.sub("", node.astext()).strip(), _SPELLED)
    try:
        return _changed(tex2mathml(latex, as_block=isinstance(node, nodes.math_block)), _DRAWN)
    except MathError as error:
        logging.getLogger(__name__).warning("%s: %s", latex, error, location=node)
        return escape(latex)


def _changed(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        text = re.sub(old, new, text)
    return text


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(mathml(node))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    numbers = "".join(f'<span class="eqno">({escape(number)})</span>' for number in _NUMBER.findall(node.astext()))
    translator.body.append(f'<div class="formula"><div>{mathml(node)}</div>{numbers}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
