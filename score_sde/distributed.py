"""Devices: the mesh, the sharding of arrays over it, and the jit of every program of a run."""

import contextlib
import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from score_sde.compiler import KEPT, OPTION, protect
from score_sde.errors import UserError, plural

AXES = ("data", "fsdp")
MIN_SPLIT = 4096  # numbers in the smallest array worth a separate message

T = TypeVar("T")
_MOST_KEPT = 12  # programs, of some runs with a few each
_kept: list[OrderedDict[Hashable, Any]] = []  # what is kept in the blocks that are open

CPU_OPTIONS: dict[str, bool | int | str] = {OPTION: KEPT}


def make_mesh(*, data: int = 0, fsdp: int = 1) -> Mesh:
    """All devices in a grid of ``data`` by ``fsdp``.

    Both axes share the batch; along ``fsdp`` the training state is split as well, instead of being the same on every
    device (:func:`state_sharding`).

    0 for one of them takes as many devices as there are.

    Raises:
        UserError: If the devices do not fill such a grid.

    >>> mesh = make_mesh()
    >>> mesh.axis_names, mesh.shape["fsdp"], mesh.size == jax.device_count()
    (('data', 'fsdp'), 1, True)
    """
    count = jax.device_count()
    known = max(data, 1) * max(fsdp, 1)
    if min(data, fsdp) < 0 or (data == 0 and fsdp == 0) or count % known or (data and fsdp and known != count):
        raise UserError(
            f"config.mesh is data={data}, fsdp={fsdp} and there {plural(count, 'is', 'are')} {count} "
            f"{plural(count, 'device')}; expected two numbers whose product is {count}, or 0 for one of them to have "
            "it chosen."
        )
    shape = (data or count // known, fsdp or count // known)
    # Flax networks need automatic axes: explicit ones fail inside its convolutions and reshapes.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 2)


def check_batch(mesh: Mesh, batch_size: int, *, parts: int = 1) -> None:
    """Refuse a batch that cannot be split evenly over the devices, ``parts`` at a time."""
    unit = mesh.size * parts
    if batch_size % unit:
        taken = f"{mesh.size} {plural(mesh.size, 'device')}"
        if parts > 1:
            taken += f" that {plural(mesh.size, 'takes', 'take')} it in {parts} parts"
        raise UserError(
            f"The batch size is {batch_size} and there {plural(mesh.size, 'is', 'are')} {taken}; "
            f"expected a multiple of {unit}, such as {max(batch_size // unit, 1) * unit}."
        )


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, leading: int = 0) -> NamedSharding:
    """Split over the batch axis, which comes after ``leading`` unsplit axes."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, AXES))


def state_sharding(mesh: Mesh | AbstractMesh, state: Any, *, fsdp: bool = True) -> Any:
    """The sharding of a training state's arrays, or their shapes: split along ``fsdp`` if they are large.

    The rule looks at shapes only, so that parameters, their averages and the moments of the optimizer, which have the
    same shapes, are split alike: the longest axis that ``fsdp`` divides, of arrays with at least ``MIN_SPLIT`` numbers.
    With ``fsdp=False`` nothing is split.

    >>> mesh = make_mesh(data=1, fsdp=0)
    >>> shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((3, 3, 64, 256), (256,))]
    >>> [tuple(sharding.spec) for sharding in state_sharding(mesh, shapes)]
    [(None, None, None, 'fsdp'), ()]
    """
    count = mesh.shape["fsdp"] if fsdp else 1

    def place(leaf: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % count == 0]
        if count == 1 or not axes or math.prod(leaf.shape) < MIN_SPLIT:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: (leaf.shape[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, "fsdp"))

    return jax.tree.map(place, state)


def with_sharding(state: Any, sharding: Any) -> Any:
    """Shapes and types of a state with the shardings of its arrays, for a restore or a compilation."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state, sharding
    )


def global_batch(mesh: Mesh, local: Any, *, leading: int = 0) -> Array:
    """A batch split over all devices, from the part that this process has loaded."""
    return jax.make_array_from_process_local_data(batch_sharding(mesh, leading=leading), local)


def shared_size(mesh: Mesh, size: int) -> int:
    """The smallest multiple of the number of devices from ``size`` on.

    >>> shared_size(make_mesh(), 1) == jax.device_count()
    True
    """
    return -(-size // mesh.size) * mesh.size


def spread(mesh: Mesh, batch: np.ndarray) -> Array:
    """A batch that every process has as a whole, split over all devices.

    >>> tuple(spread(make_mesh(), np.zeros((2 * jax.device_count(), 3))).sharding.spec)
    (('data', 'fsdp'),)
    """
    return jax.make_array_from_callback(batch.shape, batch_sharding(mesh), lambda index: batch[index])


def everywhere(mesh: Mesh, tree: Any) -> Any:
    """Arrays that may be split over devices, whole on every device."""
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)


def gathered(tree: Any) -> Any:
    """Arrays that are split over devices, on every host as NumPy arrays."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def platform_of(mesh: Mesh) -> str:
    """The kind of the mesh's devices, which need not be at hand: a mesh of a described TPU is valid too.

    >>> platform_of(make_mesh()) == jax.default_backend()
    True
    """
    return mesh.devices.flat[0].platform


def keep_pace(mesh: Mesh, results: Any) -> None:
    """Wait for the results of a program where the next one must not be queued behind it.

    XLA's CPU devices of one process share its threads. Of several programs in a queue a later one can hold the thread
    that an earlier one needs to meet the other device, and both wait for good.

    >>> keep_pace(make_mesh(), jax.numpy.ones(3))
    """
    if platform_of(mesh) == "cpu" and len(mesh.local_devices) > 1:
        jax.block_until_ready(results)


@functools.cache
def compiler_options(platform: str | None = None) -> dict[str, bool | int | str]:
    """Options for XLA that make networks faster and sums right on a platform, by default this backend's.

    On a CPU XLA gives convolutions to the YNN library, whose kernels are up to three times slower than XLA's own for
    the sizes of these networks, and sums, some of which are wrong there. ``XLA_FLAGS`` keeps them from it where
    ``import score_sde`` could set it (:mod:`score_sde.compiler`). Programs of other processes get the option one by
    one, since an XLA that does not know it then only refuses the program.

    >>> isinstance(jax.jit(lambda x: x + 1, compiler_options=compiler_options())(1), jax.Array)
    True
    """
    if protect() or (platform or jax.default_backend()) != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=CPU_OPTIONS)(0.0)
    except jax.errors.JaxRuntimeError:
        return {}
    return CPU_OPTIONS


def options_once(platform: str | None = None) -> dict[str, bool | int | str]:
    """Options for a program that runs once: on a CPU, optimizing one takes several times longer than running it.

    >>> bool(options_once("tpu"))
    False
    """
    return {"xla_backend_optimization_level": 0} if (platform or jax.default_backend()) == "cpu" else {}


def jit(function: Callable[..., Any], *, platform: str | None = None, **keywords: Any) -> Callable[..., Any]:
    """``jax.jit`` with the :func:`compiler_options` of a platform, by default this backend's."""
    return jax.jit(function, compiler_options=compiler_options(platform), **keywords)


@contextlib.contextmanager
def programs_kept() -> Iterator[None]:
    """A block in which :func:`kept` makes equal programs once: for many runs in one process."""
    _kept.append(OrderedDict())
    try:
        yield
    finally:
        _kept.pop()


def kept(key: Hashable, make: Callable[[], T]) -> T:
    """The result of a function, or what it gave before for an equal key in this block of :func:`programs_kept`.

    The last few are kept. What the key says decides the result entirely.

    >>> with programs_kept():
    ...     kept("a", object) is kept("a", object)
    True
    >>> kept("a", object) is kept("a", object)
    False
    """
    if not _kept:
        return make()
    known = _kept[-1]
    if key not in known:
        known[key] = make()
    known.move_to_end(key)
    while len(known) > _MOST_KEPT:
        known.popitem(last=False)
    return known[key]


def jit_step(
    step: Callable[..., Any], mesh: Mesh, sharding: Any, *, leading: int = 0, constants: tuple[Any, ...] = ()
) -> Callable[..., Any]:
    """Compile a training step over the mesh: the state, placed by ``sharding``, is donated; the batch is split.

    ``constants`` are the arguments of the step after state and batch, the same at every call and on every device. They
    are arguments of the program, not literals in it.
    """
    same = replicated(mesh)
    compiled = jit(
        step,
        platform=platform_of(mesh),
        in_shardings=(sharding, batch_sharding(mesh, leading=leading), *(same for _ in constants)),
        out_shardings=(sharding, same),
        donate_argnums=0,
    )
    if not constants:
        return compiled
    return lambda state, batch: compiled(state, batch, *constants)
