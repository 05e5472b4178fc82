"""Kill a training run many times, at random moments and in two ways, and compare what it becomes with one left alone.

python experiments/preemption/kills.py --kills=100 [--processes=2] [--out=DIR]

Half of the signals are SIGKILL and half SIGTERM, each to one process of the run. Every start resumes. At the end the
state, the metrics file and every checkpoint that both runs have must be the same bytes.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np

from score_sde.checkpointing import Checkpoints
from score_sde.cli import load_config
from score_sde.modes.workdir import build_experiment

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "vp" / "toy_mlp.py"
PER_KILL = 110  # steps, about as many as a start gets to do


def overrides(kills: int) -> list[str]:
    """A run that is long enough to be killed so often, and saves so often that saves are hit."""
    fields = {
        "model.features": 16,
        "model.num_blocks": 1,
        "training.num_steps": PER_KILL * kills,
        "training.batch_size": 8,
        "training.log_every": 10,
        "training.eval_every": 2000,
        "training.checkpoint_every": 50,
        "likelihood.batch_size": 10_000,
    }
    return [f"--config.{name}={value}" for name, value in fields.items()]


def start(workdir: Path, count: int, flags: list[str]) -> list[subprocess.Popen[bytes]]:
    """The processes of one run; what they say goes to a file beside its directory."""
    command = [sys.executable, "-m", "score_sde", f"--config={CONFIG}", f"--workdir={workdir}", "--mode=train", *flags]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"--coordinator=127.0.0.1:{server.getsockname()[1]}"
    with open(workdir.with_suffix(".log"), "ab") as log:
        return [
            subprocess.Popen(
                [*command, *([address, f"--num_processes={count}", f"--process_id={n}"] if count > 1 else [])],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env=os.environ | {"JAX_PLATFORMS": "cpu"},
            )
            for n in range(count)
        ]


def steps_of(workdir: Path) -> set[int]:
    """Steps with a complete checkpoint."""
    return {int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()}


def ended(processes: list[subprocess.Popen[bytes]], seconds: float) -> list[int]:
    """Exit codes; what does not end is killed."""
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return [int(process.returncode) for process in processes]


def bits(workdir: Path, step: int, flags: list[str], config: Path = CONFIG) -> dict[str, bytes]:
    """Every array of a checkpoint as bytes, under its path."""
    state = build_experiment(load_config(config, flags)).abstract_state()
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(workdir / "checkpoints" / str(step), Path(directory, "checkpoints", str(step)))
        restored = Checkpoints(Path(directory)).restore_newest(state)
    assert restored is not None
    leaves = jax.tree.leaves_with_path(restored.state)
    return {
        jax.tree_util.keystr(path): np.asarray(
            jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        ).tobytes()
        for path, leaf in leaves
    }


def torment(workdir: Path, kills: int, count: int, flags: list[str], rng: random.Random) -> Counter[str]:
    """Start the run and stop it, so many times; what happened."""
    told: Counter[str] = Counter()
    graces: list[float] = []
    for number in range(kills):
        before, number_of = steps_of(workdir), signal.SIGTERM if number % 2 else signal.SIGKILL
        processes, began = start(workdir, count, flags), time.monotonic()
        # A third is stopped while it starts; the others once they have saved something, which is when saves are hit.
        patience = 60.0 if number % 3 else rng.uniform(0.0, 8.0)
        while steps_of(workdir) <= before and time.monotonic() - began < patience:
            if all(process.poll() is not None for process in processes):
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.6))
        rng.choice(processes).send_signal(number_of)
        sent = time.monotonic()
        codes = ended(processes, 120.0)
        if number_of == signal.SIGTERM and set(codes) == {0}:
            graces.append(time.monotonic() - sent)
        saving = any("tmp" in path.name for path in (workdir / "checkpoints").glob("*"))
        told[signal.Signals(number_of).name] += 1
        told["in the middle of a save"] += saving
        told["before anything new was saved"] += steps_of(workdir) <= before
        told["SIGTERM with exit code 0"] += number_of == signal.SIGTERM and set(codes) == {0}
        # Three newest stay; a kill may cost the one that was being written, never one that was complete.
        lost = {step for step in before if step > max(steps_of(workdir), default=0)}
        told["complete checkpoints lost"] += len(lost)
        print(
            f"{number + 1}/{kills}: {told['SIGKILL']} SIGKILL, newest {max(steps_of(workdir), default=0)}", flush=True
        )
    if graces:
        print(f"seconds from SIGTERM to the end: {statistics.median(graces):.1f}, at most {max(graces):.1f}")
    return told


def main() -> None:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    flags, killed, whole = overrides(options.kills), out / "killed", out / "whole"
    told = torment(killed, options.kills, options.processes, flags, random.Random(options.seed))
    for workdir in (killed, whole):
        codes = ended(start(workdir, options.processes, flags), 3600.0)
        assert codes == [0] * options.processes, workdir.with_suffix(".log").read_text()[-2000:]
    common = sorted(steps_of(killed) & steps_of(whole))
    same = [bits(killed, step, flags) == bits(whole, step, flags) for step in common]
    metrics = (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    for name, number in told.items():
        print(f"{name}: {number}")
    print(f"checkpoints {common} equal: {same}; metrics.jsonl equal: {metrics}")
    if not (common and all(same) and metrics and not told["complete checkpoints lost"]):
        sys.exit("The run that was killed is not the run that was left alone.")


if __name__ == "__main__":
    main()
