"""Kill every mode many times, at random moments and in three ways, and compare what it leaves with a run left alone.

python experiments/preemption/modes.py --kills=10 [--only=sample,eval] [--out=DIR]

For each mode and each of SIGKILL, SIGTERM and SIGINT the same command is started and stopped so many times, and then
left to end. Every array, number and line of metrics in its working directory must be that of an uninterrupted run, no
file may be left over, and nothing may print a traceback.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from kills import CONFIG as TOY
from kills import ROOT, bits, steps_of

DIGITS = ROOT / "configs" / "vp" / "digits_ddpmpp.py"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

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

#: Modes on a trained run of digits, and those that make a run of their own.
TRAINED = ("sample", "likelihood", "eval", "latents", "pareto", "stats", "train_dequantizer", "export", "report")
FRESH = ("train", "import", "demo")

_VOLATILE = ("command", "date", "hardware", "seconds", "duration", "path", "checkpoint")


def command_of(mode: str, workdir: Path, published: Path) -> list[str]:
    """The command line of a mode."""
    fields = TINY_TOY if mode in ("train", "demo") else TINY_DIGITS
    if mode == "demo":
        fields = fields | {"training.num_steps": 200, "likelihood.num_examples": 400, "likelihood.batch_size": 50}
    command = [sys.executable, "-m", "score_sde", f"--workdir={workdir}", f"--mode={mode}"]
    if mode != "report":
        command += [f"--config={TOY if mode in ('train', 'demo') else DIGITS}"]
        command += [f"--config.{name}={value}" for name, value in fields.items()]
    return [*command, f"--checkpoint={published}"] if mode == "import" else command


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """The process; what it says goes to a file."""
    with open(log, "ab") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, env=os.environ | {"JAX_PLATFORMS": "cpu"})


def finish(command: list[str], log: Path) -> float:
    """Run a command to its end; the seconds that it took."""
    began = time.monotonic()
    code = start(command, log).wait(1800)
    assert code == 0, f"{' '.join(command)} ended with {code}:\n{log.read_text()[-3000:]}"
    return time.monotonic() - began


def without_times(value: Any) -> Any:
    """A result without what differs from one run to the next: dates, durations, commands."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not k.endswith(_VOLATILE)}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def content(workdir: Path, command: list[str]) -> dict[str, Any]:
    """What a working directory holds: a digest of every file whose bytes mean something, the name of every other."""
    found: dict[str, Any] = {}
    for path in sorted(workdir.rglob("*")):
        name = path.relative_to(workdir).as_posix()
        if path.is_dir() or name.startswith(("checkpoints/", "dequantizer/checkpoints/", "damaged_checkpoints/")):
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


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names under which two directories differ."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def torment(
    command: list[str],
    log: Path,
    number: signal.Signals,
    kills: int,
    seconds: float,
    rng: random.Random,
    prepare: Callable[[], None],
) -> Counter[str]:
    """Start a command and stop it, so many times; how it ended. One that had ended by itself begins from the start."""
    told: Counter[str] = Counter()
    stopped = 0
    while stopped < kills:
        process = start(command, log)
        time.sleep(rng.uniform(0.0, 0.95 * seconds))
        if process.poll() is not None:
            told["ended before the signal"] += 1
            if told["ended before the signal"] > 5 * kills:
                break
            prepare()
            continue
        process.send_signal(number)
        stopped, sent = stopped + 1, time.monotonic()
        try:
            code = process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            told["did not end within 120 s"] += 1
            continue
        told[f"exit {code}"] += 1
        told["more than 10 s from the signal to the end"] += time.monotonic() - sent > 10.0
    told["signals"] = stopped
    return told


def trial(mode: str, base: Path, published: Path, out: Path, kills: int, rng: random.Random) -> list[str]:
    """Kill one mode in all ways; what was wrong."""
    place, wrong = out / mode, []
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    log, work = place / "log", place / "work"  # one place for all, so that commands and records are alike
    command = command_of(mode, work, published)

    def prepare() -> None:
        shutil.rmtree(work, ignore_errors=True)
        if mode in TRAINED:
            shutil.copytree(base, work)

    prepare()
    seconds = finish(command, log)
    prepare()
    seconds = min(seconds, finish(command, log))  # with compiled programs at hand
    whole = content(work, command)
    for number in SIGNALS:
        prepare()
        told = torment(command, log, number, kills, seconds, rng, prepare)
        finish(command, log)
        changed = differences(content(work, command), whole)
        text = log.read_text(errors="replace")
        tracebacks = text.count("Traceback (most recent call last)")
        log.rename(log.with_name(f"log.{number.name}"))
        print(f"{mode:<18} {number.name:<8} {dict(told)} tracebacks {tracebacks}, differs in {changed or 'nothing'}")
        sys.stdout.flush()
        if changed or tracebacks or told["did not end within 120 s"] or told["signals"] < kills:
            wrong.append(f"{mode} {number.name}")
    return wrong


def main() -> None:
    """Kill all modes and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--only", default=",".join((*FRESH, *TRAINED)))
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has background jobs ignore it, children too
    base, rng, wrong = out / "base", random.Random(options.seed), []
    out.mkdir(parents=True, exist_ok=True)
    if not (base / "model.safetensors").exists():
        shutil.rmtree(base, ignore_errors=True)
        command = command_of("train_dequantizer", base, base)
        for mode in ("train", "train_dequantizer", "export"):
            finish([part if not part.startswith("--mode=") else f"--mode={mode}" for part in command], out / "base.log")
    for mode in options.only.split(","):
        bare = out / "bare"
        shutil.rmtree(bare, ignore_errors=True)
        shutil.copytree(base, bare)
        if mode == "train_dequantizer":
            shutil.rmtree(bare / "dequantizer")
            (bare / "dequantizer.json").unlink()
        if mode == "export":
            (bare / "model.safetensors").unlink()
        wrong += trial(mode, bare, base / "model.safetensors", out, options.kills, rng)
    if wrong:
        sys.exit(f"Not what an uninterrupted run gives: {', '.join(wrong)}.")
    print("Every mode ends in what an uninterrupted run gives.")


if __name__ == "__main__":
    main()
