"""The time of a step at the peak rates of a chip, and its scaling to many chips.

A step computes for ``FLOPs / peak`` seconds, accesses memory for ``bytes / bandwidth`` seconds, and communicates.
Computation and memory access overlap, so the longer one counts. Communication overlaps fully at best and not at all at
worst; both times are reported. All rates are peaks, which programs do not reach.

The batch per device stays constant as devices are added, so only communication grows.
"""

from typing import NamedTuple

from score_sde.plan.chips import Chip

CHIP_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)


class StepTime(NamedTuple):
    """Seconds of one step on one device, at peak rates."""

    compute: float
    memory: float
    communication: float

    @property
    def alone(self) -> float:
        """Time without other devices.

        >>> StepTime(3.0, 2.0, 1.0).alone
        3.0
        """
        return max(self.compute, self.memory)

    @property
    def overlapped(self) -> float:
        """Time with communication hidden behind computation.

        >>> StepTime(3.0, 2.0, 1.0).overlapped, StepTime(3.0, 2.0, 4.0).overlapped
        (3.0, 4.0)
        """
        return max(self.alone, self.communication)

    @property
    def serial(self) -> float:
        """Time with communication after computation.

        >>> StepTime(3.0, 2.0, 1.0).serial
        4.0
        """
        return self.alone + self.communication

    @property
    def bound(self) -> str:
        """The bottleneck.

        >>> StepTime(3.0, 2.0, 1.0).bound, StepTime(1.0, 2.0, 1.0).bound
        ('compute', 'memory')
        """
        return max(zip(self, self._fields, strict=True))[1]


class Scaling(NamedTuple):
    """A step on a number of chips, at a constant batch per chip."""

    chips: int
    communication: float  # seconds
    efficiency_serial: float  # time of a chip alone over time among others, communication exposed
    efficiency_overlapped: float  # the same, communication hidden as far as possible


def step_time(chip: Chip, *, dtype: str, flops: float, traffic: float, sent: float = 0.0) -> StepTime:
    """The roofline of one device (Williams, Waterman and Patterson 2009).

    ``traffic`` are the bytes moved to and from the memory in a step, ``sent`` those over the links of the domain.

    >>> from score_sde.plan.chips import CHIPS
    >>> step_time(CHIPS["v5e"], dtype="float32", flops=197e12, traffic=81.9e9)
    StepTime(compute=1.0, memory=0.1, communication=0.0)
    """
    return StepTime(flops / chip.peak(dtype), traffic / chip.bandwidth, sent / chip.links)


def ring(size: int) -> float:
    """The share of an array sent by each of ``size`` devices to gather or reduce it in a ring: ``(n - 1) / n``.

    >>> ring(1), ring(4)
    (0.0, 0.75)
    """
    return (size - 1) / size


def all_reduce_seconds(chip: Chip, num_bytes: float, count: int) -> float:
    """Time of an all-reduce over ``count`` chips: reduce-scatter, then all-gather, in rings over all links of a chip.

    Within a domain of ``d`` chips, every chip sends ``2 (d - 1) / d`` of the bytes over its links. Between domains,
    each chip reduces its share ``1 / d`` over the network.

    >>> from score_sde.plan.chips import CHIPS
    >>> all_reduce_seconds(CHIPS["h100"], 450e9, 1), all_reduce_seconds(CHIPS["h100"], 450e9, 8)
    (0.0, 1.75)
    >>> all_reduce_seconds(CHIPS["h100"], 450e9, 16)  # 56.25 GB of it go over 50 GB/s, half out and half back
    2.875
    """
    inside = min(count, chip.domain)
    outside = count / inside
    seconds = 2.0 * ring(inside) * num_bytes / chip.links
    if outside > 1:
        seconds += 2.0 * (outside - 1) / outside * num_bytes / inside / network_rate(chip)
    return seconds


def network_rate(chip: Chip) -> float:
    """Bytes/s between domains; the link rate, as an upper bound, where none is stated."""
    return chip.links if chip.network is None else chip.network


def sharded_seconds(chip: Chip, *, gradients: float, parameters: float, count: int, fsdp: int) -> float:
    """Communication time of a training step over ``count`` chips, with the state split over groups of ``fsdp``.

    A group gathers the parameters and reduce-scatters the gradient; its parts are reduced between groups. A group
    consists of neighboring chips, in one domain where it fits. Groups of one chip all-reduce the gradient.

    >>> from score_sde.plan.chips import CHIPS
    >>> alike = {"gradients": 1e9, "parameters": 1e9}
    >>> sharded_seconds(CHIPS["v5e"], count=4, fsdp=1, **alike) == all_reduce_seconds(CHIPS["v5e"], 1e9, 4)
    True
    >>> round(1e3 * sharded_seconds(CHIPS["v5e"], count=4, fsdp=4, **alike), 2)  # the same bytes, 3/4 out and 3/4 back
    7.5
    """
    group = min(fsdp, count)
    if group == 1:
        return all_reduce_seconds(chip, gradients, count)
    rate = chip.links if group <= chip.domain else network_rate(chip)
    inside = ring(group) * (parameters + gradients) / rate
    across, within = count / group, min(max(chip.domain // group, 1), count // group)
    reduce = 2.0 * ring(within) * gradients / group / chip.links
    if across > within:
        share = gradients / group / within
        reduce += 2.0 * (across / within - 1) / (across / within) * share / network_rate(chip)
    return inside + reduce


def scaling(
    chip: Chip, alone: float, *, gradients: float, parameters: float, fsdp: int, counts: tuple[int, ...] = CHIP_COUNTS
) -> list[Scaling]:
    """Weak-scaling efficiency of training, ``t(1) / t(n)``: the batch grows with the number of chips.

    A step takes ``alone`` seconds on one chip; gradients and parameters are in bytes; ``fsdp`` chips share one state,
    and numbers of chips that it does not divide are left out.

    >>> from score_sde.plan.chips import CHIPS
    >>> found = scaling(CHIPS["v5e"], 1.0, gradients=1e11, parameters=1e11, fsdp=1, counts=(1, 2))
    >>> [(point.chips, round(point.efficiency_serial, 2), point.efficiency_overlapped) for point in found]
    [(1, 1.0, 1.0), (2, 0.67, 1.0)]
    """
    points = []
    for count in counts:
        if count % fsdp:
            continue
        sent = sharded_seconds(chip, gradients=gradients, parameters=parameters, count=count, fsdp=fsdp)
        points.append(Scaling(count, sent, alone / (alone + sent), alone / max(alone, sent)))
    return points
