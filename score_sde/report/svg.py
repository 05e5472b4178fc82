"""Charts as inline SVG, drawn by matplotlib in the colors and font of the page and within its security policy."""

import functools
import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree

from score_sde.report.figures import clean, tick_label

#: The light colors of ``page.css``; the page replaces them by its variables, so that charts follow its color scheme.
COLORS = {
    **{"#2456c5": "tone0", "#c2570c": "tone1", "#0b7a55": "tone2", "#8b2fa0": "tone3", "#0e7490": "tone4"},
    **{"#6b7280": "tone5", "#1d1f24": "ink", "#5c616b": "quiet", "#e3e1dc": "line", "#ecebe7": "grid"},
}
*TONES, INK, QUIET, LINE, GRID = COLORS
WIDTH, FONT = 420.0, 12.0  # width of a chart and size of its text
#: Text stays text in the font of the page, output is deterministic, and paths are not simplified.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "score_sde",
    "path.simplify": False,
    "font.size": FONT,
}


@functools.lru_cache(maxsize=256)
def svg(draw: Callable[..., None], drawn: tuple[Any, ...], label: str, height: float) -> str:
    """The markup of a chart; charts with equal content are drawn once."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the font that measures text may lack some characters
        figure = Figure(figsize=(WIDTH / 72.0, height / 72.0))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(LINE)
        axes.tick_params(length=0, pad=6, labelcolor=QUIET)
        axes.xaxis.label.set_color(QUIET)
        axes.grid(True, axis="y", color=GRID, linewidth=1.0)
        axes.set_axisbelow(True)
        draw(axes, *drawn)
        if axes.axison:
            low, high = sorted(axes.get_ylim())
            words = [tick_label(tick) for tick in axes.get_yticks() if low <= tick <= high]
            left = 14.0 + 7.0 * max(map(len, words)) if words else 20.0
            axes.set_position((left / WIDTH, 40.0 / height, 1.0 - (left + 16.0) / WIDTH, 1.0 - 50.0 / height))
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    return _inline(file.getvalue(), {"viewBox": f"0 0 {WIDTH:g} {height:g}", "aria-label": clean(label)})


def _inline(text: bytes, attributes: Mapping[str, str]) -> str:
    """An SVG of matplotlib made inline: without styles, which the policy forbids, and without ids."""
    root = ElementTree.fromstring(text)
    for each in root.iter():
        each.tag = each.tag.rpartition("}")[2]
        styled = (part.partition(":") for part in each.attrib.pop("style", "").split(";") if part.strip())
        each.attrib |= {name.strip(): value.strip() for name, _, value in styled if not name.strip().startswith("font")}
        each.attrib.pop("clip-path", None)  # the limits include all values
        for name in ("fill", "stroke"):
            if (color := COLORS.get(each.get(name, ""))) is not None:
                each.set(name, f"var(--{color})")
    shapes = {f"#{each.attrib.pop('id')}": each for each in root.iter() if "id" in each.attrib}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("defs", "metadata"):
                parent.remove(child)
            elif child.tag == "use":  # of a marker
                found = dict(child.attrib)
                shape = shapes[found.pop("{http://www.w3.org/1999/xlink}href")]
                child.tag, place = "path", f"translate({found.pop('x')} {found.pop('y')})"
                child.attrib = {**found, **shape.attrib, "transform": place}
    root.attrib = {**attributes, "role": "img", "class": "chart"}
    return ElementTree.tostring(root, encoding="unicode")
