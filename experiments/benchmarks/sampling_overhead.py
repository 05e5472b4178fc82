"""What does the sampler cost beyond its network? 1000 Euler-Maruyama steps against 1000 network calls alone.

    python experiments/benchmarks/sampling_overhead.py --batch 64 --rounds 5

Both are one jitted scan. The calls alone feed a millionth of each output back into the input, so that none can be
left out or moved out of the loop; they add no noise, derive no keys and know no SDE.
"""

import argparse
from collections.abc import Callable

from harness import ensure_environment, interleave, network_fields, network_parser, report

if __name__ == "__main__":
    ensure_environment()  # before JAX is loaded

import jax
import jax.numpy as jnp

from score_sde.distributed import jit
from score_sde.models.adapters import LinenNetwork
from score_sde.models.ncsnpp import NCSNpp
from score_sde.parameterization import NoisePrediction
from score_sde.sampling import make_sampler, uniform_times
from score_sde.sdes import VP
from score_sde.solvers import EulerMaruyama
from score_sde.typing import Batch, Params

Program = Callable[[], object]


def sampler_program(network: LinenNetwork, params: Params, shape: tuple[int, ...], steps: int) -> Program:
    """The package's sampler, without the final denoising, which would be one more evaluation."""
    sampler = make_sampler(
        network, NoisePrediction(), VP(), EulerMaruyama(), times=uniform_times(steps), denoising="none"
    )
    run, key = jit(sampler, static_argnums=2), jax.random.key(0)
    return lambda: jax.block_until_ready(run(params, key, shape))


def network_program(network: LinenNetwork, params: Params, shape: tuple[int, ...], steps: int) -> Program:
    """The same number of network calls at the same times, and nothing else."""
    times = uniform_times(steps)[:-1]

    # Parameters are an argument, as in the sampler: constants could be folded into the program.
    def calls(params: Params, x: Batch) -> Batch:
        def body(x: Batch, t: jax.Array) -> tuple[Batch, None]:
            return x + 1e-6 * network.apply(params, x, jnp.full(shape[:1], 999.0 * t)), None

        return jax.lax.scan(body, x, times)[0]

    run, x = jit(calls), jax.random.normal(jax.random.key(1), shape)
    return lambda: jax.block_until_ready(run(params, x))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = network_parser(__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="steps of the sampler")
    return parser.parse_args()


def main() -> None:
    """Time both and print the ratio."""
    args = parse()
    network = LinenNetwork(NCSNpp(**network_fields(args)))
    shape = (args.batch, *args.image)
    params = jax.jit(network.init, static_argnums=1)(jax.random.key(2), shape)
    programs = {
        "sampler": sampler_program(network, params, shape, args.steps),
        "network alone": network_program(network, params, shape, args.steps),
    }
    report(interleave(programs, rounds=args.rounds, steps=args.steps), subject="sampler")


if __name__ == "__main__":
    main()
