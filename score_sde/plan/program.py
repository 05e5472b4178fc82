"""Analysis of a training step: operations, memory, activations and communication."""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from score_sde.distributed import (
    AXES,
    batch_sharding,
    compiler_options,
    jit,
    jit_step,
    options_once,
    platform_of,
    state_sharding,
)
from score_sde.errors import UserError
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.labels import Labeled
from score_sde.plan.chips import Chip
from score_sde.plan.collectives import Collective, collectives
from score_sde.typing import Params, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """The compiler's analysis of a program, per device.

    Arguments, results and temporaries are in memory at the same time; results that reuse the memory of arguments
    (``aliased``) count once.
    """

    examples: int  # batch size per device
    traffic: float  # bytes to and from the memory; loops count once
    arguments: int
    results: int
    aliased: int
    temporaries: int
    collectives: dict[str, Collective]

    @property
    def total(self) -> int:
        """Total bytes of memory."""
        return self.arguments + self.results - self.aliased + self.temporaries

    @property
    def sent(self) -> float:
        """Bytes sent by a device in a step."""
        return sum((collective.sent for collective in self.collectives.values()), 0.0)


class Line(NamedTuple):
    """A quantity that grows with the batch: ``fixed + per_example n``."""

    fixed: float
    per_example: float

    def at(self, count: float | int) -> float:
        """Its value for a number of examples.

        >>> Line(fixed=10.0, per_example=2.0).at(5)
        20.0
        """
        return self.fixed + self.per_example * count

    def largest(self, bound: float | int) -> int:
        """The largest number of examples within a bound; 0 if none.

        >>> Line(fixed=10.0, per_example=2.0).largest(20.9), Line(fixed=10.0, per_example=2.0).largest(9.0)
        (5, 0)
        """
        return max(math.floor((bound - self.fixed) / self.per_example), 0)


def line_through(first: tuple[int, float | int], second: tuple[int, float | int]) -> Line:
    """The line through two measured points ``(examples, value)``.

    >>> line_through((2, 14.0), (4, 18.0))
    Line(fixed=10.0, per_example=2.0)
    """
    slope = (second[1] - first[1]) / (second[0] - first[0])
    return Line(float(first[1] - slope * first[0]), float(slope))


def size(num_bytes: float | int) -> str:
    """A number of bytes in a readable form.

    >>> size(3 * 2**20), size(2**31)
    ('3.0 MiB', '2.00 GiB')
    """
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def train_program(experiment: Experiment, batch_size: int) -> tuple[Any, tuple[Any, ...]]:
    """The jitted training step of the training loop, and the shapes of its arguments."""
    state = experiment.abstract_state()
    step = jit_step(experiment.train_step, experiment.mesh, state_sharding(experiment.mesh, state))
    dtype = np.float32 if experiment.quantization.num_grey_levels is None else np.uint8
    place = batch_sharding(experiment.mesh)
    return step, (state, _batch(experiment, batch_size, dtype, sharding=place))


def _batch(experiment: Experiment, batch_size: int, dtype: Any, **place: Any) -> Any:
    """The shapes of a batch, with labels if the run has classes."""
    data = jax.ShapeDtypeStruct((batch_size, *experiment.event_shape), dtype, **place)
    label = jax.ShapeDtypeStruct((batch_size,), np.int32, **place)
    return Labeled(data, label) if experiment.num_classes else data


def sample_program(experiment: Experiment, batch_size: int) -> tuple[Any, tuple[Any, ...]]:
    """The jitted sampler of a run with a fixed-step solver, and the shapes of its arguments.

    Raises:
        UserError: If the number of its steps is not fixed.
    """
    if experiment.sampler.num_evals is None:
        raise UserError(
            f"How long sampling with {experiment.sampler.name} takes depends on the samples; name a "
            "--config.sampling.predictor with a fixed number of steps."
        )
    whole = state_sharding(experiment.mesh, experiment.abstract_state().params, fsdp=False)
    run = jit(
        lambda params, key: experiment.sampler(params, key, (batch_size, *experiment.event_shape), 0)[0],
        platform=platform_of(experiment.mesh),
        in_shardings=(whole, None),
        out_shardings=batch_sharding(experiment.mesh),
    )
    return run, (experiment.abstract_state().params, jax.eval_shape(lambda: jax.random.key(0)))


def measure(experiment: Experiment, per_device: int) -> Program:
    """Compile the training step for a number of examples per device, and read the compiler's analysis."""
    step, arguments = train_program(experiment, per_device * experiment.mesh.size)
    platform = platform_of(experiment.mesh)
    # The program is not run. The last stage of the compiler takes most of the time and changes none of the numbers.
    options = {**compiler_options(platform), **options_once(platform)}
    parts = experiment.settings.training.accumulate  # in a loop, whose body the compiler counts once
    return read(step.lower(*arguments).compile(options), per_device, experiment.mesh.size, parts)


def read(compiled: jax.stages.Compiled, per_device: int, devices: int, turns: int = 1) -> Program:
    """The cost and memory analysis of a compiled program; ``turns`` is the number of iterations of its loops."""
    memory: Any = compiled.memory_analysis()
    cost: Any = compiled.cost_analysis()
    return Program(
        examples=per_device,
        traffic=float((cost or {}).get("bytes accessed", 0.0)),
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        collectives=collectives(compiled.as_text() or "", devices, turns=turns),
    )


def count_flops(config: Settings, shape: tuple[int, ...], levels: int | None, per_part: int) -> Line:
    """Floating-point operations of a training step, counted in the program before it is optimized.

    The count covers the model and its gradient as written, including recomputation by ``model.remat``, and does not
    depend on the device. It is exactly linear in the batch, with the optimizer as the constant, so two batch sizes give
    the line.

    The larger batch has ``per_part`` examples, at least 2.
    """
    experiment = undivided(config, shape, levels, **{"training.batch_size": per_part})

    def count(examples: int) -> tuple[int, float]:
        step, arguments = train_program(experiment, examples)
        return examples, flops_of(step, *arguments)

    return line_through(count(max(per_part // 2, 1)), count(per_part))


def undivided(config: Settings, shape: tuple[int, ...], levels: int | None, **changes: Any) -> Experiment:
    """The run with changed fields, on one device and without accumulation, whose loop body would count only once."""
    whole = config.with_fields({"training.accumulate": 1, **changes})
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), AXES, axis_types=(AxisType.Auto,) * 2)
    return Experiment.from_config(whole, shape, levels, mesh=mesh, purposes=("train",))


class Activations(NamedTuple):
    """Bytes per example before compilation; the compiler may keep less."""

    stored: float  # with ``model.remat=False``
    rematerialized: float  # with ``model.remat=True``; the same for networks without this option


def activations(config: Settings, shape: tuple[int, ...], levels: int | None) -> Activations:
    """Activation memory per example of a training step, with and without rematerialization; nothing is compiled."""

    def per_example(remat: bool) -> float:
        experiment = undivided(config, shape, levels, **{"model.remat": remat})
        params = experiment.abstract_state().params

        def kept(examples: int) -> tuple[int, int]:
            batch = _batch(experiment, examples, jnp.float32)

            def loss(params: Params, batch: Any) -> Scalar:
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


def flops_of(function: Any, *arguments: Any) -> float:
    """Floating-point operations of a jitted function, before it is optimized.

    >>> import jax.numpy as jnp
    >>> square = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    >>> flops_of(jax.jit(jnp.dot), square, square)  # 2 n^3
    1024.0
    """
    return float(function.lower(*arguments).cost_analysis()["flops"])


def num_parameters(experiment: Experiment) -> int:
    """The number of trained parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(experiment.abstract_state().params))


def state_bytes(experiment: Experiment) -> int:
    """Bytes of the training state on one device: its shards of parameters, averages and moments."""
    leaves = jax.tree.leaves(experiment.abstract_state())
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def lowers_for(experiment: Experiment, batch_size: int, platform: str) -> bool:
    """Whether the training step lowers for another platform (tpu, cuda), which need not be available."""
    step, arguments = train_program(experiment, batch_size)
    lowered = step.trace(*arguments).lower(lowering_platforms=(platform,))
    return bool(lowered.as_text())


def described_mesh(chip: Chip, topology: str, *, fsdp: int) -> tuple[Mesh, int]:
    """A mesh of TPUs for ahead-of-time compilation, without the hardware, and the number of devices per chip.

    The topology is the number of chips in each direction, such as ``2x2`` or, for v4 and v5p, ``2x2x1``; 0 splits the
    state over all devices.

    Raises:
        UserError: If the compiler (``pip install 'score_sde[tpu]'``) is not installed, does not know the topology, or
            ``fsdp`` does not divide it.
    """
    from jax.experimental import topologies

    if chip.platform != "tpu":
        raise UserError(
            f"config.plan.topology is {topology} and config.plan.chip is {chip.name}; expected a TPU, or ''."
        )
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else libtpu waits for a cloud metadata server
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=f"{chip.name}:{topology}").devices
    except RuntimeError as error:
        raise UserError(
            f"There is no compiler for {chip.name}:{topology} ({str(error).splitlines()[0]}). It comes with "
            "pip install 'jax[tpu]'; topologies are such as 2x2 (v5e, v6e) and 2x2x1 (v4, v5p). With "
            "--config.plan.topology='' none is needed."
        ) from error
    jax.config.update("jax_enable_compilation_cache", False)  # programs for absent devices cannot be cached
    groups = fsdp or len(found)
    if len(found) % groups:
        raise UserError(f"config.mesh.fsdp is {fsdp}; expected a number that divides the {len(found)} devices.")
    grid = np.array(found).reshape(-1, groups)
    chips = math.prod(int(size) for size in topology.split("x"))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 2), len(found) // chips
