"""Devices: the mesh, where arrays live on it, and the jit that every program of a run goes through."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from score_sde.errors import UserError

# What XLA gives to the YNN library by default, less the convolutions, which are slow there, and the reductions, which
# are wrong: two expm1 or log1p of different arguments come out as one in a sum over 4096 rows or more
# (jaxlib 0.10.2).
CPU_OPTIONS: dict[str, bool | int | str] = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
}


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


@functools.cache
def compiler_options() -> dict[str, bool | int | str]:
    """Options for XLA that make networks faster on this backend: none but on a CPU.

    There XLA hands convolutions to the YNN library, whose kernels are up to three times slower than XLA's own for the
    sizes of these networks, and reductions, which it may get wrong. An XLA that does not know the option is left alone.

    >>> isinstance(jax.jit(lambda x: x + 1, compiler_options=compiler_options())(1), jax.Array)
    True
    """
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=CPU_OPTIONS)(0.0)
    except jax.errors.JaxRuntimeError:
        return {}
    return CPU_OPTIONS


def jit(function: Callable[..., Any], **keywords: Any) -> Callable[..., Any]:
    """``jax.jit`` with :func:`compiler_options`."""
    return jax.jit(function, compiler_options=compiler_options(), **keywords)


def jit_step(
    step: Callable[..., Any], mesh: Mesh, *, leading: int = 0, constants: tuple[Any, ...] = ()
) -> Callable[..., Any]:
    """Compile a training step over the mesh: state replicated and donated, batch split.

    ``constants`` are what the step takes after state and batch, the same at every call and on every device. They are
    arguments of the program, not literals in it.
    """
    state = replicated(mesh)
    compiled = jit(
        step,
        in_shardings=(state, batch_sharding(mesh, leading=leading), *(state for _ in constants)),
        out_shardings=(state, state),
        donate_argnums=0,
    )
    if not constants:
        return compiled
    return lambda state, batch: compiled(state, batch, *constants)
