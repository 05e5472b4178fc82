"""Draw one picture of conditional samples: digits by class with guidance and without, and restored images.

    python experiments/conditioning/picture.py --workdir=runs/classes --out=DIR [--config.sampling.num_steps=25 ...]

Samples have the same noise at both scales. Images are observed in their upper half, with noise, and are restored as of
no class. Writes ``conditioning.png`` to a directory, beside a folder for the results of each part.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from score_sde.cli import main as score_sde

ROWS, IMAGES, DRAWS = 5, 5, 4
UNKNOWN = np.array([0.80, 0.86, 0.95])  # the color of pixels that are not observed


def made(workdir: Path, place: Path, mode: str, file: str, overrides: list[str], **fields: object) -> dict[str, Any]:
    """The arrays of a mode, made unless they are there."""
    if not (place / file).exists():
        own = [f"--config.{name.replace('__', '.')}={value}" for name, value in fields.items()]
        if code := score_sde([f"--workdir={workdir}", f"--out={place}", f"--mode={mode}", *overrides, *own]):
            sys.exit(code)
    with np.load(place / file) as found:
        return dict(found)


def tiled(images: np.ndarray, gap: int = 1) -> np.ndarray:
    """Images ``(rows, columns, height, width, 3)`` on white."""
    rows, columns, height, width, _ = images.shape
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for row, column in np.ndindex(rows, columns):
        top, left = row * (height + gap), column * (width + gap)
        canvas[top : top + height, left : left + width] = images[row, column]
    return canvas


def colored(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Gray values ``(..., 1)`` as colors."""
    return np.repeat(np.clip((values - low) / (high - low), 0.0, 1.0), 3, axis=-1)


def sampled(found: dict[str, Any]) -> np.ndarray:
    """Samples with a row for each draw and a column for each class."""
    levels, classes = found["samples"], len(set(found["labels"].tolist()))
    return tiled(colored(levels.reshape(-1, classes, *levels.shape[1:])[:ROWS], 0.0, float(found["num_levels"]) - 1.0))


def restored(found: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
    """Truth, observation, draws, mean and standard deviation, a row for each image; and the titles of the columns."""
    observed = np.where(found["y"] == 0.0, UNKNOWN, colored(found["y"], -1.0, 1.0))
    draws = colored(found["draws"][:, :DRAWS], 0.0, float(found["num_levels"]) - 1.0)
    columns = [colored(found["truth"], -1.0, 1.0), observed, *np.moveaxis(draws, 1, 0)]
    columns += [colored(found["mean"], -1.0, 1.0), colored(found["std"], 0.0, float(found["std"].max()))]
    titles = ["truth", "seen", *["draw"] * DRAWS, "mean", "std"]
    return tiled(np.stack(columns, axis=1)), titles


def show(axes: Axes, canvas: np.ndarray, heading: str, titles: list[str]) -> None:
    """A panel with a heading, and titles above its columns."""
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(heading, fontsize=9, pad=13)
    step = (canvas.shape[1] + 1) / len(titles)
    for number, title in enumerate(titles):
        axes.text((number + 0.5) * step - 1.0, -1.6, title, ha="center", va="bottom", fontsize=7, color="#4a5568")


def main() -> None:
    """Sample, restore and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True, help="a trained run with classes, of gray images")
    parser.add_argument("--out", type=Path, required=True, help="where the picture and the results go")
    parser.add_argument("--scale", type=float, default=2.0, help="the scale of the guided samples")
    args, overrides = parser.parse_known_args()
    panels = []
    for scale in (1.0, args.scale):
        place, fields = (
            args.out / f"scale-{scale:g}",
            {"conditioning__scale": scale, "sampling__num_samples": 10 * ROWS},
        )
        found = made(args.workdir, place, "sample", "samples.npz", overrides, **fields)
        classes = [str(label) for label in found["labels"][: len(set(found["labels"].tolist()))]]
        panels.append((sampled(found), f"samples by class, guidance {scale:g}", classes))
    fields = {"conditioning__num_images": IMAGES, "conditioning__operator": "mask", "conditioning__draws": 19}
    found = made(args.workdir, args.out / "restored", "restore", "restoration.npz", overrides, **fields)
    canvas, titles = restored(found)
    panels.append((canvas, "restored from the upper half, with noise", titles))
    figure = Figure(figsize=(11.0, 2.3))
    figure.set_layout_engine("constrained", wspace=0.03)
    widths = [canvas.shape[1] for canvas, _, _ in panels]
    for axes, panel in zip(figure.subplots(1, len(panels), width_ratios=widths), panels, strict=True):
        show(axes, *panel)
    figure.savefig(args.out / "conditioning.png", dpi=150, bbox_inches="tight", pad_inches=0.08)


if __name__ == "__main__":
    main()
