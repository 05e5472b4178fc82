"""What the benchmarks share: the demo network, and timing in turns.

Two programs are compared by alternating short blocks of each in one process, so that whatever else the machine does
falls on both; the ratio of each round is then a fair one even where the times are not.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

PYRAMIDS = {"fir": True, "progressive_input": "residual", "progressive": "output_skip"}

Times = dict[str, tuple[np.ndarray, np.ndarray]]


def parser_for(module_docstring: str | None) -> argparse.ArgumentParser:
    """A parser described by the first line of a script's docstring."""
    description = (module_docstring or "").partition("\n")[0]
    return argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)


def network_parser(module_docstring: str | None) -> argparse.ArgumentParser:
    """A parser for the size of the network and of the measurement; the defaults are the demo network's."""
    parser = parser_for(module_docstring)
    parser.add_argument("--batch", type=int, default=64, help="batch size")
    parser.add_argument("--image", type=int, nargs=3, default=(8, 8, 1), help="height, width, channels")
    parser.add_argument("--features", type=int, default=16, help="channels at full resolution")
    parser.add_argument("--multipliers", type=int, nargs="+", default=(1, 2), help="channels per level, as multiples")
    parser.add_argument("--blocks", type=int, default=1, help="residual blocks per level")
    parser.add_argument("--attention", type=int, nargs="*", default=(4,), help="heights with self-attention")
    parser.add_argument("--dropout", type=float, default=0.1, help="dropout rate")
    parser.add_argument("--ncsnpp", action="store_true", help="NCSN++: FIR filters, and pyramids at both ends")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of one block each")
    return parser


def network_fields(args: argparse.Namespace) -> dict[str, Any]:
    """The parsed size as fields of :class:`score_sde.models.ncsnpp.NCSNpp`."""
    return {
        "features": args.features,
        "channel_multipliers": tuple(args.multipliers),
        "num_blocks": args.blocks,
        "attention_resolutions": tuple(args.attention),
        "dropout": args.dropout,
        **(PYRAMIDS if args.ncsnpp else {}),
    }


def interleave(programs: Mapping[str, Callable[[], object]], *, rounds: int, steps: int) -> Times:
    """Run each program in turns, twice per round, and time the second run.

    The first run has the memory to itself again: the other program's freed pages cost the kernel up to two seconds of
    compaction, which neither program pays when it runs alone.

    Args:
        programs: Each runs one block of ``steps`` steps and returns when its results are there.
        rounds: Number of rounds; the order is reversed in every other one.
        steps: Steps per block.

    Returns:
        Per program the wall-clock and the processor seconds per step, one value per round.
    """
    names = list(programs)
    wall, cpu = ({name: np.zeros(rounds) for name in names} for _ in range(2))
    for program in programs.values():  # compile, fill caches
        program()
    for index in range(rounds):
        for name in names if index % 2 == 0 else reversed(names):
            programs[name]()
            start, cpu_start = time.perf_counter(), time.process_time()
            programs[name]()
            wall[name][index] = (time.perf_counter() - start) / steps
            cpu[name][index] = (time.process_time() - cpu_start) / steps
    return {name: (wall[name], cpu[name]) for name in names}


def report(times: Times, *, subject: str) -> None:
    """Print times per program, and the ratios of the subject to the others (below 1: the subject is faster)."""
    print(f"{'ms per step':<24}{'min':>10}{'median':>10}{'cpu min':>10}{'cpu median':>12}")
    for name, (wall, cpu) in times.items():
        row = 1e3 * np.array([wall.min(), np.median(wall), cpu.min(), np.median(cpu)])
        print(f"{name:<24}{row[0]:>10.3f}{row[1]:>10.3f}{row[2]:>10.3f}{row[3]:>12.3f}")
    wall, cpu = times[subject]
    for name, (other_wall, other_cpu) in times.items():
        if name == subject:
            continue
        rounds = wall / other_wall
        print(
            f"{subject} / {name}: medians {np.median(wall) / np.median(other_wall):.3f}, "
            f"minima {wall.min() / other_wall.min():.3f}, rounds {rounds.min():.3f} to {rounds.max():.3f}, "
            f"processor time {np.median(cpu) / np.median(other_cpu):.3f}"
        )
    print(f"load average at the end: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
