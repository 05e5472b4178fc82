"""How much memory does a training step need, beside PyTorch's? Same network, same work, a process for each side.

    python experiments/benchmarks/memory.py --batch 32 --features 32 --blocks 2 \
        --image 32 32 3 --multipliers 1 2 2 2 --attention 16

All processes load both libraries. The peak of a process is read twice (Linux): of everything up to the end of the first
steps, compilation included, and of later steps alone.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from harness import network_fields, network_parser

from score_sde.cli import run_script
from score_sde.startup import return_freed_memory

LAYOUTS = ("last", "first")
SIDES = ("score_sde", *(f"torch, {layout}" for layout in LAYOUTS))
MIB = 2**20


def resident(name: str) -> float:
    """A line of ``/proc/self/status`` in MiB: ``VmRSS``, memory now, or ``VmHWM``, its peak."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / MIB


def measured(side: str, args: argparse.Namespace) -> tuple[float, float, float]:
    """Memory after the imports, its peak up to the end of the first steps, and its peak in later steps, in MiB."""
    import torch  # pyright: ignore[reportMissingImports]
    import train_step as steps

    return_freed_memory()  # as the command line does
    loaded, image = resident("VmRSS"), tuple(args.image)
    rng = np.random.default_rng(2)
    batches = rng.integers(steps.NUM_LEVELS, size=(args.steps, args.batch, *image), dtype=np.uint8)
    fields = network_fields(args)
    if side == SIDES[0]:
        network = steps.LinenNetwork(steps.NCSNpp(**fields))
        block = steps.jax_block(network, steps.make_state(network, (1, *image)), batches, args.steps)
    else:
        layout = dict(zip(SIDES[1:], (torch.channels_last, torch.contiguous_format), strict=True))[side]
        block = steps.torch_block(steps.torch_network(args), batches, torch.get_num_threads(), layout)
    block()
    first = resident("VmHWM")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    block()
    return loaded, first, resident("VmHWM")


def main() -> None:
    """Measure every side in its own process, and print a row for each."""
    parser = network_parser(__doc__)
    parser.add_argument(
        "--steps", type=int, default=5, help="steps before each reading; the package makes them in one call"
    )
    parser.add_argument("--side", choices=SIDES, help="measure this side in this process")
    args = parser.parse_args()
    if args.side:
        print(*(f"{value:.0f}" for value in measured(args.side, args)))
        return
    print("| MiB | after the imports | peak with the first steps | peak of later steps |\n|---|---|---|---|")
    for side in SIDES:
        command = [sys.executable, *sys.argv, "--side", side]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        print("|", " | ".join([side, *done.stdout.split()[-3:]]), "|", flush=True)


if __name__ == "__main__":
    sys.exit(run_script("memory", main))
