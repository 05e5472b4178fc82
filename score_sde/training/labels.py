"""A check that a network reads the labels that it is trained on."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.distributed import options_once
from score_sde.errors import UserError
from score_sde.typing import Network, Params

_CHANGE = 1e-6  # least change of the output, relative to its largest value, that is no rounding


def check_reads_labels(network: Network, shape: tuple[int, ...]) -> None:
    """Refuse a network whose output is the same whatever its label.

    It is asked at random parameters: at fresh ones the last layer may be zero, and would hide its input.

    Raises:
        UserError: If no label changes the output.
    """
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), (1, *shape)))

    def outputs(key: Array) -> tuple[Array, Array]:
        x_key, key = jax.random.split(key)
        x = jnp.broadcast_to(jax.random.normal(x_key, shape), (2, *shape))
        given, none = network.apply(_random(key, params), x, jnp.full(2, 0.5), label=jnp.array([0, -1]))
        return given, none

    given, none = jax.device_get(jax.jit(outputs, compiler_options=options_once())(jax.random.key(0)))
    if not np.abs(given - none).max() > _CHANGE * np.abs(none).max():
        raise UserError(
            "The network ignores its label: its output is the same for class 0 and for none; expected one that reads "
            "`label`, or config.conditioning.classes=False."
        )


def _random(key: Array, shapes: Params) -> Params:
    """Parameters of these shapes about zero, large enough for every layer to matter."""
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(key, len(leaves))
    made = [0.3 * jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, made)
