"""The training state: everything a run needs to continue, and the content of its checkpoints."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_sde.typing import Network, Params, component


@component
class TrainState:
    """Step count, parameters and their moving average, optimizer state, and the root key.

    No key travels with the steps: step ``n`` draws from ``fold_in(key, n)``, so a resumed run repeats nothing and
    skips nothing. The fields are annotated loosely, because a state may also hold shapes or shardings of its arrays.
    """

    step: Any  # int32 scalar
    params: Params
    ema_params: Params
    opt_state: Any
    key: Any  # a typed key


def create_state(network: Network, tx: optax.GradientTransformation, seed: int, shape: tuple[int, ...]) -> TrainState:
    """A fresh state for inputs of ``shape`` (batch axis included)."""
    return state_of(network.init(jax.random.split(jax.random.key(seed))[0], shape), tx, seed)


def state_of(params: Params, tx: optax.GradientTransformation, seed: int) -> TrainState:
    """A state at step 0 with given parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=tx.init(params),
        key=jax.random.split(jax.random.key(seed))[1],
    )
