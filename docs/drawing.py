"""How the pictures of the documentation are drawn: figures with few colors, and tables of images with titles."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from score_sde.files import atomic_path

IMAGES = Path(__file__).parent / "images"
BLUE, ORANGE, GRAY = "#2b6cb0", "#dd6b20", "#4a5568"
DIGITS = 16.0  # the whitest gray level of the digits


def panels(width: float, height: float, rows: int, columns: int, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, an array of rows and columns."""
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Figure, name: str, dpi: int = 140) -> None:
    """Write a picture with few colors, so that it is small."""
    path = IMAGES / f"{name}.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.06, facecolor="white")
        with Image.open(temporary) as image:
            few = image.convert("RGB").quantize(96, dither=Image.Dither.NONE)
        few.save(temporary, format="PNG", optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def bare(axes: Axes, title: str = "", size: float = 9.0) -> None:
    """No ticks."""
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=size)


def tiled(images: np.ndarray, gap: int = 1) -> np.ndarray:
    """Images ``(rows, columns, height, width, 3)`` on white."""
    rows, columns, height, width, _ = images.shape
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for row, column in np.ndindex(rows, columns):
        top, left = row * (height + gap), column * (width + gap)
        canvas[top : top + height, left : left + width] = images[row, column]
    return canvas


def shades(values: np.ndarray, low: float = 0.0, high: float = DIGITS) -> np.ndarray:
    """Gray values ``(..., 1)`` as colors."""
    return np.repeat(np.clip((np.asarray(values, float) - low) / (high - low), 0.0, 1.0), 3, axis=-1)


def show(axes: Axes, images: np.ndarray, heading: str, titles: list[str]) -> None:
    """A table of images with a heading, and a title above each column."""
    canvas = tiled(images)
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(heading, fontsize=9, pad=17)
    step = (canvas.shape[1] + 1) / len(titles)
    for number, title in enumerate(titles):
        axes.text(
            (number + 0.5) * step - 1.0,
            -0.036 * canvas.shape[0],
            title,
            ha="center",
            va="bottom",
            fontsize=7,
            color=GRAY,
        )
