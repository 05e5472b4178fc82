"""The loss of digits from 5 to 9, trained from the weights of digits from 0 to 4 and from scratch, step by step.

    python experiments/fine_tuning/run.py --out=runs/fine_tuning --seeds=3
    python experiments/fine_tuning/run.py --out=runs/fine_tuning --picture=docs/images/fine_tuning.png

Every run is one of the command line's own, ``--config.training.init_from=RUN`` is all in which a fine-tuning differs,
and a finished run is not trained again. ``curves.json`` and ``table.md`` are in the directory at the end.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from score_sde.cli import main as command_line
from score_sde.cli import run_script
from score_sde.startup import prepare_process

if __name__ == "__main__":
    prepare_process()  # before JAX is loaded

import numpy as np

from score_sde.data import load_source
from score_sde.data.base import labels_of
from score_sde.errors import UserError
from score_sde.files import atomic_path, atomic_savez, atomic_write_json, atomic_write_text

CONFIG = Path(__file__).parents[2] / "configs" / "vp" / "digits_ddpmpp.py"
EVERY = 25  # steps between two evaluations
#: The learning rate is the same for all, without a decay that would depend on the number of steps.
FIELDS = (
    *("optim.lr=1e-3", "optim.warmup=50", "optim.schedule=constant", "training.sample_every=0"),
    *(f"training.log_every={EVERY}", f"training.eval_every={EVERY}", "training.checkpoint_every=100"),
)
STARTS = {"from scratch": None, "from digits 0 to 4": "source", "from all digits": "digits-vp"}
COLORS = ("#4a5568", "#2b6cb0", "#dd6b20")


def write_data(out: Path) -> None:
    """The digits below 5 and the others, each with the test split of its own."""
    for name, wanted in (("low", np.arange(5)), ("high", np.arange(5, 10))):
        arrays = {"num_levels": np.asarray(17)}
        for split in ("train", "test"):
            source = load_source("digits", split)
            rows = np.flatnonzero(np.isin(labels_of(source, np.arange(len(source))), wanted))
            arrays[split] = source.gather(rows)
        atomic_savez(out / f"{name}.npz", **arrays)


def train(workdir: Path, data: Path, steps: int, seed: int, *fields: str) -> list[tuple[int, float]]:
    """The steps and the held-out losses of a run, which is trained unless it is there."""
    own = (f"data.name=npz:{data.resolve()}", f"seed={seed}", f"training.num_steps={steps}", *FIELDS, *fields)
    flags = [f"--config={CONFIG}", f"--workdir={workdir}", "--mode=train", *(f"--config.{field}" for field in own)]
    if code := command_line(flags):
        raise UserError(f"The training in {workdir} ended with {code}.")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["eval_loss"]) for line in lines if "eval_loss" in line]


def needed(curve: Sequence[tuple[int, float]], loss: float) -> int | None:
    """The first evaluated step at which a loss is reached."""
    return next((step for step, value in curve if value <= loss), None)


def table(curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]]) -> str:
    """A row for each start: the last loss, and the steps to the last loss from scratch, seed by seed."""
    goals = [curve[-1][1] for curve in curves["from scratch"]]
    lines = ["| start | loss after the last step | steps to the last loss from scratch |", "|---|---|---|"]
    for name, own in curves.items():
        last = np.array([curve[-1][1] for curve in own])
        error = last.std(ddof=1) / np.sqrt(len(last)) if len(last) > 1 else np.nan
        steps = [needed(curve, goal) for curve, goal in zip(own, goals, strict=True)]
        lines.append(f"| {name} | {last.mean():.4f} ± {error:.4f} | {', '.join(map(str, steps))} |")
    return "\n".join(lines) + "\n"


def picture(curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]], path: Path) -> None:
    """The curves of all seeds, and their means."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.2))
    axes = figure.subplots()
    for (name, own), color in zip(curves.items(), COLORS, strict=True):
        steps = [step for step, _ in own[0]]
        losses = np.array([[loss for _, loss in curve] for curve in own])
        axes.plot(steps, losses.T, color=color, alpha=0.35, linewidth=0.8)
        axes.plot(steps, losses.mean(axis=0), color=color, linewidth=1.8, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("training steps", fontsize=9)
    axes.set_ylabel("held-out loss of digits 5 to 9", fontsize=9)
    axes.tick_params(labelsize=8, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=140, bbox_inches="tight", pad_inches=0.06, facecolor="white")


def main(arguments: list[str]) -> None:
    """Train the source and all runs, and write the table."""
    parser = argparse.ArgumentParser(description="Fine-tuning against training from scratch.")
    parser.add_argument("--out", type=Path, default=Path("runs/fine_tuning"), help="where runs and table go")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 on")
    parser.add_argument("--steps", type=int, default=300, help="training steps of each run")
    parser.add_argument("--source-steps", type=int, default=800, help="training steps of the source")
    parser.add_argument("--picture", type=Path, help="where the picture goes")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    write_data(options.out)
    source = options.out / "source"
    train(source, options.out / "low.npz", options.source_steps, 0)
    curves = {}
    for name, start in STARTS.items():
        where = {None: "", "source": source}.get(start, start)
        fields = (f"training.init_from={where}",) if where else ()
        curves[name] = [
            train(options.out / f"{start or 'scratch'}-{seed}", options.out / "high.npz", options.steps, seed, *fields)
            for seed in range(options.seeds)
        ]
    atomic_write_json(options.out / "curves.json", curves)
    atomic_write_text(options.out / "table.md", table(curves))
    if options.picture is not None:
        picture(curves, options.picture)
    print(table(curves))


if __name__ == "__main__":
    sys.exit(run_script("fine_tuning", lambda: main(sys.argv[1:])))
