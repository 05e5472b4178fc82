"""A small training state and runs of it, for tests of what is kept on disk."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from score_sde.checkpointing import CheckpointWriter
from score_sde.state import state_of

CONFIG = {"seed": 0, "optim": {"lr": 1e-3, "widths": [1, 2]}}


def state_at(step, scale=1.0):
    """A state whose numbers tell its step."""
    params = {"dense": {"kernel": scale * step + jnp.arange(300.0).reshape(20, 15), "bias": jnp.ones(15) * step}}
    state = state_of(params, optax.adam(1e-3), 0)
    return dataclasses.replace(state, step=jnp.asarray(step, jnp.int32))


def like():
    return jax.eval_shape(lambda: state_at(0))


def save(workdir, *steps, **options):
    with CheckpointWriter(workdir, **options) as writer:
        for step in steps:
            writer.save(state_at(step), {"position": step}, CONFIG, window={"loss": [0.5, step + 0.1]})
    return workdir


def bits(tree):
    """Every array as bytes, under its path."""

    def raw(leaf):
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if key else leaf)
        return array.dtype.str, array.shape, array.tobytes()

    return {jax.tree_util.keystr(path): raw(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def files(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())
