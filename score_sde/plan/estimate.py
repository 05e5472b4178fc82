"""The plan of a run: a configuration, a mesh and a chip in; memory, time, scaling and advice out."""

import dataclasses
import logging
import os

import jax
from jax.sharding import Mesh

from score_sde.data import SourceInfo
from score_sde.distributed import check_batch, make_mesh, platform_of
from score_sde.errors import UserError, plural
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.plan.activations import Activations, activations
from score_sde.plan.advice import Situation, advise
from score_sde.plan.chips import Chip, find_chip
from score_sde.plan.program import (
    Line,
    Program,
    count_flops,
    described_mesh,
    line_through,
    loop_factor,
    lowers_for,
    measure,
    num_parameters,
    state_bytes,
)
from score_sde.plan.roofline import Scaling, StepTime, scaling, step_time

log = logging.getLogger(__name__)

CLEARLY = 1.25  # times the memory of the smaller of two batches that the larger one is to need
MOST = 512  # examples per device that a program is compiled for to that end
LARGEST = 128  # otherwise, where the configured batch of a device is larger


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run needs of every device, and how fast it can be; bytes and FLOPs are those of one device."""

    chip: Chip  # as one device, which is half of a chip where the compiler says so
    devices: int
    fsdp: int
    compiled_for: str  # the platform whose compiler was asked
    dtype: str  # of products of matrices
    parameters: int
    batch_size: int  # of all devices
    per_device: int
    accumulate: int
    flops: Line  # of one device, by its examples
    state: int
    memory: Line
    traffic: Line
    activations: Activations
    headroom: float  # share of the memory that is to stay free
    program: Program  # that of the larger batch which was compiled
    lowers: bool  # for the platform of the chip

    @property
    def step_flops(self) -> float:
        """Floating-point operations of a step on all devices."""
        return self.devices * self.flops.at(self.per_device)

    @property
    def usable(self) -> float:
        """Bytes of a device that may be filled."""
        return (1.0 - self.headroom) * self.chip.memory

    @property
    def largest_batch(self) -> int:
        """The most examples per device that fit, a multiple of ``training.accumulate``.

        Where the batch made no difference to the memory, as for small networks in the tiles of a TPU, it is the largest
        one that was compiled.
        """
        if self.memory.per_example <= 0.0:
            return self.program.examples if self.program.total <= self.usable else 0
        return self.memory.largest(self.usable) // self.accumulate * self.accumulate

    @property
    def time(self) -> StepTime:
        """The roofline of a step of the configured batch."""
        flops, traffic = self.flops.at(self.per_device), self.traffic.at(self.per_device)
        return step_time(self.chip, dtype=self.dtype, flops=flops, traffic=traffic, sent=self.program.sent)

    @property
    def scaling(self) -> list[Scaling]:
        """What becomes of it on more devices, each with its batch."""
        size = 4.0 * self.parameters  # gradients and parameters are float32 whatever the products are
        gradients = size * self.accumulate  # that of every part is reduced
        return scaling(self.chip, self.time.alone, gradients=gradients, parameters=size, fsdp=self.fsdp)


def make_plan(config: Settings, info: SourceInfo) -> Plan:
    """Compile the training step for two sizes of the batch and find out what it needs.

    Args:
        config: The configuration; ``config.plan`` names the chip and, if a compiler for it is there, how many.
        info: Shape and grey levels of the data.

    Raises:
        UserError: For values out of range, a chip or topology that is not known, or a batch that cannot be split.
    """
    _expect_devices(config)
    mesh, parts = _mesh_of(config)
    experiment = Experiment.from_config(config, info.shape, info.num_grey_levels, mesh=mesh, purposes=("train",))
    accumulate, batch_size = config.training.accumulate, config.training.batch_size
    check_batch(mesh, batch_size, parts=accumulate)
    chip = find_chip(config.plan.chip).share(parts)
    sizes = compiled_sizes(batch_size // mesh.size, accumulate)
    small, large = measure_two(experiment, sizes, accumulate)
    factor = loop_factor(experiment)
    return Plan(
        chip=chip,
        devices=mesh.size,
        fsdp=mesh.shape["fsdp"],
        compiled_for=f"{chip.name}:{config.plan.topology}" if config.plan.topology else platform_of(mesh),
        dtype=config.model.dtype,
        parameters=num_parameters(experiment),
        batch_size=batch_size,
        per_device=batch_size // mesh.size,
        accumulate=accumulate,
        flops=count_flops(config, info.shape, info.num_grey_levels, max(sizes[1] // accumulate, 2)),
        state=state_bytes(experiment),
        memory=line_through((small.examples, small.total), (large.examples, large.total)),
        traffic=line_through((small.examples, factor * small.traffic), (large.examples, factor * large.traffic)),
        activations=activations(config, info.shape, info.num_grey_levels),
        headroom=config.plan.headroom,
        program=large,
        lowers=lowers_for(experiment, sizes[0] * mesh.size, chip.platform),
    )


def measure_two(experiment: Experiment, sizes: tuple[int, int], accumulate: int) -> tuple[Program, Program]:
    """The training step for two sizes of the batch of a device, of which the larger one needs clearly more memory.

    A compiler that knows the size of the memory refuses what does not fit; smaller batches are taken then. Where the
    batch hardly matters yet (compilers for TPUs pad arrays), larger ones are, for there is no line through noise.

    Args:
        experiment: The run.
        sizes: The two sizes to start from, the smaller one first.
        accumulate: What they are to be multiples of.

    Raises:
        UserError: If not even the smallest batch fits.
    """
    low, high = sizes
    small, large = _measured(experiment, low), _measured(experiment, high)
    while small is None or large is None:
        if low <= accumulate:
            raise UserError(
                f"The compiler finds no room for {low} {plural(low, 'example')} per device; set config.mesh.fsdp "
                "to split the state, config.model.remat=True, or name a chip with more memory."
            )
        low, high = max(low // 2 // accumulate, 1) * accumulate, low
        small, large = _measured(experiment, low), small
    while large.total < CLEARLY * small.total and large.examples < MOST:
        larger = _measured(experiment, 4 * large.examples)
        if larger is None:
            break
        small, large = large, larger
    return small, large


def _measured(experiment: Experiment, size: int) -> Program | None:
    log.info("Compiling the training step for %d %s per device.", size, plural(size, "example"))
    try:
        return measure(experiment, size)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def compiled_sizes(per_device: int, accumulate: int) -> tuple[int, int]:
    """Two numbers of examples per device to compile for: the configured one, if it is not large, and half of it.

    >>> compiled_sizes(64, 1), compiled_sizes(1, 1), compiled_sizes(1024, 4)
    ((32, 64), (1, 2), (64, 128))
    """
    parts = min(max(per_device // accumulate, 2), max(LARGEST // accumulate, 2))
    return parts // 2 * accumulate, parts * accumulate


def advice_for(plan: Plan, config: Settings) -> list[str]:
    """What to change, if anything."""
    situation = Situation(
        memory=plan.memory,
        usable=plan.usable,
        per_device=plan.per_device,
        largest=plan.largest_batch,
        accumulate=plan.accumulate,
        state=plan.state,
        fsdp=plan.fsdp,
        devices=plan.devices,
        remat=config.model.remat,
        dtype=plan.dtype,
        chip=plan.chip,
        time=plan.time,
        scaling=plan.scaling,
    )
    return advise(situation)


def _mesh_of(config: Settings) -> tuple[Mesh, int]:
    if config.plan.topology:
        return described_mesh(find_chip(config.plan.chip), config.plan.topology, fsdp=config.mesh.fsdp)
    return make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp), 1


def _expect_devices(config: Settings) -> None:
    """Make as many devices of this CPU as the mesh asks for, unless JAX has counted them already."""
    wanted = max(config.mesh.data, 1) * max(config.mesh.fsdp, 1)
    try:
        if config.plan.topology:
            # With its compiler installed and no TPU at hand, JAX would look for one for minutes.
            jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS") or "cpu")
        elif wanted > 1:
            jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError as error:
        log.debug("The devices are those that there are: %s", error)
