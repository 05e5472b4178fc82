"""Text from templates: HTML and Markdown, with every value escaped."""

import functools
import html
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from score_sde.errors import plural
from score_sde.machine import hardware_line
from score_sde.report.figures import clean

if TYPE_CHECKING:
    from jinja2 import Environment


def render(name: str, **values: Any) -> str:
    """A template of ``templates/`` filled with values."""
    return _environment(name.endswith(".md")).get_template(name).render(**values)


def asset(name: str) -> str:
    """The text of a file in the folder of the templates."""
    return (resources.files("score_sde.report") / "templates" / name).read_text(encoding="utf-8").strip()


@functools.cache
def _environment(markdown: bool) -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from jinja2.filters import do_mark_safe

    def shown(value: Any) -> Any:
        """A value as clean text; only templates make markup."""
        if value is None or hasattr(value, "__html__"):
            return value or ""
        return do_mark_safe(as_markdown(str(value))) if markdown else clean(str(value))

    environment = Environment(
        loader=PackageLoader("score_sde.report"),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = lambda text: do_mark_safe(code(str(text)))
    environment.filters["plain"] = lambda text: do_mark_safe(clean(str(text)))  # for text between fences
    environment.filters["fence"] = lambda text: fence(str(text), 3)
    environment.filters["count"] = lambda number, noun: f"{number} {plural(number, noun)}"
    environment.filters["machine"] = hardware_line
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment


def as_markdown(text: str) -> str:
    r"""Text escaped for Markdown: no HTML, links, code or table columns, and all on one line.

    >>> print(as_markdown("<b>[x](y)` & a_b\n*c* | d"))
    &lt;b&gt;\[x\](y)\` &amp; a_b \*c\* \| d
    """
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(clean(text).split()), quote=False))


def code(text: str) -> str:
    r"""Text as a code span in a table, with a fence longer than any run of backticks in the text.

    >>> print(code("a = 1"), code("a`b | c"))
    `a = 1` `` a`b \| c ``
    """
    text, ticks = " ".join(clean(text).split()).replace("|", r"\|"), fence(text, 1)
    return f"{ticks}{text}{ticks}" if len(ticks) == 1 else f"{ticks} {text} {ticks}"


def fence(text: str, shortest: int) -> str:
    """A fence for a text: more backticks than any run of them in it."""
    return "`" * max(shortest, *(len(run) + 1 for run in re.findall("`+", text)), 0)
