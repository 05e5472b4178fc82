"""What does a network of another library cost in the loop of a solver, beside JAX alone?

    pip install equinox
    python experiments/benchmarks/loops.py --rounds 6

Eight evaluations, or eight gradients, of three convolutions with an activation after each: in a loop as JAX alone
compiles it, in a loop with the rule of `score_sde.convolutions`, and written out, all in turns in one process.
"""

import itertools
import sys
from collections.abc import Callable
from typing import Any

from harness import interleave, parser_for, report

from score_sde.cli import run_script
from score_sde.startup import prepare_process

if __name__ == "__main__":
    prepare_process()  # before JAX is loaded

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from score_sde.convolutions import order_axes

STEPS = 8
Network = Callable[[Array], Array]


def of_equinox(shape: tuple[int, ...], features: int) -> Network:
    """Channels before pixels, and one image at a time."""
    channels = (shape[-1], features, features, shape[-1])
    keys = jax.random.split(jax.random.key(0), 3)
    layers = [
        eqx.nn.Conv2d(*pair, 3, padding=1, key=key)
        for pair, key in zip(itertools.pairwise(channels), keys, strict=True)
    ]

    def network(x: Array) -> Array:
        h = jnp.moveaxis(x, -1, 1)
        for layer in layers:
            h = jnp.tanh(jax.vmap(layer)(h))
        return jnp.moveaxis(h, 1, -1)

    return network


def of_flax(shape: tuple[int, ...], features: int) -> Network:
    """Channels after pixels."""
    layers = [nn.Sequential([nn.Conv(n, (3, 3)), jnp.tanh]) for n in (features, features, shape[-1])]
    model = nn.Sequential(layers)
    return model.bind(model.init(jax.random.key(0), jnp.zeros(shape)))


def evaluated(network: Network, x: Array) -> Array:
    """A step of a sampler."""
    return x - 0.1 * network(x)


def differentiated(network: Network, x: Array) -> Array:
    """A step along a gradient, as guidance takes it."""
    return x - 0.1 * jax.grad(lambda y: jnp.sum(network(y) ** 2))(x)


def programs(step: Any, network: Network, x: Array) -> dict[str, Callable[[], object]]:
    """The loop as JAX compiles it at this moment, and the steps written out."""

    def looped(x: Array) -> Array:
        return jax.lax.fori_loop(0, STEPS, lambda _, x: step(network, x), x)

    def written_out(x: Array) -> Array:
        for _ in range(STEPS):
            x = step(network, x)
        return x

    found = {}
    for function in (looped, written_out):
        run = jax.jit(function).lower(x).compile()
        found[function.__name__] = lambda run=run: jax.block_until_ready(run(x))
    return found


def main() -> None:
    """Compile everything before and after the rule is replaced, and time it."""
    parser = parser_for(__doc__)
    parser.add_argument("--shape", type=int, nargs=4, default=(16, 28, 28, 3), help="batch, height, width, channels")
    parser.add_argument("--features", type=int, default=32, help="channels between the convolutions")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of one block each")
    args = parser.parse_args()
    shape = tuple(args.shape)
    x = jax.random.normal(jax.random.key(1), shape)
    networks = {"equinox": of_equinox(shape, args.features), "flax": of_flax(shape, args.features)}
    cases = [(name, network, step) for name, network in networks.items() for step in (evaluated, differentiated)]
    alone = [programs(step, network, x) for _, network, step in cases]
    order_axes()  # which every part of the package that computes has done
    for (name, network, step), before in zip(cases, alone, strict=True):
        after = programs(step, network, x)
        turns = {
            "loop": after["looped"],
            "loop, JAX alone": before["looped"],
            "written out": after["written_out"],
            "out, JAX alone": before["written_out"],
        }
        print(f"\n{name}, {step.__name__}")
        report(interleave(turns, rounds=args.rounds, steps=STEPS), subject="loop")


if __name__ == "__main__":
    sys.exit(run_script("loops", main))
