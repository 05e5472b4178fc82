"""Where does the time of a training step go? The share of every class of operations in its processor time.

    python experiments/benchmarks/profile_step.py --image 32 32 3 --features 32 --multipliers 1 2 2 2 --blocks 2 \
        --attention 16 --batch 32

The classes are read off the names that XLA gives to its fusions, which list the operations in them. Times of threads
that work side by side are added. The profiler does not see the threads in which Eigen computes convolutions; what the
processors do beside its operations counts as theirs, and so does what little the host does. Every round profiles one
step, and the quickest is shown: a slow one belongs to something else on the machine.
"""

import collections
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness import network_fields, network_parser

from score_sde.cli import run_script
from score_sde.startup import prepare_process

if __name__ == "__main__":
    prepare_process()  # before JAX is loaded

import jax
import numpy as np
from jax.profiler import ProfileData

from score_sde.distributed import jit, options_once
from score_sde.fields.training import Optim
from score_sde.models.adapters import LinenNetwork
from score_sde.models.ncsnpp import NCSNpp
from score_sde.objectives import LowDiscrepancyTimes, score_matching_loss, variance_weighting
from score_sde.parameterization import NoisePrediction
from score_sde.quantization import Quantization
from score_sde.sdes import VP
from score_sde.state import create_state
from score_sde.training.optim import make_optimizer
from score_sde.training.step import make_train_step

# The first pattern found in a name gives its class.
CLASSES = {
    "convolutions": r"conv(?!ert)",
    "matrix products": r"dot|matmul|gemm|ynn",
    "sums": r"reduce|slice_add",
    "copies": r"transpose|copy|concatenate|pad|slice",
    "random bits": r"while|call|xor|shift|iota|rng|threefry",
    "elementwise": r"",
}


def training_step(network: LinenNetwork, shape: tuple[int, ...]) -> Callable[[], object]:
    """A whole step on images of 256 gray levels, as a function without arguments."""
    tx = make_optimizer(Optim())
    loss = score_matching_loss(
        VP(), network, NoisePrediction(), times=LowDiscrepancyTimes(), weighting=variance_weighting
    )
    step = make_train_step(loss, tx, prepare=Quantization(num_grey_levels=256).dequantize, ema_rate=0.999)
    run, batch = jit(step, donate_argnums=0), np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    make = jax.jit(lambda: create_state(network, tx, 0, (1, *shape[1:])), compiler_options=options_once())
    state = make()

    def program() -> object:
        nonlocal state
        state, _ = run(state, batch)
        return jax.block_until_ready(state)

    return program


def processor_seconds(program: Callable[[], object], rounds: int) -> float:
    """The median of the processor time of all threads."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        program()
        times.append(time.process_time() - began)
    return statistics.median(times)


def profile(program: Callable[[], object]) -> dict[str, float]:
    """Seconds of every operation of a program that is compiled already, by the name of the operation."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            program()
        (file,) = Path(folder).rglob("*.xplane.pb")
        times: dict[str, float] = collections.defaultdict(float)
        for plane in ProfileData.from_file(str(file)).planes:
            for line in plane.lines:
                for event in line.events:
                    if any(name == "hlo_op" for name, _ in event.stats):
                        times[re.sub(r"[.\d]+$", "", event.name)] += event.duration_ns / 1e9
    return times


def _most(times: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(times.items(), key=lambda item: -item[1])


def main() -> None:
    """Print the share of every class, and of the most expensive operations."""
    parser = network_parser(__doc__)
    parser.add_argument("--most", type=int, default=15, help="how many operations to list")
    args = parser.parse_args()
    network = LinenNetwork(NCSNpp(**network_fields(args)))
    program = training_step(network, (args.batch, *args.image))
    program()
    total, classes = processor_seconds(program, args.rounds), collections.defaultdict(float)
    times = min((profile(program) for _ in range(args.rounds)), key=lambda found: sum(found.values()))
    for name, seconds in times.items():
        classes[next(label for label, pattern in CLASSES.items() if re.search(pattern, name))] += seconds
    classes["convolutions"] += total - sum(times.values())  # in threads of Eigen's, of which the profiler knows nothing
    print(f"{1e3 * total:.0f} ms of processor time in a step")
    for label, seconds in _most(classes):
        print(f"{label:<40}{100 * seconds / total:>6.1f} %")
    print()
    for name, seconds in _most(times)[: args.most]:
        print(f"{name:<40}{100 * seconds / total:>6.1f} %")


if __name__ == "__main__":
    sys.exit(run_script("profile_step", main))
