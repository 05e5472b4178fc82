"""Paths, targets and weightings on equal terms: one network, one budget, in every combination, in one table.

    python experiments/paths/run.py --out=runs/paths --seeds=3
    python experiments/paths/run.py --paths=vp,rectified_flow --targets=velocity --weightings=flow,variance
    python experiments/paths/run.py --data=mnist --data_dir=D --out=runs/paths_mnist --paths=rectified_flow

Every combination is trained by the command line's own modes, with inputs scaled to unit variance and told the noise
level ``log(s / m)``, so that a path changes the distribution of the noise levels alone. Then the held-out likelihood
and its bound are measured, and the Fréchet distance of samples with few evaluations. What is there already is not
trained or measured again. ``table.md``, ``table.json`` and ``table.png`` are in the directory at the end.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from score_sde.cli import main as command_line
from score_sde.cli import run_script
from score_sde.startup import prepare_process

if __name__ == "__main__":
    prepare_process()  # before JAX is loaded

import jax
import numpy as np

sys.path.append(str(Path(__file__).parents[2]))  # where the folder of all experiments is
from experiments.comparison import Distance, add_data_flags, mean_cell, samples, settings_of
from score_sde.errors import UserError, unknown
from score_sde.files import atomic_write_json, atomic_write_text
from score_sde.modes.workdir import build_experiment, trained_state
from score_sde.report.plots import new_figure, save_figure

CONFIGS = {"digits": "digits_ddpmpp.py", "mnist": "mnist_ddpmpp_small.py"}
#: Fields of the paths: where each starts, so that the smallest noise is that of VP at its default, and how it ends.
PATHS: dict[str, tuple[str, ...]] = {
    "vp": (),
    "subvp": ("objective.t_min=6e-3", "likelihood.t_min=6e-3", "sampling.t_min=2.7e-2"),
    "cosine": ("objective.t_min=6e-4", "likelihood.t_min=6e-4", "sampling.t_min=6e-3"),
    "rectified_flow": ("objective.t_min=1e-3", "likelihood.t_min=1e-3", "sampling.t_min=1e-2"),
    "edm": ("sde.sigma_max=80.0", "objective.t_min=1.25e-5", "likelihood.t_min=1.25e-5", "sampling.t_min=1.25e-4"),
    "vdm": ("objective.t_min=1e-5", "sde.log_snr_min=-10.0", "sampling.t_min=0.18"),
}
TARGETS = ("noise", "v", "velocity", "edm")
WEIGHTINGS = ("variance", "likelihood", "flow", "edm", "min_snr", "sigmoid")
EVALUATIONS = (8, 17, 64)
#: What the table does not show is not measured.
MEASURED = ("likelihood.budget_examples=0", "likelihood.noise_levels=0", "likelihood.bound_times=32")
TESTED = 512  # images of the test split at most


class System(NamedTuple):
    """A combination, with a seed."""

    path: str
    target: str
    weighting: str
    seed: int

    def flags(self, options: argparse.Namespace) -> list[str]:
        """Its configuration, on the command line."""
        scaled = () if self.target == "edm" else ("parameterization.scale_input=True", _CONDITION)
        fields = (
            *(f"seed={self.seed}", f"sde.name={self.path}", f"parameterization.output={self.target}", *scaled),
            *(f"objective.weighting={self.weighting}", f"training.num_steps={options.steps}"),
            *("training.sample_every=0", f"data.data_dir={options.data_dir}", f"likelihood.num_examples={TESTED}"),
            *MEASURED,
            *PATHS[self.path],
        )
        config = Path(__file__).parents[2] / "configs" / "vp" / CONFIGS[options.data]
        return [f"--config={config}", *(f"--config.{field}" for field in fields)]


_CONDITION = "parameterization.condition_on=log_noise"


def systems(options: argparse.Namespace) -> Iterator[System]:
    """All combinations, one seed after another."""
    for seed in range(options.seeds):
        for path in options.paths:
            for target in options.targets:
                yield from (System(path, target, weighting, seed) for weighting in options.weightings)


def run_one(system: System, options: argparse.Namespace, distance: Distance) -> dict[str, Any]:
    """Train and measure one combination; read what is there."""
    workdir = options.out / "-".join(map(str, system))
    found = workdir / "paths.json"
    if not found.is_file():
        flags = system.flags(options)
        for mode in ("train", "likelihood"):
            if code := command_line([*flags, f"--workdir={workdir}", f"--mode={mode}"]):
                raise UserError(f"{mode} of {workdir.name} ended with {code}.")
        report = json.loads((workdir / "likelihood.json").read_text())
        experiment = build_experiment(settings_of(flags))
        atomic_write_json(
            found,
            {
                **system._asdict(),
                "bits_per_dim": [report["bits_per_dim"], report["std_error"]],
                "bound": [report["bound_bits_per_dim"], report["bound_std_error"]],
                "frechet": distances(experiment, workdir, distance),
            },
        )
        jax.clear_caches()
    return json.loads(found.read_text())


def distances(experiment: Any, workdir: Path, distance: Distance) -> dict[str, float]:
    """The distance for each number of evaluations, of which the last removes the noise that is left."""
    params, fields = trained_state(experiment, workdir).ema_params, {"predictor": "unipc_2", "grid": "log_snr"}
    return {
        str(count): distance.of(samples(experiment, params, **fields, num_steps=count - 1)) for count in EVALUATIONS
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each combination: means over seeds, with their standard errors."""
    lines = [
        "| path | target | weighting | seeds | NLL | bound | " + " | ".join(f"at {n}" for n in EVALUATIONS) + " |",
        "|---|---|---|---|---|---|" + "---|" * len(EVALUATIONS),
    ]
    for name in dict.fromkeys((row["path"], row["target"], row["weighting"]) for row in rows):
        own = [row for row in rows if (row["path"], row["target"], row["weighting"]) == name]
        columns = [[row[key][0] for row in own] for key in ("bits_per_dim", "bound")]
        columns += [[row["frechet"][str(n)] for row in own] for n in EVALUATIONS]
        cells = [mean_cell(column, digits) for column, digits in zip(columns, (3, 3, 1, 1, 1), strict=True)]
        lines.append(f"| {' | '.join((*name, str(len(own)), *cells))} |")
    return "\n".join(lines) + "\n"


#: What the picture shows: its name, how it is read from a row, its format, and how far from the best its shades reach.
SHOWN: dict[str, tuple[Callable[[dict[str, Any]], float], str, float]] = {
    "NLL in bits/dim": (lambda row: row["bits_per_dim"][0], "{:.2f}", 1.3),
    "Fréchet distance at 17": (lambda row: row["frechet"]["17"], "{:.0f}", 4.0),
}


def picture(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel for each number and target, in which a path is a row and a weighting a column: means over seeds."""
    paths, targets, weightings = (list(dict.fromkeys(row[key] for row in rows)) for key in System._fields[:3])
    figure, panels = new_figure(3.2 * len(targets) + 1.0, 5.6, len(targets), len(SHOWN))
    for (name, (read, cell, reach)), line in zip(SHOWN.items(), panels.reshape(len(SHOWN), -1), strict=True):
        values = np.full((len(targets), len(paths), len(weightings)), np.nan)
        for place in np.ndindex(values.shape):
            wanted = targets[place[0]], paths[place[1]], weightings[place[2]]
            found = [read(row) for row in rows if (row["target"], row["path"], row["weighting"]) == wanted]
            values[place] = np.mean(found) if found else np.nan
        best = np.nanmin(values)
        for target, axes, panel in zip(targets, line, values, strict=True):
            axes.grid(False)
            axes.imshow(np.log(panel), cmap="Blues_r", vmin=np.log(best), vmax=np.log(reach * best), aspect="auto")
            axes.set(xticks=range(len(weightings)), yticks=range(len(paths)), title=f"{name}\ntarget: {target}")
            axes.set_xticklabels(weightings, rotation=45, ha="right")
            axes.set_yticklabels(paths if axes is line[0] else [])
            for (row, column), value in np.ndenumerate(panel):
                color = "white" if value < best * reach**0.5 else "black"
                text = cell.format(value) if np.isfinite(value) else ""
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    save_figure(figure, path)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags.

    Raises:
        UserError: For unknown names.
    """
    parser = argparse.ArgumentParser(description="Paths, targets and weightings on equal terms.")
    parser.add_argument("--out", type=Path, default=Path("runs/paths"), help="where runs and table go")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from 0 on")
    parser.add_argument("--steps", type=int, default=3000, help="training steps")
    add_data_flags(parser)
    known = {"paths": tuple(PATHS), "targets": TARGETS, "weightings": WEIGHTINGS}
    for name, values in known.items():
        parser.add_argument(f"--{name}", default=",".join(values), help="names, with commas")
    options = parser.parse_args(arguments)
    for name, values in known.items():
        given = getattr(options, name).split(",")
        for each in given:
            if each not in values:
                raise unknown(name.removesuffix("s"), each, values)
        setattr(options, name, given)
    return options


def main(arguments: list[str]) -> None:
    """Run all combinations and write the table, anew after each."""
    options, rows = parse(arguments), []
    options.out.mkdir(parents=True, exist_ok=True)
    distance = Distance(options)
    for system in systems(options):
        logging.info("%s.", ", ".join(map(str, system)))
        rows.append(run_one(system, options, distance))
        atomic_write_json(options.out / "table.json", rows)
        atomic_write_text(options.out / "table.md", table(rows))
    picture(rows, options.out / "table.png")
    print(table(rows))


if __name__ == "__main__":
    sys.exit(run_script("paths", lambda: main(sys.argv[1:])))
