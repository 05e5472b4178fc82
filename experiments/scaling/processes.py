"""How much of two processes' work is done when they train one model, against one process on its own.

    python experiments/scaling/processes.py --batch=64 --rounds=8

Two processes of one core each join over the loopback interface. In turns, process 0 trains alone on its own device, and
both train on a mesh of two devices, each with the same number of examples per device. The ratio of the times of a step,
round by round, is the efficiency. Both programs are compiled before the first round.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "vp" / "digits_ddpmpp.py"


def programs(batch: int, flags: list[str]) -> dict[int, Any]:
    """Per number of devices, a function that runs so many training steps and returns the seconds of one."""
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh

    from score_sde.cli import load_config
    from score_sde.distributed import AXES, batch_sharding, jit_step, state_sharding
    from score_sde.experiment import Experiment
    from score_sde.modes.workdir import data_info

    config = load_config(CONFIG, flags)
    info = data_info(config)

    def program(count: int) -> Any:
        devices = np.array(jax.devices()[:count]).reshape(count, 1)
        mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 2)
        run = Experiment.from_config(config, info.shape, info.num_levels, mesh=mesh)
        sharding = state_sharding(mesh, jax.eval_shape(run.init_state))
        state = jax.jit(run.init_state, out_shardings=sharding)()
        levels = np.random.default_rng(0).integers(0, 17, (count * batch, *info.shape)).astype(np.uint8)
        data = jax.make_array_from_callback(levels.shape, batch_sharding(mesh), lambda index: levels[index])
        step = jit_step(run.train_step, mesh, sharding)

        def seconds(steps: int) -> float:
            nonlocal state
            start = time.perf_counter()
            for _ in range(steps):
                state, _metrics = step(state, data)
            jax.block_until_ready(state)
            return (time.perf_counter() - start) / steps

        return seconds

    # A program of process 0's device alone cannot even be built by another process.
    return {count: program(count) for count in (1, 2) if jax.process_index() < count}


def work(index: int, address: str, batch: int, rounds: int, steps: int, flags: list[str]) -> None:
    """One of the two processes; process 0 prints its times."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[index]})  # before XLA counts the cores
    from score_sde import cluster

    cluster.join(coordinator=address, num_processes=2, process_id=index, heeds_sigterm=False)
    found = programs(batch, flags)
    times: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(rounds + 1):  # the first compiles
        for count in (1, 2):
            cluster.barrier(f"round {turn} of {count}")
            if count in found:
                times[count].append(found[count](2 if turn == 0 else steps))
    if index == 0:
        print(json.dumps([times[1][1:], times[2][1:]]))
    cluster.shutdown()


def main() -> None:
    """Start both processes and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=64, help="examples per device")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30, help="per turn")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options, flags = parser.parse_known_args()
    if options.work:
        work(int(options.work[0]), options.work[1], options.batch, options.rounds, options.steps, flags)
        return
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--work", str(index), address],
            stdout=subprocess.PIPE if index == 0 else subprocess.DEVNULL,
            stderr=None if index == 0 else subprocess.DEVNULL,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        for index in range(2)
    ]
    said = processes[0].communicate()[0]
    if any(process.wait() for process in processes):
        sys.exit("A process failed.")
    one, two = json.loads(said.splitlines()[-1])
    ratios = sorted(a / b for a, b in zip(one, two, strict=True))
    middle = ratios[len(ratios) // 2]
    print(f"one process {1e3 * min(one):.2f} ms per step, two {1e3 * min(two):.2f} ms (fastest rounds)")
    print(f"efficiency: median {middle:.3f}, rounds {ratios[0]:.3f} to {ratios[-1]:.3f}, {options.batch} per device")


if __name__ == "__main__":
    main()
