"""How much of the speed of the bare training step does a training reach?

    python experiments/benchmarks/training_loop.py --rounds 5 --steps 400

In turns, in one process: a block of steps of ``--mode=train``, with its data, logging and progress, and as many calls
of the same compiled step, one in a call, on one batch that is there already. Evaluations, pictures and checkpoints are
set aside, for they are work of their own that the configuration asks for. The figure is the time of the bare steps over
the time of the training, in percent.
"""

import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from harness import parser_for

from score_sde.cli import load_config, run_script
from score_sde.modes.training import train
from score_sde.modes.workdir import build_experiment
from score_sde.training import loop


class Clock:
    """The step of a training that notes when its blocks begin and end, and times the bare step between them."""

    def __init__(self, step: Callable[..., Any], block: int) -> None:
        """Time blocks of steps."""
        self.step, self.block, self.calls = step, block, 0
        self.began: float | None = None
        self.training: list[float] = []
        self.bare: list[float] = []

    def __call__(self, state: Any, batch: Any, *constants: Any) -> Any:
        """One step of the training."""
        if self.calls and self.calls % self.block == 0:  # the first block compiles and fills caches
            state = jax.block_until_ready(state)
            if self.began is not None:
                self.training.append(time.perf_counter() - self.began)
            state = self._bare(state, batch, constants)
            self.began = time.perf_counter()
        self.calls += 1
        return self.step(state, batch, *constants)

    def _bare(self, state: Any, batch: Any, constants: Any) -> Any:
        began = time.perf_counter()
        for _ in range(self.block):
            state, _ = self.step(state, batch, *constants)
        jax.block_until_ready(state)
        self.bare.append(time.perf_counter() - began)
        return state


def main() -> None:
    """Train, and print the share of every round and the median."""
    parser = parser_for(__doc__)
    parser.add_argument("--config", default="configs/vp/digits_ddpmpp.py", help="configuration file")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each kind")
    parser.add_argument("--steps", type=int, default=400, help="steps per block, a multiple of log_every")
    args, overrides = parser.parse_known_args()
    total = args.steps * (args.rounds + 2)  # the last evaluates and saves, and is not timed
    single = ["--config.training.sample_every=0", "--config.training.steps_per_dispatch=1"]
    never = [f"--config.training.{field}={total}" for field in ("num_steps", "eval_every", "checkpoint_every")]
    config = load_config(Path(args.config), [*overrides, *never, *single])
    logging.disable()
    clocks: list[Clock] = []
    jit_step = loop.jit_step

    def timed(*positional: Any, **named: Any) -> Clock:
        clocks.append(Clock(jit_step(*positional, **named), args.steps))
        return clocks[-1]

    loop.jit_step = timed
    with tempfile.TemporaryDirectory() as directory:
        train(build_experiment(config, "train"), Path(directory))
    (clock,) = clocks
    shares = 100.0 * np.array(clock.bare[: args.rounds]) / np.array(clock.training[: args.rounds])
    per_step = 1e3 * np.median(clock.training) / args.steps
    print(
        f"{per_step:.2f} ms per step of the training; share of the bare step's speed, percent: "
        f"median {np.median(shares):.1f}, rounds {', '.join(f'{share:.1f}' for share in shares)}"
    )


if __name__ == "__main__":
    sys.exit(run_script("training_loop", main))
