"""What does a sampler cost beyond its network? Steps that take 200 evaluations against 200 network calls alone.

    python experiments/benchmarks/sampling_overhead.py --batch 64 --rounds 5 --solvers heun unipc_3

Every solver is one jitted loop, timed in turns with the calls alone. Those feed a millionth of each output back into
the input, so that none can be left out or moved out of the loop; they add no noise, derive no keys and know no SDE.
"""

import sys
from collections.abc import Callable

from harness import interleave, network_fields, network_parser, report

from score_sde.cli import run_script
from score_sde.startup import prepare_process

if __name__ == "__main__":
    prepare_process()  # before JAX is loaded

import jax
import jax.numpy as jnp

from score_sde.distributed import jit
from score_sde.models.adapters import LinenNetwork
from score_sde.models.ncsnpp import NCSNpp
from score_sde.parameterization import NoisePrediction
from score_sde.sampling import make_sampler, uniform_times
from score_sde.sdes import VP
from score_sde.solvers import (
    DETERMINISTIC,
    PREDICTORS,
    AnnealedLangevin,
    EulerMaruyama,
    Langevin,
    NoPredictor,
    PredictorCorrector,
    Solver,
)
from score_sde.typing import Batch, Params

Program = Callable[[], object]


#: Beside the predictors of the configurations: a corrector costs an evaluation too.
SOLVERS: dict[str, Callable[[], Solver]] = {
    **PREDICTORS,
    "euler_maruyama + langevin": lambda: PredictorCorrector(predictor=EulerMaruyama(), corrector=Langevin()),
    "none + annealed_langevin": lambda: PredictorCorrector(predictor=NoPredictor(), corrector=AnnealedLangevin()),
}
del SOLVERS["none"]


def sampler_program(name: str, network: LinenNetwork, params: Params, shape: tuple[int, ...], evals: int) -> Program:
    """The package's sampler, without the final denoising, which would be one more evaluation."""
    solver = SOLVERS[name]()
    sampler = make_sampler(
        network,
        NoisePrediction(),
        VP(),
        solver,
        times=uniform_times(evals // solver.num_evals),
        noise_scale=0.0 if name in DETERMINISTIC else 1.0,
        denoising="none",
    )
    run, key = jit(sampler, static_argnums=2), jax.random.key(0)
    return lambda: jax.block_until_ready(run(params, key, shape))


def network_program(network: LinenNetwork, params: Params, shape: tuple[int, ...], evals: int) -> Program:
    """As many network calls, and nothing else."""
    times = uniform_times(evals)[:-1]

    # Parameters are an argument, as in the sampler: constants could be folded into the program.
    def calls(params: Params, x: Batch) -> Batch:
        def body(x: Batch, t: jax.Array) -> tuple[Batch, None]:
            return x + 1e-6 * network.apply(params, x, jnp.full(shape[:1], 999.0 * t)), None

        return jax.lax.scan(body, x, times)[0]

    run, x = jit(calls), jax.random.normal(jax.random.key(1), shape)
    return lambda: jax.block_until_ready(run(params, x))


def main() -> None:
    """Time each solver with the network between, and print the ratios."""
    parser = network_parser(__doc__)
    parser.add_argument("--evals", type=int, default=200, help="evaluations of the network per sample")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS), metavar="NAME")
    args = parser.parse_args()
    network = LinenNetwork(NCSNpp(**network_fields(args)))
    shape = (args.batch, *args.image)
    params = jax.jit(network.init, static_argnums=1)(jax.random.key(2), shape)
    alone = network_program(network, params, shape, args.evals)
    for name in args.solvers:
        programs = {name: sampler_program(name, network, params, shape, args.evals), "network alone": alone}
        report(interleave(programs, rounds=args.rounds, steps=args.evals), subject=name)


if __name__ == "__main__":
    sys.exit(run_script("sampling_overhead", main))
