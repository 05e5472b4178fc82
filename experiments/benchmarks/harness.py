"""What the benchmarks share: the demo network, and timing in turns.

Two programs are compared by alternating short blocks of each, so that whatever else the machine does falls on both; the
ratio of each round is then a fair one even where the times are not. Programs of one library share a process.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from subprocess import PIPE
from typing import Any

import numpy as np

from score_sde.errors import UserError

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
            wall[name][index], cpu[name][index] = _second_run(programs[name])
    return {name: (wall[name] / steps, cpu[name] / steps) for name in names}


def _second_run(program: Callable[[], object]) -> tuple[float, float]:
    """Run a program twice; wall-clock and processor seconds of the second run."""
    program()
    start, cpu_start = time.perf_counter(), time.process_time()
    program()
    return time.perf_counter() - start, time.process_time() - cpu_start


def serve(program: Callable[[], object]) -> None:
    """Be a process of :func:`take_turns`: at every line of input run the program twice, and time the second run."""
    program()  # compile, fill caches
    print(flush=True)
    for _ in sys.stdin:
        print(*_second_run(program), flush=True)


def take_turns(names: Sequence[str], *, rounds: int, steps: int) -> Times:
    """Like :func:`interleave`, for programs of libraries that have threads and memory pools of their own.

    Each runs in its own process, this script with ``--side NAME``, which ends in :func:`serve`. The others wait.

    Raises:
        UserError: If a process ends early.
    """
    times = np.zeros((rounds, len(names), 2))
    with contextlib.ExitStack() as stack:
        sides = [_Side(stack, name) for name in names]
        for index in range(rounds):
            for place in range(len(names)) if index % 2 == 0 else reversed(range(len(names))):
                times[index, place] = sides[place].turn()
    return {name: (times[:, place, 0] / steps, times[:, place, 1] / steps) for place, name in enumerate(names)}


class _Side:
    def __init__(self, stack: contextlib.ExitStack, name: str) -> None:
        """Start a process of :func:`take_turns`, and wait until it is ready."""
        self.name, command = name, [sys.executable, *sys.argv, "--side", name]
        process = stack.enter_context(subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True))
        assert process.stdin is not None and process.stdout is not None
        self._input, self._output = process.stdin, process.stdout
        self._answer()

    def turn(self) -> tuple[float, ...]:
        """Wall-clock and processor seconds of one block."""
        print(file=self._input, flush=True)
        return tuple(map(float, self._answer().split()))

    def _answer(self) -> str:
        if not (line := self._output.readline()):
            raise UserError(f"The process of {self.name!r} ended early; it said why above.")
        return line


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
