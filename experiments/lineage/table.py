"""The table of the lineage and its picture, from what the runs have left."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.evaluation.base import mean_and_std_error
from score_sde.files import atomic_write_json, atomic_write_text
from score_sde.metrics import FrechetEstimate
from score_sde.modes.workdir import machine
from score_sde.report.plots import image_grid

PICTURES = 16  # images of a system in the picture
COLUMNS = (
    *("system", "NLL, bits/dim", "bound, bits/dim", "of what", "Fréchet distance", "sampler", "evaluations"),
    *("parameters", "train, s", "sample, s"),
)


class Measured(NamedTuple):
    """One run."""

    name: str
    seed: int
    likelihood: dict[str, Any]  # likelihood.json
    sampling: dict[str, Any]  # sampling.json
    frechet: FrechetEstimate
    parameters: int
    seconds: dict[str, float]  # of every stage
    pictures: np.ndarray  # its first samples


class Value(NamedTuple):
    """A number of one run, with its standard error over images and its name."""

    value: float
    std_error: float
    what: str


def nll_of(report: dict[str, Any]) -> Value | None:
    """The negative log-likelihood of the flow in bits/dim, if a run has one."""
    if "bits_per_dim" not in report or "quantity" in report:
        return None
    return Value(report["bits_per_dim"], report["std_error"], "probability flow")


def bound_of(report: dict[str, Any]) -> Value | None:
    """The variational bound in bits/dim: of an autoencoder, a chain, or the reverse SDE."""
    if "quantity" in report:
        return Value(report["bits_per_dim"], report["std_error"], report["quantity"])
    if chain := report.get("chain_bound"):
        what = f"chain of {chain['num_levels']}, {chain['variances']}"
        return Value(chain["bits_per_dim"], chain["std_error"], what)
    if "bound_bits_per_dim" in report:
        return Value(report["bound_bits_per_dim"], report["bound_std_error"], "reverse SDE")
    return None


def summary(runs: Sequence[Measured]) -> dict[str, Any]:
    """One ancestor over its seeds: means, with the mean of the errors and the standard error over seeds."""
    row: dict[str, Any] = {"name": runs[0].name, "seeds": [run.seed for run in runs]}
    for field, read in (("nll", nll_of), ("bound", bound_of)):
        found = [value for run in runs if (value := read(run.likelihood)) is not None]
        row[field] = _over_seeds(found, "value", "std_error") | {"what": found[0].what} if found else None
    row["frechet"] = _over_seeds([run.frechet for run in runs], "corrected", "std_error", "low", "high", "distance")
    row["parameters"] = runs[0].parameters
    row["solver"], row["num_evals"] = runs[0].sampling["solver"], runs[0].sampling["num_evals"]
    row["seconds"] = {stage: float(np.mean([run.seconds[stage] for run in runs])) for stage in runs[0].seconds}
    return row


def _over_seeds(found: Sequence[Any], value: str, *others: str) -> dict[str, Any]:
    """The mean of a value and its standard error over seeds, and the means of other values."""
    columns = {name: np.array([getattr(one, name) for one in found]) for name in (value, *others)}
    mean, error = mean_and_std_error(columns.pop(value))
    return {"value": mean, "seeds_std_error": error, **{name: float(them.mean()) for name, them in columns.items()}}


def write_results(
    runs: Sequence[Measured],
    directory: Path,
    *,
    command: str,
    extractor: str,
    data_distance: FrechetEstimate,
    data_pictures: np.ndarray,
    num_levels: int,
) -> None:
    """Write ``table.json``, ``table.md``, and ``samples.png``: rows of images of the data, then of each ancestor."""
    names = list(dict.fromkeys(run.name for run in runs))
    rows = [summary([run for run in runs if run.name == name]) for name in names]
    report = {"rows": rows, "extractor": extractor, "data_distance": data_distance._asdict(), **machine(command)}
    atomic_write_json(directory / "table.json", report)
    atomic_write_text(directory / "table.md", markdown(report))
    first = [next(run.pictures for run in runs if run.name == name) for name in names]
    pictures = np.concatenate([data_pictures, *first])
    image_grid(pictures, directory / "samples.png", num_grey_levels=num_levels, columns=PICTURES)


def markdown(report: dict[str, Any]) -> str:
    """The table as a page."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for row in report["rows"]:
        seconds, bound, distance = row["seconds"], row["bound"], row["frechet"]
        cells = [
            row["name"],
            _cell(row["nll"]),
            _cell(bound),
            bound["what"] if bound else "—",
            f"{distance['value']:.3f} [{distance['low']:.3f}, {distance['high']:.3f}]{_seeds(distance)}",
            row["solver"],
            f"{row['num_evals']:.0f}",
            f"{row['parameters']:,}",
            f"{seconds['train'] + seconds.get('train_dequantizer', 0.0):.0f}",
            f"{seconds['sample']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    data, seeds = report["data_distance"], max(len(row["seeds"]) for row in report["rows"])
    lines += [
        "",
        f"`{report['command']}`, {report['date']}. Bits/dim: mean over {seeds} seed(s), ± standard error over held-out "
        "images, ± over seeds. Fréchet distance to the training images in the features of "
        f"`{report['extractor']}`, less its bias, with the 95 % interval over samples, ± standard error over seeds; "
        f"of held-out images {data['distance'] - data['bias']:.3f} [{data['low']:.3f}, {data['high']:.3f}]. Seconds "
        "are of the wall clock, compilation included.",
    ]
    return "\n".join(lines) + "\n"


def _cell(found: dict[str, Any] | None) -> str:
    return "—" if found is None else f"{found['value']:.3f} ± {found['std_error']:.3f}{_seeds(found)}"


def _seeds(found: dict[str, Any]) -> str:
    return "" if np.isnan(found["seeds_std_error"]) else f" ± {found['seeds_std_error']:.3f}"
