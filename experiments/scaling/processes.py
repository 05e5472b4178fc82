"""How much of two processes' work is done when they train one model, against one process on its own.

    python experiments/scaling/processes.py --batch=64 --batch=256 --batch=1024 --rounds=8

Two processes that compute with one thread each join over the loopback interface. In turns, process 0 trains on its own
device, each trains on its own at the same time, both train on a mesh of two devices, with the same number of examples
per device, and both do nothing but add up arrays as large as the gradient. The ratio of the times of a step, round by
round, is the efficiency. The second time tells what two programs on one machine cost each other; with the fourth a
model says what the third should be. All programs are compiled before the first round.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "vp" / "digits_ddpmpp.py"
COLUMNS = ("examples per device", "alone", "side by side", "the sum", "together", "of the model", "efficiency")
ALONE, BESIDE, TOGETHER, SUM = KINDS = "alone", "beside", "together", "sum"


def seconds_of(step: Callable[[Any], Any], carry: Any) -> Callable[[int], float]:
    """A function that runs so many steps, each from the last one's result, and returns the seconds of one."""
    import jax

    def seconds(steps: int) -> float:
        nonlocal carry
        start = time.perf_counter()
        for _ in range(steps):
            carry = step(carry)
        jax.block_until_ready(carry)
        return (time.perf_counter() - start) / steps

    return seconds


def programs(batch: int, flags: list[str]) -> dict[str, Callable[[int], float]]:
    """Training on this process' own device, training together, the sum of a gradient."""
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    from score_sde.cli import load_config
    from score_sde.distributed import AXES, batch_sharding, jit_step, state_sharding
    from score_sde.experiment import Experiment
    from score_sde.modes.workdir import data_info

    config = load_config(CONFIG, flags)
    info = data_info(config)

    def mesh_of(devices: Sequence[Any]) -> Mesh:
        return Mesh(np.array(devices)[:, None], AXES, axis_types=(AxisType.Auto,) * 2)

    def training(mesh: Mesh) -> Callable[[int], float]:
        run = Experiment.from_config(config, info.shape, info.num_grey_levels, mesh=mesh)
        sharding = state_sharding(mesh, jax.eval_shape(run.init_state))
        state = jax.jit(run.init_state, out_shardings=sharding)()
        levels = np.random.default_rng(0).integers(0, 17, (mesh.size * batch, *info.shape)).astype(np.uint8)
        data = jax.make_array_from_callback(levels.shape, batch_sharding(mesh), lambda index: levels[index])
        step = jit_step(run.train_step, mesh, sharding)
        return seconds_of(lambda state: step(state, data)[0], state)

    def summing(mesh: Mesh) -> Callable[[int], float]:
        run = Experiment.from_config(config, info.shape, info.num_grey_levels, mesh=mesh)
        shapes = jax.tree.leaves(run.abstract_state().params)
        whole = NamedSharding(mesh, PartitionSpec())
        arrays = jax.jit(lambda: [jax.numpy.ones(one.shape) for one in shapes], out_shardings=[whole] * len(shapes))()
        total = jax.shard_map(
            lambda arrays: jax.lax.pmean(arrays, AXES),
            mesh=mesh,
            in_specs=PartitionSpec(),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        return seconds_of(jax.jit(total), arrays)

    own, both = mesh_of(jax.local_devices()), mesh_of(jax.devices())
    beside = training(own)
    found = {BESIDE: beside, TOGETHER: training(both), SUM: summing(both)}
    return found | ({ALONE: beside} if jax.process_index() == 0 else {})


def work(index: int, address: str, batches: list[int], rounds: int, steps: int, flags: list[str]) -> None:
    """One of the two processes; process 0 prints its times, a line for each batch."""
    from score_sde import cluster

    cluster.join(coordinator=address, num_processes=2, process_id=index, heeds_sigterm=False)
    for batch in batches:
        found = programs(batch, flags)
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for turn in range(rounds + 1):  # the first compiles
            for kind, seconds in times.items():
                cluster.barrier(f"round {turn} of {kind} with {batch}")
                if kind in found:
                    seconds.append(found[kind](2 if turn == 0 else steps))
        if index == 0:
            print(json.dumps({"batch": batch} | {kind: seconds[1:] for kind, seconds in times.items()}), flush=True)
    cluster.shutdown()


def row(times: dict[str, Any]) -> str:
    """A line of the table: the fastest rounds, and the efficiency with its range."""
    alone, beside, together, total = (1e3 * min(times[kind]) for kind in KINDS)
    ratios = [a / b for a, b in zip(times[ALONE], times[TOGETHER], strict=True)]
    return (
        f"| {times['batch']} | {alone:.0f} ms | {beside:.0f} ms | {total:.0f} ms | {together:.0f} ms | "
        f"{beside + total:.0f} ms | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
    )


def main() -> None:
    """Start both processes and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, action="append", help="examples per device; may be given several times")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30, help="per turn")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options, flags = parser.parse_known_args()
    batches = options.batch or [64]
    if options.work:
        work(int(options.work[0]), options.work[1], batches, options.rounds, options.steps, flags)
        return
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--work", str(index), address],
            stdout=subprocess.PIPE if index == 0 else subprocess.DEVNULL,
            stderr=None if index == 0 else subprocess.DEVNULL,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "NPROC": "1"},  # XLA computes with so many threads
        )
        for index in range(2)
    ]
    said = processes[0].communicate()[0]
    if any(process.wait() for process in processes):
        sys.exit("A process failed.")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for line in said.splitlines():
        if line.startswith("{"):
            print(row(json.loads(line)))


if __name__ == "__main__":
    main()
