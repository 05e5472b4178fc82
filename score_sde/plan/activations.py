"""What the forward pass of a loss keeps for its backward pass: the memory that rematerialization trades for time."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from score_sde.fields import Settings
from score_sde.plan.program import line_through, undivided
from score_sde.typing import Batch, Params, Scalar


class Activations(NamedTuple):
    """Bytes per example, as JAX hands them to the compiler, which may keep less."""

    stored: float  # with ``model.remat=False``
    rematerialised: float  # with ``model.remat=True``; the same for networks that have no such option


def activations(config: Settings, shape: tuple[int, ...], levels: int | None) -> Activations:
    """What a training step keeps of every example with and without rematerialization; nothing is compiled.

    Args:
        config: The configuration.
        shape: Of an example.
        levels: Grey levels.
    """

    def per_example(remat: bool) -> float:
        experiment = undivided(config, shape, levels, **{"model.remat": remat})
        params = experiment.abstract_state().params

        def kept(examples: int) -> tuple[int, int]:
            batch = jax.ShapeDtypeStruct((examples, *experiment.event_shape), jnp.float32)

            def loss(params: Params, batch: Batch) -> Scalar:
                return jnp.mean(experiment.loss(params, jax.random.key(0), batch, train=True))

            return examples, kept_bytes(loss, params, batch)

        return line_through(kept(2), kept(4)).per_example

    return Activations(per_example(False), per_example(True))


def kept_bytes(loss: Callable[..., Any], params: Any, *arguments: Any) -> int:
    """Bytes of all arrays that the gradient of a loss by its parameters needs from the forward pass.

    >>> x = jax.ShapeDtypeStruct((8,), jnp.float32)
    >>> kept_bytes(lambda p, x: jnp.sum(jnp.sin(p * x)), jax.ShapeDtypeStruct((), jnp.float32), x)  # x and cos(p x)
    64
    """
    # They are the leaves of the function that is the backward pass.
    backward = jax.eval_shape(lambda params, *rest: jax.vjp(lambda p: loss(p, *rest), params)[1], params, *arguments)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))
