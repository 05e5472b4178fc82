"""What a sampler changes: trained runs drawn from in three ways, measured and put in one table.

    python experiments/metrics/samplers.py --out=runs/samplers runs/lineage/digits/{vp,subvp,ve}/seed{0,1,2}

Every run is measured by ``--mode=eval`` with every sampler, in a directory of its own that borrows the checkpoints of
the run. What is there already is not measured again. Runs of one process are one row of ``table.md``, its seeds.
"""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from score_sde.cli import run_script
from score_sde.startup import prepare_process

if __name__ == "__main__":
    prepare_process()  # before JAX is loaded

import jax
import numpy as np

from score_sde.config import from_file
from score_sde.errors import UserError
from score_sde.evaluation.base import mean_and_std_error
from score_sde.fields import Settings
from score_sde.files import atomic_write_text, check_writable
from score_sde.modes import MODES
from score_sde.modes.workdir import machine

SAMPLERS = {
    "fast": {"predictor": "unipc_3", "corrector": "none", "grid": "log_snr", "num_steps": 16},
    "ODE": {"predictor": "adaptive", "corrector": "none", "tolerance": 1e-3},
    "PC": {"predictor": "reverse_diffusion", "corrector": "langevin", "grid": "uniform", "num_steps": 250},
}
WITH_LIKELIHOOD = "fast"  # the likelihood is the same for all, and measured beside this one
PROCESSES = {"vp": "VP", "subvp": "sub-VP", "ve": "VE"}
SHARES = ("precision", "recall")
COST = ("num_evals", "sampling_seconds")
COLUMNS = (
    *("process", "sampler", "NLL, bits/dim", "Fréchet distance", "without its bias", *SHARES),
    *("evaluations", "seconds"),
)


def configuration(run: Path, sampler: str, samples: int, examples: int) -> Settings:
    """The configuration of a run, changed to draw with a sampler and to be measured as all runs are."""
    config = from_file(run / "config.json")
    config.sampling.update(SAMPLERS[sampler])
    config.sampling.batch_size = min(samples, 250)
    config.likelihood.update(num_steps=48, num_examples=examples)
    config.evaluation.update(
        num_samples=samples, likelihood=sampler == WITH_LIKELIHOOD, metrics=("frechet", "precision_recall")
    )
    return Settings.of(config)


def measured(run: Path, sampler: str, options: argparse.Namespace) -> dict[str, Any]:
    """The entry of the newest checkpoint of a run in the evaluation with a sampler."""
    config = configuration(run, sampler, options.samples, options.examples)
    place = options.out / f"{config.sde.name}-{config.seed}-{sampler}"
    check_writable(place)
    borrowed, own = place / "checkpoints", (run / "checkpoints").resolve()
    if borrowed.is_symlink() and borrowed.resolve() != own:
        raise UserError(f"{place} has measured {borrowed.resolve().parent}, not {run}; give another --out.")
    if not borrowed.is_symlink():
        borrowed.symlink_to(own)
    (place / "config.json").write_bytes((run / "config.json").read_bytes())
    if not (options.out / "statistics.npz").is_file():
        MODES["stats"](config, options.out, options.command)
    config = config.with_("evaluation", reference=str(options.out / "statistics.npz"))
    logging.info("%s, %s.", run, sampler)
    MODES["eval"](config, place, options.command)
    jax.clear_caches()
    found = json.loads((place / "evaluation.json").read_text())["checkpoints"][-1]
    return {"process": config.sde.name, "sampler": sampler, **found}


def rows(entries: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of the table: every process with every sampler."""
    lines = []
    for process, title in PROCESSES.items():
        own = [entry for entry in entries if entry["process"] == process]
        bits = [
            (entry["bits_per_dim"], entry["bits_per_dim_std_error"])
            for entry in own
            if entry["sampler"] == WITH_LIKELIHOOD
        ]
        for sampler in reversed(SAMPLERS):
            seeds = [entry for entry in own if entry["sampler"] == sampler]
            if seeds:
                cost = [f"{np.mean([entry[name] for entry in seeds]):.0f}" for name in COST]
                cells = [title, sampler, _value(bits, 3), *_distance(seeds), *cost]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def _distance(seeds: Sequence[dict[str, Any]]) -> list[str]:
    found = [entry["metrics"] for entry in seeds]
    frechet = [metrics["frechet"] for metrics in found]
    low, high = np.mean([distance["interval"] for distance in frechet], axis=0)
    corrected, error = mean_and_std_error(np.array([distance["details"]["corrected"] for distance in frechet]))
    shares = ([(metrics[name]["value"], metrics[name]["std_error"]) for metrics in found] for name in SHARES)
    return [
        _value([(distance["value"], distance["std_error"]) for distance in frechet], 2),
        f"{corrected:.1f} ({low:.1f} to {high:.1f}){_of_seeds(error, 1)}",
        *(_value(share, 2) for share in shares),
    ]


def _value(seeds: Sequence[tuple[float, float]], digits: int) -> str:
    """A mean over seeds, with the standard error that every one has and that over them."""
    values, errors = np.array(seeds).T
    mean, error = mean_and_std_error(values)
    return f"{mean:.{digits}f} ± {np.mean(errors):.{digits}f}{_of_seeds(error, digits)}"


def _of_seeds(error: float, digits: int) -> str:
    return "" if np.isnan(error) else f" ± {error:.{digits}f}"


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags.

    Raises:
        UserError: For a directory that is no run, and two runs of one process and seed.
    """
    parser = argparse.ArgumentParser(description="Trained runs drawn from in three ways, in one table.")
    parser.add_argument("runs", type=Path, nargs="+", help="working directories of trained runs")
    parser.add_argument("--out", type=Path, default=Path("runs/samplers"), help="where measurements and table go")
    parser.add_argument("--samples", type=int, default=1000, help="to draw from every run with every sampler")
    parser.add_argument("--examples", type=int, default=0, help="first test images for the likelihood; 0 for all")
    options = parser.parse_args(arguments)
    known: dict[tuple[str, int], Path] = {}
    for run in options.runs:
        config = from_file(run / "config.json")
        first = known.setdefault((config.sde.name, config.seed), run)
        if first != run:
            raise UserError(f"{first} and {run} have the same process and seed; expected one run of each.")
    options.command = shlex.join(["python", "experiments/metrics/samplers.py", *arguments])
    return options


def main(arguments: list[str]) -> None:
    """Measure what is not measured yet and write the table."""
    options = parse(arguments)
    entries = [measured(run, sampler, options) for sampler in SAMPLERS for run in options.runs]
    head = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    how = machine(options.command)
    foot = f"`{how['command']}`, {how['date']}. ± standard error of images or samples, ± that over seeds."
    text = "\n".join([*head, *rows(entries), "", foot]) + "\n"
    atomic_write_text(options.out / "table.md", text)
    print(text)


if __name__ == "__main__":
    sys.exit(run_script("samplers", lambda: main(sys.argv[1:])))
