"""How long is it from a command to the first training step, the first sample and the first likelihood?

    python experiments/benchmarks/first_step.py --config configs/vp/digits_ddpmpp.py --rounds 3

Each figure is a fresh process: *cold* with an empty cache of compiled programs, *warm* with the cache that the cold one
has left. Seconds go to imports, to tracing (from Python to JAX's intermediate language), to lowering (from there to
XLA's), to compiling (or reading the cache), and to the rest: data, initialization, and the work itself. Several
programs compile at the same time, so the parts are a guide and the whole is the measurement. The CIFAR-10 network
without its data: ``--config configs/vp/cifar10_ddpmpp_continuous.py --config.data.name=npz:FILE`` with a file of random
images, and as few of them as a batch in its test split.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import parser_for

WHAT = ("train", "sample", "likelihood")
PARTS = ("imports", "trace", "lower", "compile")
_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}


def child(out: Path, began: float, arguments: list[str]) -> None:
    """Run one command of the package; a training ends with its first step."""
    import time

    import jax

    from score_sde.cli import main
    from score_sde.training import loop

    spent = defaultdict(float, imports=time.time() - began)

    def count(event: str, duration_secs: float, **_: Any) -> None:
        if event in _EVENTS:
            spent[_EVENTS[event]] += duration_secs

    jax.monitoring.register_event_duration_secs_listener(count)

    def end() -> None:
        out.write_text(json.dumps({**spent, "all": time.time() - began}))

    jit_step = loop.jit_step

    def first_only(*positional: Any, **named: Any) -> Callable[..., None]:
        step = jit_step(*positional, **named)

        def once(*operands: Any) -> None:
            jax.block_until_ready(step(*operands))
            end()
            os._exit(0)  # nothing is saved, and nothing is cleaned up that would be counted

        return once

    loop.jit_step = first_only
    code = main(arguments)
    if code:
        sys.exit(code)
    end()


def measure(arguments: list[str], cache: Path) -> dict[str, float]:
    """Seconds of one command in a fresh process."""
    import time

    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "seconds.json"
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        command = [sys.executable, __file__, "--child", str(out), repr(time.time()), *arguments]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        return json.loads(out.read_text())


def main() -> None:
    """Time every command cold and warm, and print medians."""
    parser = parser_for(__doc__)
    parser.add_argument("--config", default="configs/vp/digits_ddpmpp.py", help="configuration file")
    parser.add_argument("--rounds", type=int, default=3, help="processes per figure")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=WHAT, help="what to time")
    args, overrides = parser.parse_known_args()
    found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as directory:
        workdir = Path(directory) / "run"
        shared = [f"--config={args.config}", *overrides]
        if set(args.what) - {"train"}:  # a model of one step, to be sampled and measured
            command = [*shared, "--config.training.num_steps=1", f"--workdir={workdir}", "--mode=train"]
            subprocess.run([sys.executable, "-m", "score_sde", *command], check=True)
        for round_number in range(args.rounds):
            for mode in args.what:
                cache = Path(directory) / f"cache_{mode}_{round_number}"
                here = workdir if mode != "train" else Path(directory) / f"train_{round_number}"
                for state in ("cold", "warm"):
                    out = [] if mode == "train" else [f"--out={directory}/{mode}_{round_number}_{state}"]
                    command = [*(shared if mode == "train" else overrides), f"--workdir={here}", f"--mode={mode}", *out]
                    found[mode, state].append(measure(command, cache))
    print(f"{'seconds, medians':<20}{'all':>8}" + "".join(f"{part:>10}" for part in PARTS))
    for (mode, state), runs in found.items():
        medians = {part: np.median([run.get(part, 0.0) for run in runs]) for part in ("all", *PARTS)}
        print(f"{mode + ', ' + state:<20}{medians['all']:>8.1f}" + "".join(f"{medians[p]:>10.1f}" for p in PARTS))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
    else:
        main()
