"""Models of few steps beside their teachers: samples with 1, 2 and 4 evaluations, and the cost of training.

    python experiments/few_steps/run.py --out=runs/few_steps --seeds=3
    python experiments/few_steps/run.py --models=teacher,ect --steps=1000
    python experiments/few_steps/run.py --data=mnist --data_dir=D --out=runs/few_steps_mnist

Every model is trained by the command line's own modes: EDM, the teacher; from its parameters the end of the flow (ECT)
and students of 8, 4, 2 and 1 steps, one from another; flow matching, and average velocities (MeanFlow) from scratch.
Measured is the Fréchet distance of samples to the training images. What is there already is not trained or measured
again. ``table.md`` and ``table.json`` are in the directory at the end, and samples in those of the models. With
``--costs`` the training steps are measured instead, in units of a step of denoising with the same batch, all in turn.
"""

import argparse
import json
import logging
import statistics
import sys
import time
from collections.abc import Sequence
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
from score_sde.data import load_source
from score_sde.distributed import jit
from score_sde.errors import UserError, unknown
from score_sde.files import atomic_write_json, atomic_write_text
from score_sde.modes.workdir import build_experiment, trained_state
from score_sde.plan.program import flops_of
from score_sde.report.plots import image_grid

CONFIGS = Path(__file__).parents[2] / "configs"
_UNIPC = {"predictor": "unipc_2", "grid": "log_snr", "denoising": "tweedie"}


class Model(NamedTuple):
    """A model: its configuration, the one that it starts from, and how it is sampled."""

    config: str  # with a place for the name of the data
    start: str = ""
    fields: tuple[str, ...] = ()
    sampling: dict[str, Any] = {}  # noqa: RUF012 -- nothing changes it
    evaluations: tuple[int, ...] = (1, 2, 4)
    tail: int = 0  # evaluations after the last step


def _student(steps: int, start: str) -> Model:
    fields = (f"objective.student_steps={steps}", f"sampling.num_steps={steps}")
    return Model("few_steps/distill_{}", start, fields, {"predictor": "ddim"}, (steps,))


MODELS: dict[str, Model] = {
    "teacher": Model("edm/{}", sampling=_UNIPC, evaluations=(2, 4, 8, 17), tail=1),
    "ect": Model("few_steps/ect_{}", "teacher", sampling={"predictor": "consistency"}),
    "consistency": Model("few_steps/ect_{}", sampling={"predictor": "consistency"}),
    "student_8": _student(8, "teacher"),
    "student_4": _student(4, "student_8"),
    "student_2": _student(2, "student_4"),
    "student_1": _student(1, "student_2"),
    "flow": Model("flow/{}", sampling=_UNIPC, evaluations=(2, 4, 8, 17), tail=1),
    "mean_flow": Model("few_steps/mean_flow_{}", sampling={"predictor": "mean_flow"}),
}


def train(name: str, seed: int, options: argparse.Namespace) -> tuple[Path, list[str]]:
    """Train a model, and before it the one that it starts from; its directory and its flags."""
    model, workdir = MODELS[name], options.out / f"{name}-{seed}"
    fields = [f"seed={seed}", "training.sample_every=0", f"data.data_dir={options.data_dir}", *model.fields]
    if options.steps:
        fields.append(f"training.num_steps={options.steps}")
        if "ect" in model.config:
            fields.append(f"objective.gap_every={max(options.steps // 6, 1)}")
    if model.start:
        fields.append(f"training.init_from={train(model.start, seed, options)[0]}")
    flags = [f"--config={_config(name, options)}", *(f"--config.{field}" for field in fields)]
    if not (workdir / "loss.png").is_file():
        logging.info("%s.", workdir.name)
        if code := command_line([*flags, f"--workdir={workdir}", "--mode=train"]):
            raise UserError(f"Training of {workdir.name} ended with {code}.")
        jax.clear_caches()
    return workdir, flags


def measure(name: str, seed: int, options: argparse.Namespace, distance: Distance) -> dict[str, Any]:
    """Train and measure one model with one seed; read what is there."""
    workdir, flags = train(name, seed, options)
    model, found = MODELS[name], workdir / "few_steps.json"
    if not found.is_file():
        experiment = build_experiment(settings_of(flags), "sample")
        params = trained_state(experiment, workdir).ema_params
        distances = {}
        for count in model.evaluations:
            images = samples(experiment, params, **model.sampling, num_steps=count - model.tail)
            distances[str(count)] = distance.of(images)
            image_grid(images[:40], workdir / f"{count}.png", num_grey_levels=distance.num_levels, columns=20)
        atomic_write_json(found, {"model": name, "seed": seed, "frechet": distances})
        jax.clear_caches()
    return json.loads(found.read_text())


def _config(name: str, options: argparse.Namespace) -> Path:
    return CONFIGS / f"{MODELS[name].config.format(options.data)}.py"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each model: means over seeds, with their standard errors."""
    counts = sorted({int(count) for row in rows for count in row["frechet"]})
    lines = ["| model | seeds | " + " | ".join(f"at {n}" for n in counts) + " |", "|---|---|" + "---|" * len(counts)]
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row["frechet"] for row in rows if row["model"] == name]
        cells = [mean_cell([row[str(n)] for row in own], 1) if str(n) in own[0] else "" for n in counts]
        lines.append(f"| {' | '.join((name, str(len(own)), *cells))} |")
    return "\n".join(lines) + "\n"


def costs(options: argparse.Namespace, steps: int = 5) -> str:
    """A training step of each kind in units of one of denoising: floating-point operations, and medians of times.

    Operations are counted in the program as written. Times are of ``--costs`` rounds in turn; with 0 there are none.
    """
    rounds: int = options.costs
    programs: dict[str, tuple[Any, Any, Any]] = {}
    for name in ("teacher", "ect", "student_8", "flow", "mean_flow"):
        flags = [f"--config={_config(name, options)}", "--config.training.batch_size=64"]
        experiment = build_experiment(settings_of(flags), "sample")
        batch = load_source(options.data, "train", data_dir=options.data_dir).gather(np.arange(64))
        programs[name] = jit(experiment.train_step), jit(experiment.init_state), batch
    flops = {name: flops_of(step, jax.eval_shape(init), batch) for name, (step, init, batch) in programs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    states = {name: init() for name, (_, init, _) in programs.items() if rounds}
    for turn in range(rounds + 1 if rounds else 0):
        for name, (step, _, batch) in programs.items():
            began = time.perf_counter()
            for _ in range(steps):
                states[name], _ = step(states[name], batch)
            jax.block_until_ready(states[name].params)
            if turn:  # the first turn compiles
                seconds[name].append((time.perf_counter() - began) / steps)
    unit = {"ect": "teacher", "student_8": "teacher", "mean_flow": "flow"}
    lines = ["| step of | operations | ms | time |", "|---|---|---|---|"]
    for name, values in seconds.items():
        plain = unit.get(name, name)
        ratios = [a / b for a, b in zip(values, seconds[plain], strict=True)]
        timed = (f"{1e3 * statistics.median(values):.1f}", f"{statistics.median(ratios):.2f}") if values else ("", "")
        lines.append(f"| {name} | {flops[name] / flops[plain]:.2f} | {timed[0]} | {timed[1]} |")
    return "\n".join(lines) + "\n"


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags.

    Raises:
        UserError: For unknown names.
    """
    parser = argparse.ArgumentParser(description="Models of few steps beside their teachers.")
    parser.add_argument("--out", type=Path, default=Path("runs/few_steps"), help="where runs and table go")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from 0 on")
    parser.add_argument("--steps", type=int, default=0, help="training steps of every model; 0 for the configuration's")
    parser.add_argument("--models", default=",".join(MODELS), help="names, with commas")
    parser.add_argument("--costs", type=int, help="measure training steps instead, over so many rounds; 0: count them")
    add_data_flags(parser)
    options = parser.parse_args(arguments)
    options.models = options.models.split(",")
    for name in options.models:
        if name not in MODELS:
            raise unknown("model", name, MODELS)
    return options


def main(arguments: list[str]) -> None:
    """Train and measure all models, and write the table anew after each."""
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.costs is not None:
        found = costs(options)
        atomic_write_text(options.out / "costs.md", found)
        print(found)
        return
    rows, distance = [], Distance(options)
    for seed in range(options.seeds):
        for name in options.models:
            rows.append(measure(name, seed, options, distance))
            atomic_write_json(options.out / "table.json", rows)
            atomic_write_text(options.out / "table.md", table(rows))
    print(table(rows))


if __name__ == "__main__":
    sys.exit(run_script("few_steps", lambda: main(sys.argv[1:])))
