"""Where does the time of a training step go? The share of every class of operations in the gradient.

    python experiments/benchmarks/profile_step.py --image 32 32 3 --features 32 --multipliers 1 2 2 2 --blocks 2 \
        --attention 16 --batch 32

The classes are read off the names that XLA gives to its fusions, which list the operations in them. Times of threads
that work side by side are added.
"""

import collections
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness import network_fields, network_parser

from score_sde.cli import run_script
from score_sde.startup import prepare_process

if __name__ == "__main__":
    prepare_process()  # before JAX is loaded

import jax
import jax.numpy as jnp
from jax.profiler import ProfileData

from score_sde.distributed import jit
from score_sde.models.adapters import LinenNetwork
from score_sde.models.ncsnpp import NCSNpp

# The first pattern found in a name gives its class.
CLASSES = {
    "convolutions": r"conv(?!ert)",
    "matrix products": r"dot|matmul|gemm|ynn",
    "sums": r"reduce|slice_add",
    "copies": r"transpose|copy|concatenate|pad|slice",
    "random bits": r"while|call|xor|shift|iota|rng|threefry",
    "elementwise": r"",
}


def gradient(network: LinenNetwork, x: jax.Array) -> Callable[[], object]:
    """The gradient of a squared output with dropout, as a function without arguments."""
    condition = jnp.linspace(1.0, 999.0, len(x))
    params = jax.jit(network.init, static_argnums=1, compiler_options={"xla_backend_optimization_level": 0})(
        jax.random.key(0), (1, *x.shape[1:])
    )
    run = jit(jax.grad(lambda p, key: jnp.mean(network.apply(p, x, condition, key=key) ** 2)))
    return lambda: jax.block_until_ready(run(params, jax.random.key(1)))


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
    program = gradient(network, jnp.ones((args.batch, *args.image)))
    program()
    times = profile(program)
    total, classes = sum(times.values()), collections.defaultdict(float)
    for name, seconds in times.items():
        classes[next(label for label, pattern in CLASSES.items() if re.search(pattern, name))] += seconds
    print(f"{1e3 * total:.0f} ms of all threads")
    for label, seconds in _most(classes):
        print(f"{label:<40}{100 * seconds / total:>6.1f} %")
    print()
    for name, seconds in _most(times)[: args.most]:
        print(f"{name:<40}{100 * seconds / total:>6.1f} %")


if __name__ == "__main__":
    sys.exit(run_script("profile_step", main))
