"""Activation memory: arrays kept from the forward pass for the backward pass, which rematerialization avoids."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from score_sde.fields import Settings
from score_sde.plan.program import line_through, undivided
from score_sde.typing import Batch, Params, Scalar


class Activations(NamedTuple):
    """Bytes per example before compilation; the compiler may keep less."""

    stored: float  # with ``model.remat=False``
    rematerialised: float  # with ``model.remat=True``; the same for networks without this option


def activations(config: Settings, shape: tuple[int, ...], levels: int | None) -> Activations:
    """Activation memory per example of a training step, with and without rematerialization; nothing is compiled.

    Args:
        config: The configuration.
        shape: Shape of an example.
        levels: Number of gray levels.
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
    """Bytes of all arrays from the forward pass that the gradient with respect to the parameters needs.

    >>> x = jax.ShapeDtypeStruct((8,), jnp.float32)
    >>> kept_bytes(lambda p, x: jnp.sum(jnp.sin(p * x)), jax.ShapeDtypeStruct((), jnp.float32), x)  # x and cos(p x)
    64
    """
    # They are the leaves of the backward function.
    backward = jax.eval_shape(lambda params, *rest: jax.vjp(lambda p: loss(p, *rest), params)[1], params, *arguments)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))
