"""Pictures of likelihoods: their distribution, where the bits are spent, and how bounds compare."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from score_sde.errors import plural
from score_sde.report.plots import BLUE, ORANGE, new_figure, save_figure


def likelihood_histogram(
    bits: np.ndarray, path: Path, *, mean: float, interval: tuple[float, float], baseline: float | None = None
) -> Path:
    """The distribution of bits per dimension over held-out images, with their mean and a baseline's.

    Args:
        bits: Bits per dimension of each image: ``(n,)``.
        path: The PNG to write.
        mean: The mean to mark.
        interval: Its confidence interval, drawn as a band.
        baseline: Mean bits per dimension of a Gaussian mixture on the same images, if there is one.

    Raises:
        UserError: If the file cannot be written.
    """
    figure, axes = new_figure(7.0, 4.2)
    finite = bits[np.isfinite(bits)]
    axes.hist(finite, bins=int(np.clip(2 * math.sqrt(len(finite)), 5, 60)), color=BLUE, alpha=0.45, edgecolor="white")
    low, high = interval
    if math.isfinite(low) and math.isfinite(high):  # of one image there is none
        axes.axvspan(low, high, color=BLUE, alpha=0.25, linewidth=0, label=f"95 % interval {low:.3f} to {high:.3f}")
    axes.axvline(mean, color=BLUE, linewidth=1.8, label=f"mean {mean:.3f}")
    if baseline is not None:
        axes.axvline(baseline, color=ORANGE, linewidth=1.8, linestyle="--", label=f"Gaussian mixture {baseline:.3f}")
    axes.set(
        xlabel="bits per dimension (fewer is better)",
        ylabel="images",
        title=f"Likelihood of {len(finite)} held-out {plural(len(finite), 'image')}",
    )
    axes.legend(frameon=False)
    return save_figure(figure, path)


def rate_distortion(level_bits: np.ndarray, rate: np.ndarray, distortion: np.ndarray, path: Path) -> Path:
    """Where the bits of a chain's bound are spent, and how well the data are known after how many.

    Compare Ho et al. 2020, arXiv 2006.11239, figure 5.

    Args:
        level_bits: Bits per dimension of the step down from each level but the last, from the prior to the data.
        rate: Bits per dimension that have been sent when each level is reached: one more.
        distortion: Root mean squared error of the denoised data at each level.
        path: The PNG to write.

    Raises:
        UserError: If the file cannot be written.
    """
    figure, (left, right) = new_figure(9.5, 4.2, columns=2)
    levels = np.arange(len(rate), 1, -1)
    left.plot(levels, level_bits, color=BLUE, linewidth=1.5)
    if (level_bits > 0.0).all():
        left.set_yscale("log")
    left.set(xlabel="level (1 is next to the data)", ylabel="bits per dimension", title="Cost of each step")
    right.plot(rate, distortion, "o-", color=BLUE, markersize=2, linewidth=1.5)
    right.set(xlabel="rate, bits per dimension", ylabel="root mean squared error", title="Rate and distortion")
    right.set_ylim(bottom=0.0)
    return save_figure(figure, path)


def noise_levels_plot(
    log_snr: np.ndarray, bits: np.ndarray, stds: Mapping[str, np.ndarray], path: Path, *, unit: str
) -> Path:
    """What each noise level adds to the bound, and how much its draws vary under each law of training times.

    Args:
        log_snr: Edges of the levels: ``(levels + 1,)``.
        bits: What each adds: ``(levels,)``.
        stds: By law of times, the standard deviation of one draw within each level.
        path: The PNG to write.
        unit: Of the bits.

    Raises:
        UserError: If the file cannot be written.
    """
    figure, (left, right) = new_figure(10.0, 4.2, columns=2)
    left.stairs(bits, -log_snr, fill=True, color=BLUE, alpha=0.45)
    left.set(xlabel="log noise-to-signal ratio", ylabel=unit, title=f"Where the {bits.sum():.3f} {unit} are spent")
    for (name, std), color in zip(stds.items(), (ORANGE, BLUE), strict=False):
        right.stairs(std, -log_snr, color=color, linewidth=1.8, label=name)
    right.set(xlabel="log noise-to-signal ratio", ylabel=unit, title="Spread of one draw of the loss")
    if any((std > 0.0).any() for std in stds.values()):  # a spread of one example is 0, or none
        right.set_yscale("log")
    right.legend(frameon=False)
    return save_figure(figure, path)


def bounds_plot(rows: Sequence[tuple[str, float, float]], path: Path, *, unit: str) -> Path:
    """Likelihoods and bounds of one model side by side: the gap between them tells how consistent its score is.

    Args:
        rows: Name, mean and standard error of each.
        path: The PNG to write.
        unit: Of the means.

    Raises:
        UserError: If the file cannot be written.
    """
    figure, axes = new_figure(7.0, 0.6 * len(rows) + 1.4)
    places = np.arange(len(rows))[::-1]
    means = np.array([row[1] for row in rows])
    errors = np.nan_to_num(np.array([row[2] for row in rows]))
    axes.errorbar(means, places, xerr=1.96 * errors, fmt="o", color=BLUE, capsize=4)
    for place, (_, mean, error) in zip(places, rows, strict=True):
        text = f"{mean:.3f} ± {error:.3f}" if math.isfinite(error) else f"{mean:.3f}"
        axes.annotate(text, (mean, place), (0, 7), textcoords="offset points", ha="center")
    axes.set_yticks(places, [row[0] for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.margins(x=0.25)
    axes.set(xlabel=f"{unit}, with 95 % intervals over images")
    return save_figure(figure, path)
