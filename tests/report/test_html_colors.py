"""The colors of the page can be told apart."""

import re

import numpy as np
import pytest

from score_sde.report.rendering import asset
from score_sde.report.svg import COLORS


def _palettes():
    """The colors of the light and of the dark scheme by their names."""
    blocks = re.findall(r":root \{(.*?)\}", asset("page.css"), re.S)
    return [dict(re.findall(r"--([\w-]+): #([0-9a-f]{6})", block)) for block in blocks]


def test_charts_are_drawn_in_the_colors_of_the_light_scheme():
    light, dark, *_ = _palettes()
    assert {name: light[name] for name in COLORS.values()} == {name: color[1:] for color, name in COLORS.items()}
    assert set(COLORS.values()) <= set(dark)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(scheme):
    """The ratios of WCAG 2.1, criteria 1.4.3 and 1.4.11: 4.5 for words, 3 for graphics."""
    colors = _palettes()[scheme == "dark"]

    def luminance(name):
        parts = [int(colors[name][i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    def ratio(a, b):
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    assert all(ratio(word, back) >= 4.5 for word in ("ink", "quiet", "accent") for back in ("page", "card"))
    assert ratio("warn", "warn-back") >= 4.5
    assert all(ratio(f"tone{n}", "card") >= 3.0 for n in range(6))
