"""How long is it from a command to the first training step, the first sample and the first likelihood?

    python experiments/benchmarks/first_step.py --config configs/vp/digits_ddpmpp.py --rounds 3

Each figure is a fresh process, which ends with its first step or its first batch: *cold* with an empty cache of
compiled programs, *warm* with the cache that the cold one has left. Seconds go to imports, to tracing (from Python to
JAX's intermediate language), to lowering (from there to XLA's), to compiling (or reading the cache), and to the rest:
data, initialization, and the work itself. Several programs may compile at the same time, so the parts are a guide and
the whole is the measurement; the seconds of all cores depend least on what else the machine does. ``--random SIZE``
replaces the data by as many random images as a batch, for a network whose data are not at hand:

    python experiments/benchmarks/first_step.py --config configs/vp/cifar10_ddpmpp_continuous.py --random 32 32 3 \
        --what train --rounds 1 --config.training.batch_size=4
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import parser_for

from score_sde.cli import run_script

WHAT = ("train", "sample", "likelihood")
COLUMNS = ("all", "all cores", "imports", "trace", "lower", "compile", "programs")
_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}
_IMAGES = 128  # at least a batch


def child(out: Path, began: float, arguments: list[str]) -> None:
    """Run one command of the package up to its first step, or its first batch of results."""
    from score_sde.startup import begin

    begin()
    from score_sde import modes
    from score_sde.cli import main

    spent: dict[str, float] = defaultdict(float)
    load = modes.load

    def end() -> None:
        out.write_text(json.dumps({**spent, "all": time.time() - began, "all cores": sum(os.times()[:2])}))
        os._exit(0)  # nothing is saved, and nothing is cleaned up that would be counted

    def loaded(name: str) -> Callable[..., int | None]:
        function = load(name)
        if not spent:
            spent["imports"] = time.time() - began
            _observe(spent, end)
        return function

    modes.load = loaded
    sys.exit(main(arguments) or "The command has come to its end without a step or a batch.")


def _observe(spent: dict[str, float], end: Callable[[], None]) -> None:
    """Count the seconds of JAX, and end after the first step of a training and the first batch of a measurement."""
    import jax

    from score_sde.evaluation.partial import Partial
    from score_sde.training import loop

    def count(event: str, duration_secs: float, **_: Any) -> None:
        if event in _EVENTS:
            spent[_EVENTS[event]] += duration_secs
            spent["programs"] += _EVENTS[event] == "compile"

    jit_step = loop.jit_step

    def first_only(*positional: Any, **named: Any) -> Callable[..., None]:
        step = jit_step(*positional, **named)

        def once(*operands: Any) -> None:
            jax.block_until_ready(step(*operands))
            end()

        # A training compiles its step before there is a state.
        setattr(once, "lower", getattr(step, "lower"))  # noqa: B009, B010
        return once

    jax.monitoring.register_event_duration_secs_listener(count)
    loop.jit_step = first_only
    setattr(Partial, "add", lambda *_: end())  # noqa: B010


def measure(arguments: list[str], cache: Path) -> dict[str, float]:
    """The figures of one command in a fresh process."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "seconds.json"
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        command = [sys.executable, __file__, "--child", str(out), repr(time.time()), *arguments]
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if not out.exists():
            sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr}")
        return json.loads(out.read_text())


def random_images(shape: list[int], directory: Path) -> str:
    """The name of a data set of random images of a shape, which is written to a directory."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (_IMAGES, *shape), np.uint8) for _ in range(2))
    path = directory / "random.npz"
    np.savez(path, train=train, test=test)
    return f"npz:{path}"


def main() -> None:
    """Time every command cold and warm, and print medians."""
    parser = parser_for(__doc__)
    parser.add_argument("--config", default="configs/vp/digits_ddpmpp.py", help="configuration file")
    parser.add_argument("--rounds", type=int, default=3, help="processes per figure")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=WHAT, help="what to time")
    parser.add_argument("--random", nargs=3, type=int, metavar=("H", "W", "C"), help="random images of this size")
    args, overrides = parser.parse_known_args()
    found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as directory:
        workdir = Path(directory) / "run"
        if args.random is not None:
            overrides.append(f"--config.data.name={random_images(args.random, Path(directory))}")
        shared = [f"--config={args.config}", *overrides]
        if set(args.what) - {"train"}:  # a model of one step, to be sampled and measured
            command = [*shared, "--config.training.num_steps=1", f"--workdir={workdir}", "--mode=train"]
            subprocess.run([sys.executable, "-m", "score_sde", *command], check=True, stderr=subprocess.DEVNULL)
        for round_number in range(args.rounds):
            for mode in args.what:
                cache = Path(directory) / f"cache_{mode}_{round_number}"
                for state in ("cold", "warm"):
                    place = Path(directory) / f"{mode}_{round_number}_{state}"
                    places = [f"--workdir={place}"] if mode == "train" else [f"--workdir={workdir}", f"--out={place}"]
                    command = [*(shared if mode == "train" else overrides), *places, f"--mode={mode}"]
                    found[mode, state].append(measure(command, cache))
    print("| seconds, medians |" + "".join(f" {column} |" for column in COLUMNS))
    print("|---|" + "---|" * len(COLUMNS))
    for (mode, state), runs in found.items():
        medians = [np.median([run.get(column, 0.0) for run in runs]) for column in COLUMNS]
        print(f"| {mode}, {state} |" + "".join(f" {value:.1f} |" for value in medians[:-1]) + f" {medians[-1]:.0f} |")
    print(f"load average at the end: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
    else:
        sys.exit(run_script("first_step", main))
