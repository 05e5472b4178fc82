"""The table of the lineage and its picture, from what the runs have left."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.evaluation.base import mean_and_std_error
from score_sde.files import atomic_write_json, atomic_write_text
from score_sde.metrics import FrechetEstimate
from score_sde.modes.workdir import machine
from score_sde.report.plots import new_figure, save_figure


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
    """A number of one run, with its standard error over images and what it is."""

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
    """One ancestor over its seeds."""
    row: dict[str, Any] = {"name": runs[0].name, "seeds": [run.seed for run in runs]}
    for field, read in (("nll", nll_of), ("bound", bound_of)):
        found = [value for run in runs if (value := read(run.likelihood)) is not None]
        row[field] = _joined(found) if found else None
    distances = [run.frechet for run in runs]
    mean, error = mean_and_std_error(np.array([distance.corrected for distance in distances]))
    row["frechet"] = {
        "value": mean,
        "seeds_std_error": error,
        "samples_std_error": float(np.mean([distance.std_error for distance in distances])),
        "low": float(np.mean([distance.low for distance in distances])),
        "high": float(np.mean([distance.high for distance in distances])),
        "uncorrected": float(np.mean([distance.distance for distance in distances])),
    }
    row["parameters"] = runs[0].parameters
    row["solver"], row["num_evals"] = runs[0].sampling["solver"], runs[0].sampling["num_evals"]
    row["seconds"] = {stage: float(np.mean([run.seconds[stage] for run in runs])) for stage in runs[0].seconds}
    row["runs"] = [run._replace(pictures=np.zeros(0))._asdict() | {"frechet": run.frechet._asdict()} for run in runs]
    for run in row["runs"]:
        del run["pictures"]
    return row


def _joined(values: Sequence[Value]) -> dict[str, Any]:
    mean, error = mean_and_std_error(np.array([value.value for value in values]))
    images = float(np.mean([value.std_error for value in values]))
    return {"value": mean, "images_std_error": images, "seeds_std_error": error, "what": values[0].what}


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
    """Write ``table.json``, ``table.md`` and ``samples.png``."""
    names = list(dict.fromkeys(run.name for run in runs))
    rows = [summary([run for run in runs if run.name == name]) for name in names]
    report = {"rows": rows, "extractor": extractor, "data_distance": data_distance._asdict(), **machine(command)}
    atomic_write_json(directory / "table.json", report)
    atomic_write_text(directory / "table.md", markdown(report))
    first = {name: next(run.pictures for run in runs if run.name == name) for name in names}
    picture({"data": data_pictures} | first, directory / "samples.png", num_levels)


def markdown(report: dict[str, Any]) -> str:
    """The table as a page."""
    lines = [
        "| system | NLL, bits/dim | bound, bits/dim | of what | Fréchet distance | sampler | evaluations | parameters "
        "| train, s | sample, s |",
        "|" + "---|" * 10,
    ]
    for row in report["rows"]:
        seconds, bound = row["seconds"], row["bound"]
        cells = [
            row["name"],
            _cell(row["nll"]),
            _cell(bound),
            bound["what"] if bound else "—",
            _distance(row["frechet"]),
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
    if found is None:
        return "—"
    return f"{found['value']:.3f} ± {found['images_std_error']:.3f}{_seeds(found['seeds_std_error'])}"


def _distance(found: dict[str, Any]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]{_seeds(found['seeds_std_error'])}"


def _seeds(error: float) -> str:
    return "" if np.isnan(error) else f" ± {error:.3f}"


def picture(rows: dict[str, np.ndarray], path: Path, num_levels: int) -> None:
    """A row of images of each ancestor, with its name."""
    height = next(iter(rows.values())).shape[1]
    strips = [np.concatenate([image[..., 0] for image in images], axis=1) for images in rows.values()]
    width = max(strip.shape[1] for strip in strips)
    blank = np.full((1, width), num_levels - 1)
    tiles = [part for strip in strips for part in (np.pad(strip, ((0, 0), (0, width - strip.shape[1]))), blank)]
    figure, axes = new_figure(9.0, 0.62 * len(rows))
    axes.grid(False)
    axes.imshow(np.concatenate(tiles[:-1]), cmap="gray", vmin=0, vmax=num_levels - 1, interpolation="nearest")
    axes.set_yticks([(height + 1) * index + 0.5 * (height - 1) for index in range(len(rows))], list(rows))
    axes.set_xticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    save_figure(figure, path)
