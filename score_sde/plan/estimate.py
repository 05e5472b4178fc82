"""The plan of a run: a configuration, a mesh and a chip in; memory, time and scaling out."""

import dataclasses
import logging
import os

import jax

from score_sde.data import SourceInfo
from score_sde.distributed import check_batch, make_mesh, platform_of
from score_sde.errors import UserError, plural
from score_sde.experiment import Experiment
from score_sde.fields import Settings
from score_sde.plan.chips import Chip, find_chip
from score_sde.plan.program import (
    Activations,
    Line,
    Program,
    activations,
    count_flops,
    described_mesh,
    line_through,
    lowers_for,
    measure,
    num_parameters,
    state_bytes,
)
from score_sde.plan.roofline import Scaling, StepTime, scaling, step_time

log = logging.getLogger(__name__)

CLEARLY = 1.25  # required ratio of memory between the larger and the smaller batch
MOST = 512  # examples per device, at most, to reach that ratio
LARGEST = 128  # examples per device otherwise, where the configured batch is larger


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The needs and the speed of a run; bytes and FLOPs are per device."""

    chip: Chip  # one device, which is half a chip where the compiler splits chips in two
    devices: int
    fsdp: int
    compiled_for: str  # the platform of the compiler
    dtype: str  # of matrix products
    remat: bool
    parameters: int
    batch_size: int  # over all devices
    per_device: int
    accumulate: int
    flops: Line  # per device, as a function of its examples
    state: int
    memory: Line
    traffic: Line
    activations: Activations
    headroom: float  # share of the memory to keep free
    program: Program  # compiled for the larger of the two batches
    lowers: bool  # whether the step lowers for the chip's platform
    guided: bool = False  # whether a classifier guides the samples

    @property
    def step_flops(self) -> float:
        """Floating-point operations of a step on all devices."""
        return self.devices * self.flops.at(self.per_device)

    @property
    def usable(self) -> float:
        """Bytes of a device that may be used."""
        return (1.0 - self.headroom) * self.chip.memory

    @property
    def largest_batch(self) -> int:
        """The largest number of examples per device that fits, a multiple of ``training.accumulate``.

        Where memory does not grow with the batch, as for small networks in the tiles of a TPU, it is the largest
        compiled batch.
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
        """Scaling to more devices, at a constant batch per device."""
        size = 4.0 * self.parameters  # gradients and parameters are float32, whatever the type of products
        gradients = size * self.accumulate  # the gradient of every part is reduced
        return scaling(self.chip, self.time.alone, gradients=gradients, parameters=size, fsdp=self.fsdp)


def make_plan(config: Settings, info: SourceInfo) -> Plan:
    """Compile the training step for two batch sizes and derive its needs.

    ``config.plan`` names the chip and, if its compiler is installed, the topology.

    Raises:
        UserError: For values out of range, an unknown chip or topology, or a batch that cannot be split.
    """
    _expect_devices(config)
    if config.plan.topology:
        mesh, parts = described_mesh(find_chip(config.plan.chip), config.plan.topology, fsdp=config.mesh.fsdp)
    else:
        mesh, parts = make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp), 1
    if config.conditioning.classes and info.num_classes is not None:
        config = config.with_("model", num_classes=info.num_classes)
    experiment = Experiment.from_config(config, info.shape, info.num_grey_levels, mesh=mesh, purposes=("train",))
    accumulate, batch_size = config.training.accumulate, config.training.batch_size
    check_batch(mesh, batch_size, parts=accumulate)
    chip = find_chip(config.plan.chip).share(parts)
    sizes = compiled_sizes(batch_size // mesh.size, accumulate)
    small, large = measure_two(experiment, sizes, accumulate)
    return Plan(
        chip=chip,
        devices=mesh.size,
        fsdp=mesh.shape["fsdp"],
        compiled_for=f"{chip.name}:{config.plan.topology}" if config.plan.topology else platform_of(mesh),
        dtype=config.model.dtype,
        remat=config.model.remat,
        parameters=num_parameters(experiment),
        batch_size=batch_size,
        per_device=batch_size // mesh.size,
        accumulate=accumulate,
        flops=count_flops(config, info.shape, info.num_grey_levels, max(sizes[1] // accumulate, 2)),
        state=state_bytes(experiment),
        memory=line_through((small.examples, small.total), (large.examples, large.total)),
        traffic=line_through(
            (small.examples, accumulate * small.traffic), (large.examples, accumulate * large.traffic)
        ),
        activations=activations(config, info.shape, info.num_grey_levels),
        headroom=config.plan.headroom,
        program=large,
        guided=bool(config.conditioning.classifier),
        lowers=lowers_for(experiment, sizes[0] * mesh.size, chip.platform),
    )


def measure_two(experiment: Experiment, sizes: tuple[int, int], accumulate: int) -> tuple[Program, Program]:
    """Compile the training step for two batch sizes per device, the larger of which needs clearly more memory.

    If the compiler refuses a program that does not fit into memory, smaller batches are used. If the batch hardly
    changes the memory (compilers for TPUs pad arrays), larger ones are, since a line cannot be fitted to noise.

    The smaller of the initial sizes comes first; all sizes are multiples of ``accumulate``.

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
    """Two numbers of examples per device to compile for: the configured one, capped, and half of it.

    >>> compiled_sizes(64, 1), compiled_sizes(1, 1), compiled_sizes(1024, 4)
    ((32, 64), (1, 2), (64, 128))
    """
    parts = min(max(per_device // accumulate, 2), max(LARGEST // accumulate, 2))
    return parts // 2 * accumulate, parts * accumulate


def _expect_devices(config: Settings) -> None:
    """Split this CPU into as many devices as the mesh has, unless JAX is initialized already."""
    wanted = max(config.mesh.data, 1) * max(config.mesh.fsdp, 1)
    try:
        if config.plan.topology:
            # With libtpu installed and no TPU at hand, JAX would search for one for minutes.
            jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS") or "cpu")
        elif wanted > 1:
            jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError as error:
        log.debug("The devices are those that there are: %s", error)
