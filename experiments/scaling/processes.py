"""How much of two processes' work is done when they train one model, against one process on its own.

    python experiments/scaling/processes.py --batch=64 --batch=256 --batch=1024 --rounds=4

All train by the command line and compute with one thread each. In turns, one process trains alone, two train two runs
side by side, and two train one run over the loopback interface, with the same number of examples per process. The rate
of the one run over twice the rate alone, round by round, is the efficiency; the second rate shows what two programs on
one machine cost each other. Compiled programs are kept from round to round.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from score_sde.cli import run_script
from score_sde.training.writers import read_timings

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "vp" / "digits_ddpmpp.py"
COLUMNS = ("examples per process", "alone", "side by side", "together", "efficiency")
LINES = 6  # of the log in a run; the first counts for nothing


def rates(workdirs: Sequence[Path], batch: int, count: int, steps: int, flags: list[str]) -> list[float]:
    """Train a run in each directory, all at once, with ``count`` processes each; the images per second of each."""
    fields = {
        "training.batch_size": batch * count,
        "training.num_steps": steps * LINES,
        "training.log_every": steps,
        "training.eval_every": steps * LINES,
        "training.checkpoint_every": steps * LINES,
        "training.sample_every": 0,
    }
    command = [sys.executable, "-m", "score_sde", f"--config={CONFIG}", "--mode=train", *flags]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "NPROC": "1"}  # XLA computes with so many threads
    processes, silent = [], subprocess.DEVNULL
    for workdir in workdirs:
        with socket.create_server(("127.0.0.1", 0)) as server:
            join = [f"--coordinator=127.0.0.1:{server.getsockname()[1]}", f"--num_processes={count}"]
        for index in range(count):
            own = [*join, f"--process_id={index}"] if count > 1 else []
            line = [*command, f"--workdir={workdir}", *own]
            processes.append(subprocess.Popen(line, env=environment, cwd=ROOT, stdout=silent, stderr=silent))
    if any([process.wait() for process in processes]):
        sys.exit("A process failed.")
    found = [read_timings(workdir / "tensorboard").rates["images_per_second"][1:] for workdir in workdirs]
    return [statistics.median(rate for _, rate in one) for one in found]


def row(batch: int, rounds: int, steps: int, flags: list[str]) -> str:
    """A line of the table: the fastest rounds, and the efficiency with its range."""
    alone, beside, together = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            runs = [Path(place, name) for name in ("alone", "one", "other", "both")]
            alone += rates(runs[:1], batch, 1, steps, flags)
            beside.append(statistics.mean(rates(runs[1:3], batch, 1, steps, flags)))
            together += rates(runs[3:], batch, 2, steps, flags)
    fastest = (f"{max(one):.0f} images/s" for one in (alone, beside, together))
    ratios = [both / (2.0 * own) for both, own in zip(together, alone, strict=True)]
    efficiency = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {' | '.join([str(batch), *fastest, efficiency])} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, action="append", help="examples per process; may be given several times")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="per line of the log")
    options, flags = parser.parse_known_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for batch in options.batch or [64]:
        print(row(batch, options.rounds, options.steps, flags), flush=True)


if __name__ == "__main__":
    sys.exit(run_script("processes", main))
