"""Kill every mode many times, at random moments and in three ways, and compare what it leaves with a run left alone.

python experiments/preemption/kills.py --kills=10 [--only=sample,eval] [--processes=2] [--out=DIR]

For each mode and each of SIGKILL, SIGTERM and SIGINT the same command is started and stopped so many times, and then
left to end. Every array, number and line of metrics in its working directory, and every checkpoint that both have, must
equal those of an uninterrupted run; no complete checkpoint may be lost, no file may be left over, and nothing may print
a traceback. With several processes of one run, one of them gets the signal.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from score_sde.checkpointing import Checkpoints
from score_sde.cli import load_config, run_script
from score_sde.modes.workdir import build_experiment

ROOT = Path(__file__).parents[2]
TOY, DIGITS, CLASSES = (
    ROOT / "configs" / "vp" / f"{name}.py" for name in ("toy_mlp", "digits_ddpmpp", "digits_classes")
)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LIMIT = 120.0  # seconds from a signal to the end of a program

_TRAINING = {
    **{"training.num_steps": 600, "training.batch_size": 16, "training.log_every": 20, "training.eval_every": 100},
    **{"training.checkpoint_every": 40, "training.sample_every": 200, "optim.warmup": 10, "optim.ema_rate": 0.9},
}
TINY_DIGITS = _TRAINING | {
    **{"model.features": 8, "model.channel_multipliers": (1,), "model.attention_resolutions": ()},
    **{"dequantizer.name": "flowpp", "dequantizer.filters": 4, "dequantizer.components": 2, "dequantizer.blocks": 1},
    **{"dequantizer.num_flows": 1, "dequantizer.heads": 2, "dequantizer.context_features": 2},
    **{"dequantizer.num_steps": 300, "dequantizer.batch_size": 16, "dequantizer.log_every": 20},
    **{"dequantizer.eval_every": 100, "dequantizer.checkpoint_every": 20, "dequantizer.warmup": 10},
    **{"likelihood.num_steps": 16, "likelihood.batch_size": 20, "likelihood.bound_times": 8},
    **{"likelihood.noise_levels": 4, "likelihood.budget_examples": 16, "sampling.num_samples": 400},
    **{"sampling.batch_size": 20, "sampling.num_steps": 60, "evaluation.num_samples": 400},
    **{"evaluation.checkpoints": "all", "evaluation.likelihood": True, "pareto.num_samples": 60},
    **{"pareto.solvers": ("unipc_2", "heun"), "pareto.grids": ("log_snr", "edm"), "pareto.evals": (5, 8, 12)},
}
TINY_TOY = _TRAINING | {"model.features": 16, "model.num_blocks": 1, "training.num_steps": 2000}

TINY_CLASSES = TINY_DIGITS | {
    **{"classifier.num_steps": 200, "classifier.batch_size": 16, "classifier.widening": 1, "classifier.log_every": 20},
    **{"classifier.checkpoint_every": 20, "likelihood.num_examples": 80, "conditioning.operator": "mask"},
    **{"conditioning.num_images": 40, "sampling.t_min": 1e-3},
}

#: Modes on a trained run of digits, on one with classes, and those that make a run of their own.
TRAINED = ("sample", "likelihood", "eval", "latents", "pareto", "stats", "train_dequantizer", "export", "report")
LABELED = ("train_classifier", "restore", "classify")
FRESH = ("train", "import", "demo")
#: What a mode on a trained run makes there and does not find at its start.
MADE = {"train_dequantizer": ("dequantizer", "dequantizer.json"), "export": ("model.safetensors",)}

_VOLATILE = ("command", "date", "hardware", "seconds", "duration", "path", "checkpoint")


def command_of(mode: str, workdir: Path, published: Path) -> list[str]:
    """The command line of a mode."""
    config, fields = (CLASSES, TINY_CLASSES) if mode in LABELED else (DIGITS, TINY_DIGITS)
    if mode in ("train", "demo"):
        config, fields = TOY, TINY_TOY
    if mode == "demo":
        fields = fields | {"training.num_steps": 200, "likelihood.num_examples": 400, "likelihood.batch_size": 50}
    command = [sys.executable, "-m", "score_sde", f"--workdir={workdir}", f"--mode={mode}"]
    if mode != "report":
        command += [f"--config={config}"]
        command += [f"--config.{name}={value}" for name, value in fields.items()]
    return [*command, f"--checkpoint={published}"] if mode == "import" else command


def start(command: list[str], log: Path, count: int) -> list[subprocess.Popen[bytes]]:
    """The processes of one run; their output goes to a file."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        join = [f"--coordinator=127.0.0.1:{server.getsockname()[1]}", f"--num_processes={count}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with open(log, "ab") as file:
        return [
            subprocess.Popen(
                [*command, *([*join, f"--process_id={number}"] if count > 1 else [])],
                cwd=ROOT,
                stdout=file,
                stderr=file,
                env=environment,
            )
            for number in range(count)
        ]


def codes_of(processes: list[subprocess.Popen[bytes]], seconds: float) -> list[int | None]:
    """Exit codes; a process that does not end in time is killed, and has none."""
    deadline, codes = time.monotonic() + seconds, []
    for process in processes:
        try:
            codes.append(process.wait(max(deadline - time.monotonic(), 0.1)))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            codes.append(None)
    return codes


def finish(command: list[str], log: Path, count: int) -> float:
    """Run a command to its end; the seconds that it took."""
    began = time.monotonic()
    codes = codes_of(start(command, log, count), 1800.0)
    assert codes == [0] * count, f"{' '.join(command)} ended with {codes}:\n{log.read_text()[-3000:]}"
    return time.monotonic() - began


def steps_of(workdir: Path) -> set[int]:
    """Steps with a complete checkpoint."""
    return {int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()}


def bits(workdir: Path, step: int, flags: list[str], config: Path) -> dict[str, bytes]:
    """Every array of a checkpoint as bytes, under its path."""
    state = build_experiment(load_config(config, flags)).abstract_state()
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(workdir / "checkpoints" / str(step), Path(directory, "checkpoints", str(step)))
        restored = Checkpoints(Path(directory)).restore_newest(state)
    assert restored is not None
    return {
        jax.tree_util.keystr(path): np.asarray(
            jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        ).tobytes()
        for path, leaf in jax.tree.leaves_with_path(restored.state)
    }


def without_times(value: Any) -> Any:
    """A result without what differs from one run to the next: dates, durations, commands."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not k.endswith(_VOLATILE)}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def content(workdir: Path, command: list[str]) -> dict[str, Any]:
    """The contents of a directory: a digest of every file whose bytes mean something, the name of every other."""
    found: dict[str, Any] = {}
    for path in sorted(workdir.rglob("*")):
        name = path.relative_to(workdir).as_posix()
        if path.is_dir() or "checkpoints/" in name:
            continue
        if "tensorboard/" in name or path.name.endswith(".lock"):
            continue
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                found[name] = {key: hashlib.sha256(arrays[key].tobytes()).hexdigest() for key in sorted(arrays)}
        elif path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text()))
        elif path.suffix in (".jsonl", ".safetensors"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:  # a picture or a page: made of the numbers above, with dates
            found[name] = "there"
    if steps := sorted(steps_of(workdir)):
        flags = [flag for flag in command if flag.startswith("--config.")]
        configs = [Path(flag.removeprefix("--config=")) for flag in command if flag.startswith("--config=")]
        found |= {f"checkpoints/{step}": bits(workdir, step, flags, *configs) for step in steps if configs}
    return found


class Trial(NamedTuple):
    """One command, to be killed in all ways."""

    command: list[str]
    work: Path
    log: Path
    prepare: Callable[[], None]  # brings the working directory back to the start
    processes: int
    kills: int
    rng: random.Random

    def torment(self, number: signal.Signals, seconds: float) -> Counter[str]:
        """Start the command and stop it, so many times; how it ended. One that had ended begins from the start."""
        told: Counter[str] = Counter()
        while told["signals"] < self.kills and told["ended before the signal"] <= 5 * self.kills:
            before, processes = steps_of(self.work), start(self.command, self.log, self.processes)
            time.sleep(self.rng.uniform(0.0, 0.95 * seconds))
            if all(process.poll() is not None for process in processes):
                told["ended before the signal"] += 1
                self.prepare()
                continue
            self.rng.choice(processes).send_signal(number)
            sent, codes = time.monotonic(), codes_of(processes, LIMIT)
            told["signals"] += 1
            told[f"exit {', '.join(map(str, codes))}"] += 1
            told["did not end in time"] += None in codes
            told["more than 10 s from the signal to the end"] += time.monotonic() - sent > 10.0
            # A kill may cost the checkpoint that was being written, never one that was complete.
            told["complete checkpoints lost"] += len(before) > 0 and max(before) > max(steps_of(self.work), default=0)
        return told

    def wrong(self, mode: str) -> list[str]:
        """The ways of killing the command that changed what it leaves."""
        self.prepare()
        seconds = finish(self.command, self.log, self.processes)
        self.prepare()
        seconds = min(seconds, finish(self.command, self.log, self.processes))  # with compiled programs at hand
        whole, found = content(self.work, self.command), []
        for number in SIGNALS:
            self.prepare()
            told = self.torment(number, seconds)
            finish(self.command, self.log, self.processes)
            left = content(self.work, self.command)
            # A stop saves at a step of its own, so only checkpoints of both runs are compared.
            alone = {name for name in left.keys() ^ whole.keys() if name.startswith("checkpoints/")}
            compared = sorted({*left, *whole} - alone)
            changed = [name for name in compared if left.get(name) != whole.get(name)]
            tracebacks = self.log.read_text(errors="replace").count("Traceback (most recent call last)")
            self.log.rename(self.log.with_name(f"log.{number.name}"))
            end = f"tracebacks {tracebacks}, differs in {changed or 'nothing'}"
            print(f"{mode:<18} {number.name:<8} {dict(told)} {end}", flush=True)
            slow = told["did not end in time"] and self.processes == 1
            if changed or tracebacks or slow or told["complete checkpoints lost"] or told["signals"] < self.kills:
                found.append(f"{mode} {number.name}")
        return found


def trial(mode: str, base: Path, published: Path, out: Path, options: argparse.Namespace) -> list[str]:
    """Kill one mode in all ways; what was wrong."""
    place = out / mode
    work = place / "work"  # one place for all, so that commands and records are alike
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)

    def prepare() -> None:
        shutil.rmtree(work, ignore_errors=True)
        if mode not in FRESH:
            shutil.copytree(base, work, ignore=shutil.ignore_patterns(*MADE.get(mode, ())))

    command, rng = command_of(mode, work, published), random.Random(options.seed)
    return Trial(command, work, place / "log", prepare, options.processes, options.kills, rng).wrong(mode)


def make_run(place: Path, fields_of: str, modes: tuple[str, ...]) -> None:
    """A trained run with the fields of a mode, by several modes in turn, unless it is there."""
    done = place.with_name(f"{place.name}.done")
    if done.exists():
        return
    shutil.rmtree(place, ignore_errors=True)
    command = command_of(fields_of, place, place)
    for mode in modes:
        own = [part if not part.startswith("--mode=") else f"--mode={mode}" for part in command]
        finish(own, place.with_name(f"{place.name}.log"), 1)
    done.touch()


def main() -> None:
    """Kill all modes and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--only", default=",".join((*FRESH, *TRAINED, *LABELED)))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has background jobs ignore it, children too
    modes = options.only.split(",")
    out.mkdir(parents=True, exist_ok=True)
    base, labeled = out / "base", out / "labeled"
    if not {*modes} <= {"train", "demo", *LABELED}:
        make_run(base, "train_dequantizer", ("train", "train_dequantizer", "export"))
    if {*modes} & {*LABELED}:
        make_run(labeled, "classify", ("train",))
    wrong = [
        each
        for mode in modes
        for each in trial(mode, labeled if mode in LABELED else base, base / "model.safetensors", out, options)
    ]
    if wrong:
        sys.exit(f"Not what an uninterrupted run gives: {', '.join(wrong)}.")
    print("Every mode ends in what an uninterrupted run gives.")


if __name__ == "__main__":
    sys.exit(run_script("kills", main))
