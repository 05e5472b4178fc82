"""Devices: the mesh, where arrays live on it, and the one jit of the training step."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from score_sde.errors import UserError


def make_mesh(batch_size: int) -> Mesh:
    """All devices on one ``data`` axis.

    Raises:
        UserError: If the batch size is not a multiple of the number of devices.
    """
    count = jax.device_count()
    if batch_size % count:
        raise UserError(
            f"The batch size is {batch_size} and there are {count} devices; "
            f"expected a multiple of {count}, such as {max(batch_size // count, 1) * count}."
        )
    # Flax networks need automatic axes: explicit ones fail inside its convolutions and reshapes.
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, leading: int = 0) -> NamedSharding:
    """Split over the batch axis, which comes after ``leading`` unsplit axes."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, "data"))


def global_batch(mesh: Mesh, local: np.ndarray, *, leading: int = 0) -> Array:
    """A batch split over all devices, from the part that this process has loaded."""
    return jax.make_array_from_process_local_data(batch_sharding(mesh, leading=leading), local)


def jit_step(step: Callable[..., Any], mesh: Mesh, *, leading: int = 0) -> Callable[..., Any]:
    """Compile a training step over the mesh: state replicated and donated, batch split."""
    state = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(state, batch_sharding(mesh, leading=leading)),
        out_shardings=(state, state),
        donate_argnums=0,
    )
